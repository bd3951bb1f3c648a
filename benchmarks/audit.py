"""The audit chain: checking a long one as a whole command, and what an action on record costs.

The bounds are the least that any check and any record needs: reading the same rows and sealing each once in a bare
loop; two durable commits to the same database. `--json` prints the figures alone.
"""

from __future__ import annotations

import argparse
import hmac
import json
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import insert, text, update

from llmops.core.ids import new_id
from llmops.core.names import Name
from llmops.core.sql import Sql, open_sql
from llmops.core.state import StateConfig
from llmops.registry import Candidate, Evidence, Kind, PromptText, Registry, evidence
from llmops.registry.audit import Audit, entries, tables
from llmops.registry.audit.anchor import Mark
from llmops.registry.audit.keyfile import load_key
from llmops.registry.evidence import Method, Subject

BATCH = 20_000
RECORDS = 10_000


def seed(state: StateConfig, count: int) -> None:
    """Write a chain of `count` rows as actions leave them, every other outcome with one of `RECORDS` evidence ids."""
    with Registry(state) as registry:
        version = registry.register(Candidate(Kind.PROMPT, Name.parse("dev.bench.prompt"), PromptText("Answer.")))
        subject = Subject.of(version)
    with open_sql(state) as sql:
        with sql.begin() as connection:
            method = Method(name="bench", version="1")
            records = [
                Evidence(asset=subject, gate="bench", verdict="pass", method=method, actor="bench", looks=number)
                for number in range(RECORDS)
            ]
            proofs = [evidence.save(connection, record) for record in records]
        audit = Audit(sql, state)
        mark = audit.ends()
        with sql.begin() as connection:
            rows = []
            for row in _rows(load_key(state), mark, proofs, count - mark.seq):
                rows.append(row)
                if len(rows) == BATCH:
                    connection.execute(insert(tables.log), rows)
                    rows = []
            connection.execute(insert(tables.log), rows) if rows else None
            connection.execute(update(tables.head).values(seq=row["seq"], hash=row["hash"]))
        audit._anchor.advance(Mark(row["seq"], row["hash"]))


def _rows(key: bytes, mark: Mark, proofs: list[str], count: int) -> Iterator[dict[str, Any]]:
    common = dict.fromkeys(entries.COLUMNS) | {
        "version": entries.VERSION,
        "audit_level": "WORKSPACE_LEVEL",
        "account_id": entries.fingerprint(key),
        "org_id": "dev",
        "user_agent": "llmops/0.1.0 (bench@machine)",
        "session_id": new_id(),
        "actor": "key:0123456789abcdef",
        "actor_kind": "key",
        "actor_groups": '["risk"]',
        "service_name": "registry",
        "action_name": "alias",
        "about": "dev.bench.prompt@champion",
        "request_params": '{"evidence_id":"' + "0" * 64 + '","version":1}',
    }
    last = mark.hash
    for number in range(count):
        seq = mark.seq + 1 + number
        done = {"phase": "done", "status_code": 200, "result": f'{{"etag":"{new_id()}"}}'} if number % 2 else {}
        if number % 4 == 1:
            done["evidence_id"] = proofs[number // 4 % len(proofs)]
        action = action if number % 2 else new_id()  # noqa: F821 - an outcome has its intent's
        row = common | {"seq": seq, "action_id": action, "phase": "intent", "event_time": entries.now()} | done
        row["prev_hash"] = last
        row["hash"] = last = entries.seal(key, [row[column] for column in entries.SEALED])
        yield row


def checked(state: StateConfig, folder: Path, runs: int, count: int) -> dict[str, float]:
    """Median seconds of the whole command, and of a bare loop that reads the rows and seals each once."""
    command = [sys.executable, "-m", "llmops.cli.main", "audit", "verify", "--json"]
    times, inside = [], []
    for _ in range(runs):
        started = time.perf_counter()
        done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        times.append(time.perf_counter() - started)
        report = json.loads(done.stdout)
        assert (report["ok"], report["entries"]) == (True, count)
        inside.append(report["seconds"])
    bare = [_bare(state) for _ in range(runs)]
    return {"command_s": statistics.median(times), "inside_s": statistics.median(inside), "bare_s": min(bare)}


def _bare(state: StateConfig) -> float:
    key = load_key(state)
    started = time.perf_counter()
    connection = sqlite3.connect(state.root / "state.db")
    for row in connection.execute("SELECT * FROM audit_log ORDER BY seq"):
        hmac.digest(key, orjson.dumps(row[:-1]), "sha256").hex()
    connection.close()
    return time.perf_counter() - started


def acting(state: StateConfig, actions: int) -> dict[str, float]:
    """Median milliseconds of an action on record around an empty effect, and of two bare durable commits."""
    with open_sql(state) as sql:
        audit = Audit(sql, state)
        ours = [_acted(audit, sql) for _ in range(actions)]
        audit.close()
        with sql.begin() as connection:
            connection.execute(text("CREATE TABLE bench_effects (n INTEGER)"))
        bare = [_committed(sql) for _ in range(actions)]
    return {"acting_ms": statistics.median(ours), "commits_ms": statistics.median(bare)}


def _acted(audit: Audit, sql: Sql) -> float:
    started = time.perf_counter()
    with audit.acting("alias", "dev.bench.prompt@champion", {"version": 1}) as acting, sql.begin() as connection:
        acting.concluded(connection, result={"etag": "x"})
    return (time.perf_counter() - started) * 1000


def _committed(sql: Sql) -> float:
    started = time.perf_counter()
    for _ in range(2):
        with sql.begin() as connection:
            connection.execute(text("INSERT INTO bench_effects VALUES (1)"))
    return (time.perf_counter() - started) * 1000


def table(found: dict[str, dict[str, float]], count: int) -> str:
    """The figures as Markdown, the ratio first."""
    check, act = found["check"], found["act"]
    lines = ["| llmops / bound | what | llmops | bound |", "|---:|---|---:|---:|"]
    lines.append(
        f"| {check['command_s'] / check['bare_s']:.1f} | check {count:,} entries, whole command; "
        f"bound: read and seal each once | {check['command_s']:.2f} s | {check['bare_s']:.2f} s |"
    )
    lines.append(
        f"| {act['acting_ms'] / act['commits_ms']:.1f} | an action on record, anchored twice; "
        f"bound: two durable commits | {act['acting_ms']:.1f} ms | {act['commits_ms']:.1f} ms |"
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=1_000_000, help="rows of the chain; an even number")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--actions", type=int, default=50)
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llmops-audit-") as temporary:
        folder = Path(temporary)
        state = StateConfig(dir=folder / ".llmops")
        print("audit: writing the chain", file=sys.stderr)
        seed(state, options.entries)
        print("audit: checking it", file=sys.stderr)
        found = {"check": checked(state, folder, options.runs, options.entries)}
        print("audit: acting", file=sys.stderr)
        found["act"] = acting(state, options.actions)
    print(json.dumps(found) if options.as_json else table(found, options.entries))


if __name__ == "__main__":
    main()
