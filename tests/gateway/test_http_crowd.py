"""Both sides of the door at once: callers that leave, upstreams that fail, and never a reply to the wrong caller."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
from collections import Counter
from collections.abc import Iterator
from types import FrameType, FunctionType

import pytest
from benchmarks.gateway.passthrough import Passing
from tests.support.raw_upstream import Script, pool, read_request, upstream
from tests.support.wire import door, peer, post, run, until

from llmops.gateway.calls import Request, Responder

ENDINGS = ("length", "chunked", "slow", "split", "close", "cut", "garbage", "surplus", "hang", "dead", "large")


def wire(ending: str, name: bytes, drawn: random.Random) -> bytes:
    """How an upstream gives a caller its own name back, or does not."""
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(name), name)
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in name)
    return {
        "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n",
        "surplus": whole + b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong",
        "close": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + name,
        "cut": whole[: drawn.randrange(len(whole))],
        "garbage": b"\0" * 100 + b"\r\n\r\n",
        "hang": b"",
        "dead": b"",
        "large": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(name) * 20_000, name * 20_000),
    }.get(ending, whole)


def mixed(drawn: random.Random) -> Script:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            _, name = await read_request(reader)
            ending = name.split(b"-")[0].decode()
            data = wire(ending, name, drawn)
            step = 1 if ending == "split" else len(data) + 1
            for at in range(0, len(data), step):
                if writer.is_closing():
                    return
                writer.write(data[at : at + step])
                await writer.drain()
                await asyncio.sleep(0.01 if ending == "slow" else 0)
            if ending == "hang":
                await reader.read()
            if ending in ("hang", "dead", "cut", "close"):
                return

    return script


@pytest.mark.parametrize("seed", range(4))
def test_everybody_gets_his_own_reply_or_none(seed: int) -> None:
    drawn = random.Random(seed)
    answered = failed = 0

    async def caller(port: int, who: int) -> None:
        nonlocal answered, failed
        for turn in range(12):
            ending = drawn.choice(ENDINGS)
            name = b"%b-%d-%d." % (ending.encode(), who, turn)
            async with peer(port) as one:
                if drawn.random() < 0.15:  # leave, at some point
                    await one.send(post(name)[: drawn.randrange(200)])
                    continue
                await one.send(post(name))
                if drawn.random() < 0.15 or ending == "hang":
                    await asyncio.sleep(drawn.random() * 0.01)
                    continue
                got = await one.reply()
                if got.status == 200:
                    answered += 1
                    assert got.body == (name * 20_000 if ending == "large" else name)
                else:
                    failed += 1
                    assert ending in ("cut", "garbage", "dead"), got

    async def work() -> None:
        async with upstream(mixed(drawn)) as origin, pool(origin.url, connections=8, reply_bytes=1 << 22) as one:

            def handle(request: Request, responder: Responder) -> None:
                Passing(one, request, responder)

            async with door(handle) as gate:
                await asyncio.gather(*[caller(gate.port, who) for who in range(16)])
                await until(lambda: not gate.server.connections)
                await until(lambda: not one.waiting)
                assert one.connections <= 8
                assert answered > 30
                assert failed > 3

    run(work())


def test_a_caller_that_leaves_stops_the_upstream_call() -> None:
    async def work() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            asked.set()
            if not await reader.read(1):
                raise ConnectionResetError

        asked = asyncio.Event()
        async with upstream(script) as origin, pool(origin.url) as one:

            def handle(request: Request, responder: Responder) -> None:
                Passing(one, request, responder)

            async with door(handle) as gate:
                async with peer(gate.port) as caller:
                    await caller.send(post())
                    await asked.wait()
                await origin.left.wait()
                assert not one.connections

    run(work())


def test_a_caller_that_does_not_read_slows_the_upstream_down() -> None:
    size = 60_000_000

    async def work() -> None:
        written = 0

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal written
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n" % size)
            for _ in range(size // 100_000):
                writer.write(b"x" * 100_000)
                await writer.drain()
                written += 100_000

        async with upstream(script) as origin, pool(origin.url) as one:

            def handle(request: Request, responder: Responder) -> None:
                Passing(one, request, responder)

            async with door(handle) as gate, peer(gate.port, limit=1 << 16) as caller:
                await caller.send(post(b'{"stream": true}'))
                before = -1
                while not written or written != before:
                    before = written
                    await asyncio.sleep(0.5)
                assert written < size, "60 MB fitted between an upstream and a caller that takes nothing"
                got = await caller.reply()
                assert len(got.body) == size

    run(work())


@contextlib.contextmanager
def cycles() -> Iterator[Counter[type]]:
    """Count, by type, what only the collector could free: the gateway's own, for other threads leave some too."""
    found: Counter[type] = Counter()
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield found
        gc.collect()
        found.update(type(thing) for thing in gc.garbage if _of_the_gateway(thing))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def _of_the_gateway(thing: object) -> bool:
    frame = thing if isinstance(thing, FrameType) else getattr(thing, "cr_frame", None)
    if isinstance(frame, FrameType):
        return "/llmops/" in frame.f_code.co_filename
    of = thing if isinstance(thing, FunctionType) else type(thing)
    return of.__module__.startswith(("llmops.", "asyncio", "uvloop"))


def test_requests_leave_no_cycles_behind() -> None:
    """What only the collector could free would cost every request, and show in the slowest ones."""

    async def work() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(asyncio.IncompleteReadError):
                while True:
                    await read_request(reader)
                    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")

        async with upstream(script) as origin, pool(origin.url) as one:

            def handle(request: Request, responder: Responder) -> None:
                Passing(one, request, responder)

            async with door(handle) as gate, peer(gate.port) as caller:
                gate.server.handler = handle
                for body in (b"{}", b'{"stream": true}'):
                    await caller.ask(post(body))
                with cycles() as found:
                    for number in range(200):
                        await caller.ask(post(b"{}" if number % 2 else b'{"stream": true}'))
                assert found.total() < 100, f"in cycles after 200 requests: {found}"

    run(work())
