"""A thousand slow streams through the transport alone: what each costs in memory, and whether a chunk is lost.

    python -m benchmarks.gateway.streams [--streams 1000] [--chunks 40] [--interval-ms 250]

Three processes: an upstream that sends each caller numbered chunks, the pass-through handler of
`benchmarks.gateway.passthrough`, and this one, which reads every stream and compares it with what was sent. One line of
JSON: streams that were whole, chunks a second, and memory of the middle process before, during, and for each stream.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop

BODY = b'{"model":"m","stream": true,"messages":[{"role":"user","content":"' + b"word " * 180 + b'"}]}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def event(number: int) -> bytes:
    return b'data: {"choices":[{"index":0,"delta":{"content":"token %d"},"finish_reason":null}]}\n\n' % number


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def upstream(port: int, chunks: int, interval_s: float) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(len(BODY))
        writer.write(HEAD)
        for number in range(chunks):
            writer.write(chunk(event(number)))
            await asyncio.sleep(interval_s)
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        writer.close()

    async def serve() -> None:
        async with await asyncio.start_server(answer, "127.0.0.1", port, backlog=4096) as server:
            await server.serve_forever()

    uvloop.run(serve())


async def read_one(port: int, chunks: int) -> bool:
    """Whether one stream arrived whole and in order."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY))
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        got = b""
        while size := int(await reader.readline(), 16):
            got += (await reader.readexactly(size + 2))[:-2]
    except (asyncio.IncompleteReadError, ValueError):
        return False
    finally:
        writer.close()
    return head.startswith(b"HTTP/1.1 200 ") and got == b"".join(map(event, range(chunks)))


def rss_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def processes(chunks: int, interval_s: float) -> Iterator[tuple[int, int]]:
    """Upstream and pass-through; gives the port and process id of the latter."""
    behind, front = free_port(), free_port()
    source = multiprocessing.get_context("spawn").Process(target=upstream, args=(behind, chunks, interval_s))
    source.start()
    command = [sys.executable, "-m", "benchmarks.gateway.passthrough", "serve", "--port", str(front)]
    with subprocess.Popen([*command, "--upstream", f"http://127.0.0.1:{behind}"], stdout=subprocess.DEVNULL) as middle:
        try:
            yield front, middle.pid
        finally:
            middle.terminate()
            middle.wait()
            source.terminate()
            source.join()


async def measure(port: int, pid: int, arguments: argparse.Namespace) -> dict[str, object]:
    while True:
        try:
            if await read_one(port, arguments.chunks):
                break
        except ConnectionError:
            await asyncio.sleep(0.1)
    before = rss_kb(pid)
    reading = [asyncio.create_task(read_one(port, arguments.chunks)) for _ in range(arguments.streams)]
    begun = asyncio.get_running_loop().time()
    await asyncio.sleep(arguments.chunks * arguments.interval_ms / 2000)
    during = rss_kb(pid)
    whole = sum(await asyncio.gather(*reading))
    took = asyncio.get_running_loop().time() - begun
    return {
        "streams": arguments.streams,
        "whole": whole,
        "chunks_a_second": round(arguments.streams * arguments.chunks / took),
        "rss_before_mb": round(before / 1024, 1),
        "rss_during_mb": round(during / 1024, 1),
        "kb_a_stream": round((during - before) / arguments.streams, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--chunks", type=int, default=40)
    parser.add_argument("--interval-ms", type=float, default=250)
    arguments = parser.parse_args()
    with processes(arguments.chunks, arguments.interval_ms / 1000) as (port, pid):
        sys.stdout.write(json.dumps(uvloop.run(measure(port, pid, arguments))) + "\n")


if __name__ == "__main__":
    main()
