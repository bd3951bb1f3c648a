"""What the spool costs a request, what it promises, and what the disk would allow: in one run, side by side.

    python benchmarks/spool.py [--records 50000] [--durable 500] [--seconds 5] [--dir FOLDER] [--json FILE]

Every figure is next to a peer or a bound measured in the same run on the same disk: a bare write(2), SQLite (WAL,
synchronous=FULL) with one insert a commit, and lines of JSON with one fsync each. The record is an exchange of 2.5 kB.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import shutil
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import orjson
from xxhash import xxh3_64_intdigest

from llmops.core.drain import DrainConfig, Drainer
from llmops.core.ids import new_id
from llmops.core.redact import redact_secrets
from llmops.core.spool import Spool
from llmops.core.state import StateConfig

TABLE = "dev.serving.inference_log"
WRITERS = 16
BATCH = 500


def exchange() -> dict[str, object]:
    """One row of the inference log, 2.5 kB as JSON."""
    question = "How is the backlog cap of the spool measured, and who is told when it is reached? " * 8
    answer = "The cap counts what is known not to be in the lake; the risk-averse set an alarm on it [1]. " * 12
    return {
        "invocation_id": new_id(),
        "request_id": new_id(),
        "layer": "serving",
        "request_time": "2026-01-01T00:00:00.123456Z",
        "endpoint": "chat",
        "asset_kind": "chain",
        "asset_name": "dev.docs.chat",
        "asset_version": "3",
        "variant": "champion",
        "assignment_p": 1.0,
        "status_code": 200,
        "latency_ms": 41.5,
        "ttfb_ms": 12.25,
        "input_tokens": 812,
        "output_tokens": 96,
        "requester": "key:0123456789abcdef",
        "tags": {"team": "support"},
        "request_json": json.dumps({"messages": [{"role": "user", "content": question}], "stream": True}),
        "response_json": json.dumps({"choices": [{"message": {"role": "assistant", "content": answer}}]}),
    }


def per_call_us(call: Callable[[], object], calls: int) -> tuple[float, float]:
    """The median, and the mean, over batches of calls."""
    batches = []
    for _ in range(max(1, calls // BATCH)):
        begun = time.perf_counter()
        for _ in range(BATCH):
            call()
        batches.append((time.perf_counter() - begun) / BATCH * 1e6)
    return statistics.median(batches), statistics.fmean(batches)


def appends(folder: Path, records: int) -> dict[str, float]:
    """One writer, not durable; each part of an append by itself, and a bare write(2) of as many bytes as the bound."""
    row = exchange()
    encoded = orjson.dumps(row)
    with Spool(folder / "append") as spool:
        warm_up(folder, len(encoded) * records)
        begun = time.perf_counter()
        median, mean = per_call_us(lambda: spool.append(TABLE, row), records)
        rate = records / (time.perf_counter() - begun)
    shutil.rmtree(folder / "append")
    descriptor = os.open(folder / "bare", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    bare, bare_mean = per_call_us(lambda: os.write(descriptor, encoded), records)
    os.close(descriptor)
    (folder / "bare").unlink()
    return {
        "append_us": median,
        "append_mean_us": mean,
        "records_per_s": rate,
        "record_bytes": len(encoded),
        "json_us": per_call_us(lambda: orjson.dumps(row), records)[0],
        "redact_us": per_call_us(lambda: redact_secrets(encoded), records)[0],
        "checksum_us": per_call_us(lambda: xxh3_64_intdigest(encoded), records)[0],
        "bare_write_us": bare,
        "bare_write_mean_us": bare_mean,
    }


def warm_up(folder: Path, size: int) -> None:
    """Touch as much page cache as the run will need: a virtual machine gets its memory page by page at first use."""
    with (folder / "warm").open("wb") as file:
        for _ in range(size // (1 << 20) + 1):
            file.write(bytes(1 << 20))
    (folder / "warm").unlink()


def durable(latencies: list[float], elapsed: float) -> dict[str, float]:
    latencies.sort()
    return {
        "per_s": len(latencies) / elapsed,
        "p50_ms": latencies[len(latencies) // 2] * 1e3,
        "p99_ms": latencies[int(len(latencies) * 0.99)] * 1e3,
    }


def timed(call: Callable[[], object], times: int) -> list[float]:
    latencies = []
    for _ in range(times):
        begun = time.perf_counter()
        call()
        latencies.append(time.perf_counter() - begun)
    return latencies


def in_threads(make: Callable[[], Callable[[], object]], times: int, writers: int = WRITERS) -> dict[str, float]:
    """`writers` threads, each calling what `make` gives it."""
    latencies: list[float] = []
    gate = threading.Barrier(writers + 1)

    def work() -> None:
        call = make()
        gate.wait()
        latencies.extend(timed(call, times))

    threads = [threading.Thread(target=work) for _ in range(writers)]
    for thread in threads:
        thread.start()
    gate.wait()
    begun = time.perf_counter()
    for thread in threads:
        thread.join()
    return durable(latencies, time.perf_counter() - begun)


def durable_threads(folder: Path, times: int) -> dict[str, float]:
    row = exchange()
    with Spool(folder) as spool:
        return in_threads(lambda: lambda: spool.append(TABLE, row, durable=True), times) | {"commits": spool.commits}


def durable_tasks(folder: Path, times: int) -> dict[str, float]:
    row = exchange()

    async def work(spool: Spool, latencies: list[float]) -> None:
        for _ in range(times):
            begun = time.perf_counter()
            await spool.append_durable(TABLE, row)
            latencies.append(time.perf_counter() - begun)

    async def main() -> dict[str, float]:
        latencies: list[float] = []
        with Spool(folder) as spool:
            begun = time.perf_counter()
            await asyncio.gather(*(work(spool, latencies) for _ in range(WRITERS)))
            return durable(latencies, time.perf_counter() - begun) | {"commits": spool.commits}

    return asyncio.run(main())


def _durable_process(folder: Path, times: int, gate: object, results: object) -> None:
    row = exchange()
    with Spool(folder) as spool:
        spool.append(TABLE, row, durable=True)
        gate.wait()  # type: ignore[attr-defined]
        results.put(timed(lambda: spool.append(TABLE, row, durable=True), times))  # type: ignore[attr-defined]


def durable_processes(folder: Path, times: int) -> dict[str, float]:
    context = multiprocessing.get_context("forkserver")
    gate, results = context.Barrier(WRITERS + 1), context.Queue()
    processes = [context.Process(target=_durable_process, args=(folder, times, gate, results)) for _ in range(WRITERS)]
    for process in processes:
        process.start()
    gate.wait()
    begun = time.perf_counter()
    latencies = [one for _ in processes for one in results.get()]
    elapsed = time.perf_counter() - begun
    for process in processes:
        process.join()
    return durable(latencies, elapsed)


def sqlite_peer(folder: Path, times: int, writers: int) -> dict[str, float]:
    """One insert a commit; each thread has a connection of its own."""
    folder.mkdir(exist_ok=True)
    path = folder / f"peer{writers}.db"
    row = exchange()
    first = sqlite3.connect(path, isolation_level=None)
    first.execute("PRAGMA journal_mode = WAL")
    first.execute("CREATE TABLE log (id INTEGER PRIMARY KEY, record BLOB)")

    def make() -> Callable[[], object]:
        connection = sqlite3.connect(path, isolation_level=None, timeout=60)
        connection.execute("PRAGMA synchronous = FULL")
        return lambda: connection.execute("INSERT INTO log (record) VALUES (?)", (orjson.dumps(row),))

    return in_threads(make, times, writers)


def jsonl_peer(folder: Path, times: int, writers: int) -> dict[str, float]:
    """One line and one fsync a record; all threads append to one file."""
    folder.mkdir(exist_ok=True)
    row = exchange()
    descriptor = os.open(folder / f"peer{writers}.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def line() -> None:
        os.write(descriptor, orjson.dumps(row) + b"\n")
        os.fsync(descriptor)

    try:
        return in_threads(lambda: line, times, writers)
    finally:
        os.close(descriptor)


def _drain_until(root: Path, stop: object, drained: object) -> None:
    drainer = Drainer(StateConfig(dir=root), DrainConfig(interval_s=0.2))
    drainer.start()
    stop.wait()  # type: ignore[attr-defined]
    drainer.stop()
    drained.put(drainer.counters.records)  # type: ignore[attr-defined]


def sustained(root: Path, seconds: float) -> dict[str, float]:
    """One process appends as fast as it may while another drains; over when everything is in the lake."""
    context = multiprocessing.get_context("forkserver")
    stop, drained = context.Event(), context.Queue()
    row = exchange()
    drainer = context.Process(target=_drain_until, args=(root, stop, drained))
    drainer.start()
    begun = time.perf_counter()
    with Spool(StateConfig(dir=root).spool) as spool:
        while time.perf_counter() - begun < seconds:
            for _ in range(BATCH):
                spool.append(TABLE, {**row, "invocation_id": new_id()})
        appended, shed = spool.appended, spool.counters.shed
    written = time.perf_counter() - begun
    stop.set()
    in_lake = drained.get()
    elapsed = time.perf_counter() - begun
    drainer.join()
    return {
        "appended_per_s": appended / written,
        "drained_per_s": in_lake / elapsed,
        "appended": appended,
        "in_lake": in_lake,
        "shed": shed,
    }


def table(results: dict[str, dict[str, float]]) -> str:
    """The figures as Markdown: first how they stand to their peer or bar."""
    a, s = results["append"], results["sustained"]
    threads, tasks, processes = (results[f"durable_{who}"] for who in ("threads", "tasks", "processes"))
    sqlite, jsonl = results["sqlite_16"], results["jsonl_16"]
    rows = [
        ("append", f"{a['append_us'] / a['bare_write_us']:.2f}x a bare write(2)", f"{a['append_us']:.2f} us median, "
         f"{a['append_mean_us']:.2f} mean, of {a['record_bytes']} B", f"{a['bare_write_us']:.2f} us", "<= 5 us"),
        ("records a second, one writer", f"{a['records_per_s'] / 50_000:.2f}x the bar", f"{a['records_per_s']:,.0f}",
         f"{1e6 / a['bare_write_mean_us']:,.0f} bare", ">= 50,000"),
    ]  # fmt: skip
    for who, found in (("threads", threads), ("tasks of one loop", tasks), ("processes", processes)):
        rows.append((
            f"durable, {WRITERS} {who}", f"{found['per_s'] / sqlite['per_s']:.1f}x SQLite, "
            f"{found['per_s'] / jsonl['per_s']:.1f}x JSONL", f"{found['per_s']:,.0f}/s, p50 {found['p50_ms']:.1f} ms, "
            f"p99 {found['p99_ms']:.1f} ms", f"SQLite {sqlite['per_s']:,.0f}/s, p99 {sqlite['p99_ms']:.1f} ms; "
            f"JSONL {jsonl['per_s']:,.0f}/s, p99 {jsonl['p99_ms']:.1f} ms", ">= 5,000/s, p99 < 15 ms"))  # fmt: skip
    rows.append(("sustained, drainer running", f"{s['drained_per_s'] / s['appended_per_s']:.2f} of what is appended",
                 f"{s['drained_per_s']:,.0f}/s into the lake",
                 f"{s['appended_per_s']:,.0f}/s appended", "reported"))  # fmt: skip
    lines = ["| what | ratio | figure | beside | bar |", "|---|---|---|---|---|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    parts = {name: a[f"{name}_us"] for name in ("json", "redact", "checksum", "bare_write")}
    lines += ["", "Where an append goes, us: " + ", ".join(f"{name} {us:.2f}" for name, us in parts.items()) + "."]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=50_000, help="appends that are not durable")
    parser.add_argument("--durable", type=int, default=500, help="durable appends of each of the 16 writers")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to append while the drainer runs")
    parser.add_argument("--dir", type=Path, default=Path.cwd(), help="a folder on the disk to be measured")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix=".spool-benchmark-", dir=options.dir))
    try:
        results = {
            "append": appends(folder, options.records),
            "durable_threads": durable_threads(folder / "threads", options.durable),
            "durable_tasks": durable_tasks(folder / "tasks", options.durable),
            "durable_processes": durable_processes(folder / "processes", options.durable),
            "sqlite_1": sqlite_peer(folder / "peers", options.durable, 1),
            "sqlite_16": sqlite_peer(folder / "peers", max(10, options.durable // 16), WRITERS),
            "jsonl_1": jsonl_peer(folder / "peers", options.durable, 1),
            "jsonl_16": jsonl_peer(folder / "peers", max(10, options.durable // 4), WRITERS),
            "sustained": sustained(folder / "sustained", options.seconds),
        }
    finally:
        shutil.rmtree(folder)
    print(table(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
