"""What is measured of a gateway: requests a second, CPU, added time, streamed chunks, memory, slow streams, growth.

Each figure comes from the load generator, the scheduler or the kernel's memory counts; none from the gateway itself,
but where counts are compared.
"""

from __future__ import annotations

import asyncio
import json
import math
import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gateway.gateways import Running
from benchmarks.gateway.tools import OTHER_CORE, ROOT, Load, Mock, UnavailableError, cpu_s, process, rss_mb

CHUNKS = 200
SLOW_CHUNKS = 40
UNDRAINED = 250_000
PACES = (1_000, 5_000)
"""Requests a second over 4 connections, each timed from when it was due: what one caller among few sees."""


@dataclass
class Figures:
    """One gateway's row."""

    name: str
    start_s: float
    rss_start_mb: float
    requests_per_s: float = 0.0
    cpu_us: float = 0.0
    p50_us: float = 0.0
    p99_us: float = 0.0
    chunk_us: float = math.nan
    rss_after_mb: float = 0.0
    paced: dict[int, Paced] = field(default_factory=dict)
    problem: str = ""


@dataclass
class Paced:
    """At one pace, microseconds; `dropped` requests of `sent` were due while all connections were busy."""

    p50_us: float
    p99_us: float
    dropped: int
    sent: int


def measured(gateway: Running, lg: Path, body: Path, seconds: float) -> Figures:
    """The row of a gateway."""
    figures = Figures(gateway.name, gateway.start_s, rss_mb(gateway.pids))
    load = gateway.load(lg, body)
    figures.requests_per_s, figures.cpu_us = rate(gateway, load, 64, seconds)
    latency = load.run(4, seconds)
    figures.p50_us, figures.p99_us = latency["p50"], latency["p99"]
    figures.paced = paced(load, seconds)
    try:
        figures.chunk_us = chunk_us(gateway, load, seconds)
    except UnavailableError as error:
        figures.problem = f"{gateway.name} streams: {error}"
    figures.rss_after_mb = rss_mb(gateway.pids)
    return figures


def paced(load: Load, seconds: float) -> dict[int, Paced]:
    """Time at each pace that the other side keeps up with."""
    found = {}
    for pace in PACES:
        told = load.run(4, seconds, per_s=pace)
        if told["dropped"] < told["all"]:
            found[pace] = Paced(told["p50"], told["p99"], told["dropped"], told["all"])
    return found


def rate(gateway: Running, load: Load, connections: int, seconds: float) -> tuple[float, float]:
    """Requests a second, and CPU microseconds of each, the warming up included in neither."""
    load.run(connections, 1.0, warm=0.5)
    before = cpu_s(gateway.pids)
    found = load.run(connections, seconds, warm=0.0)
    return found["rps"], (cpu_s(gateway.pids) - before) / found["all"] * 1e6


def chunk_us(gateway: Running, load: Load, seconds: float) -> float:
    """CPU microseconds a streamed chunk, of replies with 200 of them."""
    load.run(16, 1.0, warm=0.5, streamed=True)
    before = cpu_s(gateway.pids)
    found = load.run(16, seconds, warm=0.0, streamed=True)
    return (cpu_s(gateway.pids) - before) / (found["all"] * CHUNKS) * 1e6


def slow_streams(gateway: Running, streams: int) -> dict[str, float]:
    """So many streams at once, a chunk each quarter of a second: chunks lost, and memory of each while all run."""
    context = multiprocessing.get_context("spawn")
    gate, results = context.Barrier(2), context.Queue()
    headers = dict(header.split(": ", 1) for header in gateway.headers)
    reader = context.Process(target=_read_streams, args=(gateway.port, headers, streams, gate, results))
    reader.start()
    gate.wait(60)
    before, peak = rss_mb(gateway.pids), 0.0
    while reader.is_alive():
        peak = max(peak, rss_mb(gateway.pids))
        time.sleep(0.2)
    whole, chunks = results.get(timeout=60)
    reader.join()
    return {
        "streams": streams,
        "whole": whole,
        "lost_chunks": streams * SLOW_CHUNKS - chunks,
        "kb_each": (peak - before) * 1024 / streams,
    }


def _read_streams(port: int, headers: dict[str, str], streams: int, gate: Any, results: Any) -> None:
    os.sched_setaffinity(0, {OTHER_CORE})

    async def one(number: int) -> tuple[bool, int]:
        body = json.dumps({
            "model": "gpt-4o-mini", "stream": True, "max_tokens": 256,
            "messages": [{"role": "user", "content": f"{number} " + "word " * 150}],
        }).encode()  # fmt: skip
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        request = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}Content-Length: {len(body)}\r\n\r\n"
        await asyncio.sleep(number / streams)
        stream, writer = await asyncio.open_connection("127.0.0.1", port, limit=16384)
        writer.write(request.encode() + body)
        got = b""
        while not got.endswith(b"0\r\n\r\n"):
            more = await stream.read(65536)
            if not more:
                break
            got += more
        writer.close()
        return b"data: [DONE]" in got, got.count(b'"content":" ')

    async def every() -> list[tuple[bool, int]]:
        return await asyncio.gather(*(one(number) for number in range(streams)))

    gate.wait(60)
    found = asyncio.run(every())
    results.put((sum(whole for whole, _ in found), sum(chunks for _, chunks in found)))


@dataclass
class Growth:
    """A long run: memory after each part of it, and the three counts that must be one."""

    requests: list[int]
    rss_mb: list[float]
    mock: int
    counted: int
    rows: int


def long_run(gateway: Running, lg: Path, body: Path, mock: Mock, requests: int) -> Growth:
    """So many requests, the spool drained and pruned beside them on the other core; memory after each eighth.

    The load stops whenever `UNDRAINED` requests were sent, until their rows are in the lake: a gateway that is faster
    than its drainer would shed rows in the end, and they are counted here.
    """
    assert gateway.folder is not None
    state = gateway.folder / "state"
    load = gateway.load(lg, body)
    asked_before, counted_before = mock.count(), _settled(state, 0, 1)  # the question it was started with
    drain = [sys.executable, "-m", "benchmarks.gateway.drain", str(state)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done, sizes, marks = 0, [], []
    with process(drain, OTHER_CORE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as drainer:
        assert drainer.stdin is not None
        assert drainer.stdout is not None
        first = load.run(64, 2.0, warm=0.0)["all"]
        done += first
        eighth = (requests - first) / 8
        seconds = max(1.0, min(eighth, UNDRAINED) / (first / 2.0))
        while done < requests:
            done += load.run(64, seconds, warm=0.0)["all"]
            print(f"   {done:,} requests", file=sys.stderr, flush=True)
            drainer.stdin.write("drained?\n")
            drainer.stdin.flush()
            drainer.stdout.readline()
            if done - first >= eighth * (len(marks) + 1) or done >= requests:
                sizes.append(rss_mb(gateway.pids))
                marks.append(done)
        asked = mock.count() - asked_before
        in_metrics = _settled(state, counted_before, asked)
        drainer.stdin.write("drained?\n")
        drainer.stdin.flush()
        drainer.stdout.readline()
        drainer.stdin.write("rows?\n")
        drainer.stdin.flush()
        rows = int(drainer.stdout.readline()) - counted_before
    return Growth(marks, sizes, asked, in_metrics, rows)


def _settled(state: Path, before: int, expected: int) -> int:
    """The gateway's own count; its file is written once a second."""
    deadline = time.monotonic() + 10
    while (found := counted(state) - before) != expected and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def counted(state: Path) -> int:
    """Requests that the gateway's metrics tell of, all workers together."""
    total = 0
    for path in (state / "gateway" / "metrics").glob("[0-9]*.json"):
        counters = json.loads(path.read_text(encoding="utf-8"))["counters"]
        total += sum(value for name, _, value in counters if name == "llmops_gateway_requests_total")
    return total
