"""The transport alone: a handler that passes each request on, and its reply back, without looking at either.

    python -m benchmarks.gateway.passthrough serve --port 8100 --upstream http://127.0.0.1:9000

What the engine costs is what a run through it takes beyond this one. On SIGTERM it prints, as one line of JSON, the
requests it served and the CPU time and memory they took.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import resource
import signal
import sys
from pathlib import Path

import uvloop

from llmops.gateway.calls import Fault, Headers, Request, Responder, UpstreamRequest
from llmops.gateway.config import HttpConfig, ProviderConfig, TlsConfig
from llmops.gateway.http.client import OriginPool
from llmops.gateway.http.server import HttpServer
from llmops.gateway.http.timers import Timers

PASSED = ((b"content-type", b"application/json"), (b"authorization", b"Bearer upstream-key"))
STREAM = b'"stream": true'


class Passing:
    """One request on its way through; also the listener of its upstream call."""

    __slots__ = ("_call", "_headers", "_pool", "_responder", "_status", "_streamed", "_whole")

    def __init__(self, pool: OriginPool, request: Request, responder: Responder) -> None:
        self._responder = responder
        self._streamed = STREAM in request.body
        self._status = 0
        self._headers: Headers = ()
        self._whole = b""
        self._pool = pool
        upstream = UpstreamRequest(request.path, PASSED, request.body, request.method)
        self._call = pool.call(upstream, self, first_byte_s=60.0, idle_s=60.0)
        responder.on_gone = self._call.cancel
        responder.on_drain = self._call.resume

    def on_reply(self, status: int, headers: Headers, body: bytes) -> None:
        self.on_head(status, headers)
        self.on_data(body)
        self.on_end()

    def on_head(self, status: int, headers: Headers) -> None:
        kept = [field for field in headers if field[0] in (b"content-type", b"x-request-id")]
        self._status, self._headers = status, kept
        if self._streamed:
            self._responder.start(status, kept)

    def on_data(self, data: bytes) -> None:
        if not self._streamed:
            self._whole = self._whole + data if self._whole else data
            return
        self._responder.write(data)
        if self._responder.full:
            self._call.pause()

    def on_end(self) -> None:
        if self._streamed:
            self._responder.end()
        else:
            self._responder.send(self._status, self._headers, self._whole)

    def on_fault(self, fault: Fault) -> None:
        if self._status and self._streamed:
            self._responder.abort()
        else:
            self._responder.send(fault.status, (), fault.message.encode())


async def serve(arguments: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    timers = Timers(loop)
    tls = TlsConfig(ca_file=arguments.ca)
    provider = ProviderConfig(url=arguments.upstream, connections=arguments.connections, tls=tls)
    pool = OriginPool(provider, timers)
    served = 0

    def handle(request: Request, responder: Responder) -> None:
        nonlocal served
        served += 1
        Passing(pool, request, responder)

    config = HttpConfig(tls_cert=arguments.cert, tls_key=arguments.key)
    server = HttpServer(handle, config, timers)
    await server.listen("127.0.0.1", arguments.port)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)  # as a worker does
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    begun = cpu_s()
    await stopped.wait()
    used = cpu_s() - begun
    figures = {
        "requests": served,
        "cpu_s": round(used, 3),
        "cpu_us_a_request": round(used / max(served, 1) * 1e6, 2),
        "sys_us": round(resource.getrusage(resource.RUSAGE_SELF).ru_stime / max(served, 1) * 1e6, 2),
        "rss_mb": round(rss_kb() / 1024, 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }
    sys.stdout.write(json.dumps(figures) + "\n")
    await server.drain(0.5)
    pool.close()
    timers.close()


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def rss_kb() -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("serve")
    one.add_argument("--port", type=int, default=8100)
    one.add_argument("--upstream", default="http://127.0.0.1:9000")
    one.add_argument("--connections", type=int, default=2048)
    one.add_argument("--ca", type=Path, help="certificates of an upstream that speaks TLS")
    one.add_argument("--cert", type=Path, help="certificate of this server: it speaks TLS")
    one.add_argument("--key", type=Path)
    uvloop.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
