"""The registry beside MLflow's own: listing many versions as a whole command, and how soon a moved alias is seen.

Both hold the same assets, versions, tags and champions, written in bulk. `--json` prints the figures alone.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event, insert

from llmops.core.names import Name
from llmops.core.sql import open_sql
from llmops.core.state import StateConfig
from llmops.registry import Evidence, Registry, aliases, evidence, queries, tables
from llmops.registry.aliases import Move
from llmops.registry.evidence import Method, Subject
from llmops.registry.mlflow_adapter import MlflowStore, quiet_mlflow
from llmops.registry.promotion import Promoter, State

ASSETS = 100
TAGS = {"team": "docs", "stage": "dev"}
MLFLOW_LIST = """
import json, os, sys, time
os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_CONFIGURE_LOGGING="false")
from mlflow import MlflowClient
client = MlflowClient(sys.argv[1], sys.argv[1])
started = time.perf_counter()
found = client.search_model_versions(max_results=200_000)
print(json.dumps({"found": len(found), "s": time.perf_counter() - started}))
"""


def seed(state: StateConfig, versions: int) -> None:
    """Write the same assets, versions, tags and champions on both sides."""
    names = [f"dev.bench.asset_{number:03d}" for number in range(ASSETS)]
    numbers = range(1, versions // ASSETS + 1)
    now = datetime.now(UTC)
    with open_sql(state) as sql, sql.begin() as connection:
        stamp = {"created_at": now, "created_by": "bench"}
        connection.execute(insert(tables.assets), [{"name": n, "kind": "chain", **stamp} for n in names])
        rows = [
            {"name": name, "version": number, "digest": f"{number:064x}", "source": "artifacts/x", "description": ""}
            | {"tags": TAGS, "params": {"top_k": 8}, **stamp}
            for name in names
            for number in numbers
        ]
        connection.execute(insert(tables.versions), rows)
        for name in names:
            first = queries.version(connection, Name.parse(name), 1)
            proof = evidence.save(connection, _proof(first))
            aliases.move(connection, [Move(first.name, "champion", 1, None, proof)], actor="bench")
    _seed_mlflow(state, names, numbers)


def _seed_mlflow(state: StateConfig, names: list[str], numbers: range) -> None:
    MlflowStore(state, "dev").aliases()  # makes the store
    with quiet_mlflow():
        from mlflow.store.model_registry.dbmodels import models
        from sqlalchemy import create_engine

        engine = create_engine(state.mlflow("dev"))
        at = int(time.time() * 1000)
        keys = [{"name": name, "version": number} for name in names for number in numbers]
        with engine.begin() as connection:
            times = {"creation_time": at, "last_updated_time": at}
            connection.execute(insert(models.SqlRegisteredModel), [{"name": name, **times} for name in names])
            connection.execute(
                insert(models.SqlModelVersion),
                [key | {"source": "artifacts/x", "storage_location": "artifacts/x", **times} for key in keys],
            )
            tags = [key | {"key": tag, "value": value} for key in keys for tag, value in TAGS.items()]
            connection.execute(insert(models.SqlModelVersionTag), tags)
            held = [{"name": name, "alias": "champion", "version": 1} for name in names]
            connection.execute(insert(models.SqlRegisteredModelAlias), held)
        engine.dispose()


def whole_command(command: list[str], folder: Path, runs: int) -> tuple[float, str]:
    """Median seconds of whole processes, after one to warm the file cache; and the last one's output."""
    times, output = [], ""
    for _ in range(runs + 1):
        started = time.perf_counter()
        output = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:]), output


def listing(state: StateConfig, folder: Path, versions: int, runs: int) -> dict[str, float]:
    """Seconds to list every version: whole command on both sides, and MLflow's search alone."""
    command = [sys.executable, "-m", "llmops.cli.main", "models", "list", "--versions", "--json"]
    ours, output = whole_command(command, folder, runs)
    theirs, report = whole_command([sys.executable, "-c", MLFLOW_LIST, state.mlflow("dev")], folder, runs)
    found = json.loads(report)
    assert len(json.loads(output)) == found["found"] == versions
    with Registry(state) as registry:
        started = time.perf_counter()
        registry.versions()
        inside = time.perf_counter() - started
    return {"ours_s": ours, "mlflow_s": theirs, "ours_inside_s": inside, "mlflow_inside_s": found["s"]}


def swaps(state: StateConfig, moves: int) -> dict[str, float]:
    """Milliseconds from the start of a move until another, polling process sees it; medians and worst."""
    with Registry(state) as registry:
        versions = [registry.resolve(f"dev.bench.asset_000/{number}") for number in (1, 2)]
        proofs = [registry.add_evidence(_proof(version)) for version in versions]

        def record(number: int) -> None:
            held = registry.alias(versions[0].name, "champion")
            assert held is not None
            registry.move([Move(versions[0].name, "champion", number, held.etag, proofs[number - 1])])

        ours = _seen_after(_poll_record, state, record, moves)
    with MlflowStore(state, "dev").client() as (_, client):

        def copy(number: int) -> None:
            client.set_registered_model_alias("dev.bench.asset_001", "champion", str(number))

        theirs = _seen_after(_poll_mlflow, state, copy, moves)
    return {
        "ours_ms": statistics.median(ours),
        "ours_worst_ms": max(ours),
        "mlflow_ms": statistics.median(theirs),
        "mlflow_worst_ms": max(theirs),
    }


def promotions(state: StateConfig, moves: int) -> dict[str, float]:
    """Milliseconds of whole promotions with their evidence on file, and from their commit until a reader sees them."""
    with Timed(state) as registry:
        promoter, name = Promoter(registry), Name.parse("dev.bench.asset_002")
        numbers = [*range(2, moves + 2)]
        context = multiprocessing.get_context("spawn")
        seen = context.Queue()
        process = context.Process(target=_poll_name, args=(state, f"{name}@champion", moves, seen))
        process.start()
        assert seen.get(timeout=120)[0] == 1
        times: dict[str, list[float]] = {"promote": [], "last": [], "seen": [], "mirror": []}
        for number in numbers:
            version, champion = registry.resolve(f"{name}/{number}"), registry.resolve(f"{name}@champion")
            validated = _found(version, "validation")
            compared = _found(version, "comparison", baseline=Subject.of(champion))
            for record in (validated, compared):
                registry.add_evidence(record)
            started = time.monotonic()
            assert promoter.promote(version.ref).state is State.PROMOTED
            reached, at = seen.get(timeout=60)
            assert reached == number
            times["promote"].append((registry.mirrored_from - started) * 1000)
            times["last"].append((registry.mirrored_from - registry.last_begun) * 1000)
            times["seen"].append((at - registry.committed) * 1000)
            times["mirror"].append((registry.mirrored_until - registry.mirrored_from) * 1000)
        process.join(timeout=60)
    found = {f"{key}_ms": statistics.median(values) for key, values in times.items()}
    return found | {f"{key}_worst_ms": max(values) for key, values in times.items()}


class Timed(Registry):
    """A registry that notes when its last transaction began and committed, and when MLflow's copies were written."""

    def __init__(self, state: StateConfig) -> None:
        super().__init__(state)
        self.begun = self.last_begun = self.committed = self.mirrored_from = self.mirrored_until = 0.0
        event.listen(self.sql._engine, "begin", self._note_begin)
        event.listen(self.sql._engine, "commit", self._note_commit)

    def mirror(self, name: Name) -> bool:
        self.last_begun, self.committed = self._moved
        self.mirrored_from = time.monotonic()
        try:
            return super().mirror(name)
        finally:
            self.mirrored_until = time.monotonic()

    _moved = (0.0, 0.0)
    """When the transaction with the newest alias move began, and when its commit did."""

    def _note_begin(self, connection: Connection) -> None:
        self.begun = time.monotonic()

    def _note_commit(self, connection: Connection) -> None:
        if connection.get_execution_options().get("write"):
            self._moved = (self.begun, time.monotonic())


def _found(version: Any, gate: str, **changes: Any) -> Evidence:
    method = Method(name="bench", version="1")
    subject = Subject.of(version)
    return Evidence(asset=subject, gate=gate, verdict="pass", method=method, actor="bench", **changes)


def _poll_name(state: StateConfig, ref: str, moves: int, seen: Any) -> None:
    with Registry(state) as registry:
        _poll(lambda: registry.resolve(ref).version, moves, seen)


def _seen_after(poll: Callable[..., None], state: StateConfig, move: Callable[[int], None], moves: int) -> list[float]:
    context = multiprocessing.get_context("spawn")
    seen = context.Queue()
    process = context.Process(target=poll, args=(state, moves, seen))
    process.start()
    assert seen.get(timeout=120)[0] == 1  # it has opened its side, and polls
    times = []
    for step in range(moves):
        wanted, started = 2 - step % 2, time.monotonic()
        move(wanted)
        number, at = seen.get(timeout=60)
        assert number == wanted
        times.append((at - started) * 1000)
    process.join(timeout=60)
    return times


def _poll_record(state: StateConfig, moves: int, seen: Any) -> None:
    with Registry(state) as registry:
        _poll(lambda: registry.resolve("dev.bench.asset_000@champion").version, moves, seen)


def _poll_mlflow(state: StateConfig, moves: int, seen: Any) -> None:
    with MlflowStore(state, "dev").client() as (_, client):
        _poll(lambda: int(client.get_model_version_by_alias("dev.bench.asset_001", "champion").version), moves, seen)


def _poll(read: Callable[[], int], moves: int, seen: Any) -> None:
    last = 0
    changes = 0
    while changes <= moves:
        if (number := read()) != last:
            seen.put((number, time.monotonic()))
            last, changes = number, changes + 1
        time.sleep(0.001)


def stores(folder: Path) -> dict[str, float]:
    """Seconds to make MLflow's empty store: by itself, and as the adapter makes it."""
    with quiet_mlflow():
        from mlflow.store.db import utils

        started = time.perf_counter()
        engine = utils.create_sqlalchemy_engine_with_retry(f"sqlite:///{folder / 'mlflows.db'}")
        utils._initialize_tables(engine)
        engine.dispose()
        theirs = time.perf_counter() - started
    store = MlflowStore(StateConfig(dir=folder / "ours"), "dev")
    started = time.perf_counter()
    store._prepare()
    return {"mlflow_s": theirs, "ours_s": time.perf_counter() - started}


def _proof(version: Any) -> Evidence:
    method = Method(name="bench", version="1")
    return Evidence(asset=Subject.of(version), gate="bench", verdict="pass", method=method, actor="bench")


def table(found: dict[str, dict[str, float]], versions: int) -> str:
    """The figures as Markdown, the ratio first."""
    lists, moved, made = found["list"], found["swap"], found["store"]
    rows = [
        (f"list {versions:,} versions, whole command", lists["mlflow_s"], lists["ours_s"], "s", ".2f"),
        ("the same within a running process", lists["mlflow_inside_s"], lists["ours_inside_s"], "s", ".2f"),
        ("a moved alias is seen by another process (median)", moved["mlflow_ms"], moved["ours_ms"], "ms", ".1f"),
        ("the same, the slowest", moved["mlflow_worst_ms"], moved["ours_worst_ms"], "ms", ".1f"),
        ("make an empty MLflow store", made["mlflow_s"], made["ours_s"], "s", ".2f"),
    ]
    lines = ["| MLflow / llmops | what | MLflow | llmops |", "|---:|---|---:|---:|"]
    lines += [f"| {a / b:.1f} | {what} | {a:{form}} {unit} | {b:{form}} {unit} |" for what, a, b, unit, form in rows]
    walked = found["promotion"]
    lines += ["", "| what, with no peer | median | slowest |", "|---|---:|---:|"]
    lines += [
        f"| {what} | {walked[f'{key}_ms']:.1f} ms | {walked[f'{key}_worst_ms']:.1f} ms |"
        for key, what in (
            ("promote", "a whole promotion, evidence on file: three audited changes of state"),
            ("last", "of it the transaction that moves champion and previous champion"),
            ("seen", "from the start of its commit until another process sees the new champion"),
            ("mirror", "MLflow's copies, after the commit"),
        )
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--versions", type=int, default=10_000, help="a multiple of 100, at least 200")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--moves", type=int, default=30)
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llmops-registry-") as temporary:
        folder = Path(temporary)
        state = StateConfig(dir=folder / ".llmops")
        print("registry: writing both sides", file=sys.stderr)
        seed(state, options.versions)
        print("registry: listing", file=sys.stderr)
        found = {"list": listing(state, folder, options.versions, options.runs)}
        print("registry: moving aliases", file=sys.stderr)
        found["swap"] = swaps(state, options.moves)
        print("registry: promoting", file=sys.stderr)
        found["promotion"] = promotions(state, min(options.moves, options.versions // ASSETS - 1))
        found["store"] = stores(folder)
    print(json.dumps(found) if options.as_json else table(found, options.versions))


if __name__ == "__main__":
    main()
