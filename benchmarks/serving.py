"""What the door costs: a trivial chain asked directly, and through HTTP with identity, log row and server-sent events.

The server is a process of its own with a real spool; its client keeps the connection and reads raw bytes, so little
of what is measured is the client's. Direct calls and calls through the door alternate in one run.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

from llmops.core.chain import ChainContext, Citation, Delta, Done, Event, Message, PassageRef, Retrieval, Usage

ROOT = Path(__file__).parent.parent
WORDS = 60
BAR_MS = 10.0
MESSAGES: list[Message] = [{"role": "user", "content": "What happens to deleted documents?"}]


class TrivialChain:
    """Gives 60 words and a citation as fast as it can: nothing but the door is left to measure."""

    version_info: dict[str, Any] = {"prompt_version": "1", "index_version": "g", "model": "trivial"}  # noqa: RUF012

    def stream(self, messages: Sequence[Message], context: ChainContext) -> Iterator[Event]:
        passage = PassageRef("docs/a.md", 0, 40, "a sentence of forty characters, or about")
        yield Retrieval((passage,) * 8, "g", 1)
        for number in range(WORDS):
            context.cancel.check()
            yield Delta(f"word{number} ")
        yield Delta("[1]")
        yield Citation(1, passage.uri, passage.start, passage.end, passage.text)
        yield Done(Usage(10, WORDS), refused=False, generation="g", index_seq=1)

    def close(self) -> None:
        """Nothing is held."""


def ask_directly() -> tuple[float, float]:
    """Milliseconds to the first piece and to the end."""
    begun, first = time.perf_counter(), 0.0
    for event in TrivialChain().stream(MESSAGES, ChainContext()):
        if isinstance(event, Delta) and not first:
            first = time.perf_counter() - begun
    return first * 1000, (time.perf_counter() - begun) * 1000


def ask_the_door(connection: http.client.HTTPConnection, body: bytes) -> tuple[float, float]:
    begun = time.perf_counter()
    connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
    response = connection.getresponse()
    assert response.status == 200, response.read()
    text = b""
    while b'"content":"word0' not in text:
        text += response.read1(65536)
    first = time.perf_counter() - begun
    response.read()
    return first * 1000, (time.perf_counter() - begun) * 1000


@contextmanager
def door() -> Iterator[int]:
    """The port of a server over the trivial chain."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
        command = [sys.executable, "-m", "benchmarks.serving", "--door", folder]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.terminate()
            process.wait(20)


def run_door(folder: str) -> None:
    """The server's process: prints its port, then answers until it is told to stop."""
    from tests.support.serving import KEYS, SpooledTables

    from llmops.core.names import Ref
    from llmops.core.state import StateConfig
    from llmops.serving.app import Backing
    from llmops.serving.config import ServeConfig
    from llmops.serving.endpoint import Endpoints
    from llmops.serving.server import listening, server_for

    class OneChain:
        def resolve(self, ref: Ref) -> Ref:
            return Ref(ref.name, version=1)

        def load(self, ref: Ref) -> Any:
            return TrivialChain()

    config = ServeConfig(state=StateConfig(dir=Path(folder)), port=0)
    tables = SpooledTables(config.state.spool)
    backing = Backing(OneChain(), tables, KEYS)
    with listening(config.host, config.port) as listener, tables.spool:
        port = listener.getsockname()[1]
        with Endpoints(config.endpoints, backing.source, poll_s=1) as endpoints:
            server_for(config, backing, endpoints, lambda: print(port, flush=True)).run(sockets=[listener])


def requests_per_s(port: int, body: bytes, clients: int, seconds: float) -> float:
    """Whole streamed answers a second with so many clients asking without pause."""
    counts = [0] * clients
    deadline = time.perf_counter() + seconds

    def keep_asking(place: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        while time.perf_counter() < deadline:
            ask_the_door(connection, body)
            counts[place] += 1

    threads = [Thread(target=keep_asking, args=(place,)) for place in range(clients)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - begun)


def measure(rounds: int) -> dict[str, Any]:
    streamed = json.dumps({"model": "chat", "stream": True, "messages": MESSAGES}).encode()
    direct, through = [], []
    with door() as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        for _ in range(50):
            ask_directly()
            ask_the_door(connection, streamed)
        for _ in range(rounds):
            direct.append(ask_directly())
            through.append(ask_the_door(connection, streamed))
        rate = requests_per_s(port, streamed, clients=8, seconds=3)
    result: dict[str, Any] = {"rounds": rounds, "bar_ms": BAR_MS, "requests_per_s_8_clients": round(rate, 1)}
    for place, name in enumerate(("first_token", "whole_answer")):
        alone, behind = [d[place] for d in direct], [t[place] for t in through]
        extra = [b - a for a, b in zip(alone, behind, strict=True)]
        result[name] = {
            "chain_p50_ms": statistics.median(alone),
            "door_p50_ms": statistics.median(behind),
            "overhead_p50_ms": statistics.median(extra),
            "overhead_p95_ms": statistics.quantiles(extra, n=20)[-1],
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--door", metavar="FOLDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.door:
        run_door(arguments.door)
        return
    result = measure(arguments.rounds)
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    print(
        f"A trivial chain of {WORDS} pieces, asked directly and through the door, {result['rounds']} times each, "
        f"streamed; the bar is {BAR_MS:.0f} ms of overhead at the median.\n"
    )
    print("| of the bar | | chain p50 ms | door p50 ms | overhead p50 ms | overhead p95 ms |")
    print("|---:|---|---:|---:|---:|---:|")
    for name in ("first_token", "whole_answer"):
        row = result[name]
        figures = " | ".join(f"{row[key]:.2f}" for key in row)
        print(f"| {row['overhead_p50_ms'] / BAR_MS:.2f} | {name.replace('_', ' ')} | {figures} |")
    print(f"\nWith 8 clients asking without pause: {result['requests_per_s_8_clients']} whole answers a second.")


if __name__ == "__main__":
    main()
