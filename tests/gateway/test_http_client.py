"""The providers' side of the door against scripted upstreams: every way to reply, and every way to fail."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.wire import (
    JSON,
    Heard,
    Script,
    certificate,
    fetch,
    pool,
    read_request,
    run,
    until,
    upstream,
)

from llmops.core.errors import ConfigError
from llmops.gateway.calls import Fault, UpstreamRequest
from llmops.gateway.config import ProviderConfig, TlsConfig
from llmops.gateway.http.client import OriginPool
from llmops.gateway.http.dial import Address, Dialer, Origin
from llmops.gateway.http.timers import Timers

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def saying(*replies: bytes) -> Script:
    """Answer one request with each, on one connection; then close it."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for reply in replies:
            await read_request(reader)
            writer.write(reply)
            await writer.drain()

    return script


def silent(after: bytes = b"") -> Script:
    """Say so much, then nothing until the client leaves."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(after)
        await writer.drain()
        if not await reader.read(1):
            raise ConnectionResetError

    return script


def heard_of(reply: bytes, **options: int) -> Heard:
    async def work() -> Heard:
        async with upstream(saying(reply)) as origin, pool(origin.url, **options) as one:
            return await fetch(one)

    return run(work())


def test_the_request_is_written_as_it_was_meant() -> None:
    async def work() -> None:
        seen: list[tuple[bytes, bytes]] = []

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.append(await read_request(reader))
            writer.write(OK)

        async with upstream(script) as origin, pool(origin.url + "/v1") as one:
            heard = await fetch(one, UpstreamRequest("/v1/x?a=b", ((b"authorization", b"Bearer k"),), b"body"))
            assert heard.body == b"ok"
            head, body = seen[0]
            assert body == b"body"
            assert head == (
                b"POST /v1/x?a=b HTTP/1.1\r\nhost: 127.0.0.1:%d\r\naccept-encoding: identity\r\n"
                b"authorization: Bearer k\r\ncontent-length: 4\r\n\r\n" % origin.port
            )

    run(work())


GOOD = {
    "length": (OK, b"ok"),
    "no body": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "chunks": (CHUNKED + b"2\r\no1\r\n2\r\nk2\r\n0\r\n\r\n", b"o1k2"),
    "chunks with extension and trailer": (CHUNKED + b"2;a=b\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n", b"ok"),
    "until close": (b"HTTP/1.1 200 OK\r\n\r\nok until the end", b"ok until the end"),
    "until close, 1.0": (b"HTTP/1.0 200 OK\r\n\r\nok", b"ok"),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", b"ok"),
    "interim": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, b"ok"),
    "identity": (b"HTTP/1.1 200 OK\r\nContent-Encoding: identity\r\nContent-Length: 2\r\n\r\nok", b"ok"),
    "surplus": (OK + b"surplus", b"ok"),
}


@pytest.mark.parametrize(("reply", "body"), GOOD.values(), ids=GOOD)
def test_a_reply_is_read_in_one_piece_and_byte_by_byte(reply: bytes, body: bytes) -> None:
    async def work() -> None:
        async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            for byte in reply:
                writer.write(bytes([byte]))
                await asyncio.sleep(0)

        for script in (saying(reply), drip):
            async with upstream(script) as origin, pool(origin.url) as one:
                heard = await fetch(one)
                assert (heard.ended, heard.fault, heard.body) == (True, None, body)

    run(work())


def test_status_and_headers_are_told() -> None:
    heard = heard_of(b"HTTP/1.1 429 Too Many\r\nRetry-After: 3\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: 0\r\n\r\n")
    assert heard.status == 429
    assert list(heard.headers) == [
        (b"retry-after", b"3"), (b"x-a", b"1"), (b"x-a", b"2"), (b"content-length", b"0"),
    ]  # fmt: skip


CUT = {
    "nothing at all": b"",
    "within the head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "short of its length": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
    "between chunks": CHUNKED + b"2\r\nok\r\n",
    "within a chunk": CHUNKED + b"5\r\nok",
    "before the trailer's end": CHUNKED + b"2\r\nok\r\n0\r\n",
}


@pytest.mark.parametrize("reply", CUT.values(), ids=CUT)
def test_a_reply_that_ends_before_its_end_was_cut(reply: bytes) -> None:
    heard = heard_of(reply)
    assert heard.fault is not None
    assert heard.fault.kind == "cut"
    assert not heard.ended


INVALID = {
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "HTTP/2": b"HTTP/2 200\r\n\r\n",
    "bad status": b"HTTP/1.1 2000 OK\r\n\r\n",
    "bad header": b"HTTP/1.1 200 OK\r\nX A: 1\r\n\r\n",
    "folded header": b"HTTP/1.1 200 OK\r\nX-A: 1\r\n 2\r\n\r\n",
    "bare line feeds": b"HTTP/1.1 200 OK\r\nX-A: 1\nX-B: 1\r\n\r\n",
    "both lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "bad length": b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
    "unknown coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    "compressed": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok",
    "bad chunk size": CHUNKED + b"zz\r\nok\r\n0\r\n\r\n",
    "chunk longer than its size": CHUNKED + b"1\r\nok\r\n0\r\n\r\n",
    "protocol switch": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "interim for ever": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 20,
    "endless head": b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 20_000,
    "garbage": bytes(range(256)) * 400,
    "too large": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
    "too large in chunks": CHUNKED + b"10000\r\n%b\r\n" % (b"x" * 65536) * 17,
}


@pytest.mark.parametrize("reply", INVALID.values(), ids=INVALID)
def test_what_cannot_be_read_is_invalid(reply: bytes) -> None:
    heard = heard_of(reply)
    assert heard.fault is not None
    assert heard.fault.kind == "invalid"


def test_an_event_stream_may_be_longer_than_any_other_reply() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    heard = heard_of(head + b"10000\r\n%b\r\n" % (b"x" * 65536) * 17 + b"0\r\n\r\n")
    assert heard.ended
    assert len(heard.body) == 17 * 65536


def test_connections_are_kept_the_last_one_first() -> None:
    async def work() -> None:
        async with upstream(saying(*[OK] * 20)) as origin, pool(origin.url) as one:
            await asyncio.gather(*[fetch(one) for _ in range(3)])
            assert origin.connections == one.connections == 3
            for _ in range(5):
                assert (await fetch(one)).body == b"ok"
            assert origin.connections == 3

    run(work())


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        OK + b"surplus",
        OK.replace(b"1.1", b"1.0"),
    ],
)
def test_a_connection_that_is_not_to_be_trusted_is_not_kept(reply: bytes) -> None:
    async def work() -> None:
        async with upstream(saying(reply, reply)) as origin, pool(origin.url) as one:
            for number in range(1, 4):
                assert (await fetch(one)).body == b"ok"
                await until(lambda: not one.connections)
                assert origin.connections == number

    run(work())


def test_what_an_idle_connection_says_is_nobodys_reply() -> None:
    async def work() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(OK)
            await writer.drain()
            await said.wait()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
            await reader.read()

        said = asyncio.Event()
        async with upstream(script) as origin, pool(origin.url) as one:
            await fetch(one)
            said.set()
            await until(lambda: not one.connections)
            assert (await fetch(one)).body == b"ok"

    run(work())


def test_unused_connections_are_closed_after_a_while() -> None:
    async def work() -> None:
        async with upstream(saying(OK, OK)) as origin, pool(origin.url, idle_connection_s=0.05) as one:
            await fetch(one)
            await until(lambda: not one.connections)

    run(work())


def test_a_kept_connection_that_proves_dead_is_replaced_once() -> None:
    async def work() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(OK)
            await writer.drain()
            await read_request(reader)  # and closes without a byte

        async with upstream(script) as origin, pool(origin.url) as one:
            await fetch(one)
            heard = await fetch(one)
            assert heard.body == b"ok"
            assert origin.connections == 2

    run(work())


def test_a_fresh_connection_that_dies_is_not_replaced() -> None:
    async def work() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)

        async with upstream(script) as origin, pool(origin.url) as one:
            heard = await fetch(one)
            assert heard.fault is not None
            assert heard.fault.kind == "cut"
            assert origin.connections == 1

    run(work())


def test_once_a_byte_of_the_reply_came_nothing_is_sent_again() -> None:
    async def work() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(OK)
            await writer.drain()
            await read_request(reader)
            writer.write(b"H")

        async with upstream(script) as origin, pool(origin.url) as one:
            await fetch(one)
            heard = await fetch(one)
            assert heard.fault is not None
            assert heard.fault.kind == "cut"
            assert origin.connections == 1

    run(work())


def test_a_dead_connection_whose_replacement_fails_too_is_a_fault() -> None:
    async def work() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            if origin.connections == 1:
                writer.write(OK)
                await writer.drain()
                await read_request(reader)

        async with upstream(script) as origin, pool(origin.url) as one:
            await fetch(one)
            heard = await fetch(one)
            assert heard.fault is not None
            assert (heard.fault.kind, origin.connections) == ("cut", 2)

    run(work())


def test_refused() -> None:
    async def work() -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        async with pool(f"http://127.0.0.1:{port}") as one:
            heard = Heard()
            call = one.call(UpstreamRequest("/", JSON, b""), heard, first_byte_s=9, idle_s=9)
            await heard.over.wait()
            assert heard.fault is not None
            assert (heard.fault.kind, call.sent) == ("refused", False)

    run(work())


def test_a_name_that_nobody_knows_is_refused() -> None:
    async def work() -> None:
        async with pool("http://nobody.invalid") as one:
            heard = await fetch(one)
            assert heard.fault is not None
            assert heard.fault.kind in ("refused", "connect_timeout")

    run(work())


def test_connecting_ends_by_the_clock() -> None:
    async def work() -> None:
        # A listener whose queue is full answers no further SYN.
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            sock.listen(0)
            fillers = [socket.socket() for _ in range(4)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(sock.getsockname())
            async with pool(f"http://127.0.0.1:{sock.getsockname()[1]}", connect_s=0.2) as one:
                heard = await fetch(one)
                assert heard.fault is not None
                assert (heard.fault.kind, heard.fault.status) == ("connect_timeout", 504)
            for filler in fillers:
                filler.close()

    run(work())


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (b"", "first_byte_timeout"),
        (b"HTTP/1.1 200 OK\r\nX-", "first_byte_timeout"),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n", "first_byte_timeout"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "idle_timeout"),
        (CHUNKED + b"2\r\nok\r\n", "idle_timeout"),
    ],
)
def test_silence_ends_by_the_clock_and_closes_the_connection(said: bytes, kind: str) -> None:
    async def work() -> None:
        async with upstream(silent(said)) as origin, pool(origin.url) as one:
            heard = Heard()
            asked = UpstreamRequest("/", JSON, b"{}")
            call = one.call(asked, heard, first_byte_s=0.1 if kind[0] == "f" else 30, idle_s=0.1)
            await heard.over.wait()
            assert heard.fault is not None
            assert (heard.fault.kind, heard.fault.status, call.sent) == (kind, 504, True)
            await origin.left.wait()

    run(work())


def test_a_stream_that_keeps_coming_outlasts_the_clock() -> None:
    async def work() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(CHUNKED)
            for _ in range(40):
                writer.write(b"1\r\nx\r\n")
                await writer.drain()
                await asyncio.sleep(0.03)
            writer.write(b"0\r\n\r\n")

        async with upstream(script) as origin, pool(origin.url) as one:
            heard = await fetch(one, idle_s=1.0)
            assert heard.body == b"x" * 40

    run(work())


@pytest.mark.parametrize("said", [b"", CHUNKED + b"2\r\nok\r\n"])
def test_a_cancelled_call_closes_its_connection_and_is_silent(said: bytes) -> None:
    async def work() -> None:
        async with upstream(silent(said)) as origin, pool(origin.url) as one:
            heard = Heard()
            call = one.call(UpstreamRequest("/", JSON, b"{}"), heard, first_byte_s=30, idle_s=30)
            await until(lambda: call.sent and (heard.parts or not said))
            call.cancel()
            call.cancel()
            await origin.left.wait()
            assert not one.connections
            assert not heard.over.is_set()

    run(work())


def test_a_listener_may_cancel_from_within() -> None:
    async def work() -> None:
        class Impatient(Heard):
            def on_head(self, status: int, headers: object) -> None:
                call.cancel()

            def on_data(self, data: bytes) -> None:
                raise AssertionError("told after cancel")

        async with upstream(saying(OK, OK)) as origin, pool(origin.url) as one:
            call = one.call(UpstreamRequest("/", JSON, b"{}"), Impatient(), first_byte_s=30, idle_s=30)
            await until(lambda: call.sent and not one.connections)
            assert (await fetch(one)).body == b"ok"

    run(work())


def test_a_listener_may_call_again_from_within() -> None:
    async def work() -> None:
        class Eager(Heard):
            def on_end(self) -> None:
                one.call(UpstreamRequest("/", JSON, b"{}"), second, first_byte_s=30, idle_s=30)

        second = Heard()
        async with upstream(saying(OK, OK)) as origin, pool(origin.url) as one:
            one.call(UpstreamRequest("/", JSON, b"{}"), Eager(), first_byte_s=30, idle_s=30)
            await second.over.wait()
            assert second.body == b"ok"
            assert origin.connections == 1

    run(work())


def test_a_listener_that_fails_ends_its_own_call_only(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        class Broken(Heard):
            def on_data(self, data: bytes) -> None:
                raise ZeroDivisionError

        async with upstream(saying(OK, OK)) as origin, pool(origin.url) as one:
            broken = Broken()
            one.call(UpstreamRequest("/", JSON, b"{}"), broken, first_byte_s=30, idle_s=30)
            await broken.over.wait()
            assert broken.fault is not None
            assert (await fetch(one)).body == b"ok"

    run(work())
    assert "ZeroDivisionError" in caplog.text


def test_a_paused_call_holds_the_upstream_back_and_loses_nothing() -> None:
    size = 30_000_000

    async def work() -> None:
        written = 0

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal written
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            for _ in range(size // 100_000):
                writer.write(b"x" * 100_000)
                await writer.drain()
                written += 100_000

        async with upstream(script) as origin, pool(origin.url, reply_bytes=size) as one:
            heard = Heard()
            call = one.call(UpstreamRequest("/", JSON, b"{}"), heard, first_byte_s=30, idle_s=0.2)
            await heard.begun.wait()
            call.pause()
            before = -1
            while written != before:  # until the sockets between are full
                before = written
                await asyncio.sleep(0.5)
            assert written < size
            assert heard.fault is None, "our own silence was taken for the upstream's"
            call.resume()
            await heard.over.wait()
            assert len(heard.body) == size

    run(work())


def test_a_call_paused_before_it_has_a_connection_stays_paused_and_the_connection_is_kept_well() -> None:
    async def work() -> None:
        async with upstream(saying(OK, OK)) as origin, pool(origin.url) as one:
            heard = Heard()
            call = one.call(UpstreamRequest("/", JSON, b"{}"), heard, first_byte_s=30, idle_s=30)
            call.pause()
            await until(lambda: call.sent)
            await asyncio.sleep(0.1)
            assert not heard.status
            call.resume()
            await heard.over.wait()
            assert (await fetch(one)).body == b"ok"

    run(work())


def test_calls_past_the_width_of_the_pool_wait_in_line() -> None:
    async def work() -> None:
        order: list[bytes] = []

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                order.append((await read_request(reader))[1])
                await gate.acquire()
                writer.write(OK)

        gate = asyncio.Semaphore(0)
        async with upstream(script) as origin, pool(origin.url, connections=2) as one:
            bodies = [b"%d" % number for number in range(4)]
            calls = [asyncio.create_task(fetch(one, UpstreamRequest("/", JSON, body))) for body in bodies]
            await until(lambda: len(order) == 2)
            assert one.waiting == 2
            overflow = await fetch(one)
            assert overflow.fault is not None
            assert (overflow.fault.kind, overflow.fault.status) == ("overloaded", 503)
            for _ in range(4):
                gate.release()
            for done in await asyncio.gather(*calls):
                assert done.body == b"ok"
            assert sorted(order[:2]) == bodies[:2]
            assert sorted(order[2:]) == bodies[2:]
            assert origin.connections == 2

    run(work())


def test_waiting_in_line_ends_by_the_clock_and_cancelled_calls_leave_it() -> None:
    async def work() -> None:
        async with upstream(silent()) as origin, pool(origin.url, connections=2, connect_s=0.3) as one:
            running = [Heard(), Heard()]
            for heard in running:
                one.call(UpstreamRequest("/", JSON, b"{}"), heard, first_byte_s=30, idle_s=30)
            await until(lambda: one.connections == 2 and not one.waiting)
            leaving, waiting = Heard(), Heard()
            call = one.call(UpstreamRequest("/", JSON, b"{}"), leaving, first_byte_s=30, idle_s=30)
            late = one.call(UpstreamRequest("/", JSON, b"{}"), waiting, first_byte_s=30, idle_s=30)
            call.cancel()
            assert one.waiting == 1
            await waiting.over.wait()
            assert waiting.fault is not None
            assert (waiting.fault.kind, late.sent) == ("connect_timeout", False)
            assert not leaving.over.is_set()

    run(work())


@pytest.mark.parametrize(
    "asked",
    [
        UpstreamRequest("/a b", JSON, b""),
        UpstreamRequest("/a\r\nx: y", JSON, b""),
        UpstreamRequest("http://elsewhere/", JSON, b""),
        UpstreamRequest("/ä", JSON, b""),
        UpstreamRequest("", JSON, b""),
        UpstreamRequest("/", JSON, b"", "PO ST"),
        UpstreamRequest("/", ((b"x", b"a\r\ny: b"),), b""),
        UpstreamRequest("/", ((b"x", b"a\nb"),), b""),
        UpstreamRequest("/", ((b"x", b"a\0b"),), b""),
        UpstreamRequest("/", ((b"x y", b"a"),), b""),
        UpstreamRequest("/", ((b"Content-Length", b"5"),), b""),
        UpstreamRequest("/", [(b"transfer-encoding", b"chunked")], b""),
    ],
)
def test_nothing_can_be_injected_into_a_request(asked: UpstreamRequest) -> None:
    async def work() -> None:
        async with upstream(saying(OK)) as origin, pool(origin.url) as one:
            heard = Heard()
            call = one.call(asked, heard, first_byte_s=9, idle_s=9)
            assert not heard.over.is_set(), "a fault came before the call was returned"
            await heard.over.wait()
            assert heard.fault is not None
            assert (heard.fault.kind, call.sent, origin.connections) == ("bad_request", False, 0)

    run(work())


def test_a_get_has_no_body_and_head_no_reply_body() -> None:
    async def work() -> None:
        reply = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"
        async with upstream(saying(reply, OK)) as origin, pool(origin.url) as one:
            heard = await fetch(one, UpstreamRequest("/", JSON, b"", "HEAD"))
            assert (heard.ended, heard.body) == (True, b"")
            assert (await fetch(one, UpstreamRequest("/", JSON, b"", "GET"))).body == b"ok"
            assert origin.connections == 1

    run(work())


def test_an_early_refusal_of_a_large_body_is_heard() -> None:
    async def work() -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            await reader.read()

        async with upstream(script) as origin, pool(origin.url) as one:
            heard = await fetch(one, UpstreamRequest("/", JSON, b"x" * 30_000_000))
            assert heard.status == 413
            await until(lambda: not one.connections)

    run(work())


def test_closing_the_pool_ends_its_calls() -> None:
    async def work() -> None:
        async with upstream(silent()) as origin, pool(origin.url, connections=1) as one:
            running, waiting, late = Heard(), Heard(), Heard()
            asked = UpstreamRequest("/", JSON, b"{}")
            one.call(asked, running, first_byte_s=30, idle_s=30)
            await until(lambda: one.connections == 1)
            one.call(asked, waiting, first_byte_s=30, idle_s=30)
            one.close()
            one.call(asked, late, first_byte_s=30, idle_s=30)
            for heard in (running, waiting, late):
                await heard.over.wait()
                assert heard.fault is not None
            await origin.left.wait()

    run(work())


def test_tls_is_checked_against_the_configured_authority_and_sessions_are_used_again(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(cert, key)
    close = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

    async def work() -> None:
        resumed: list[bool] = []

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            resumed.append(writer.get_extra_info("ssl_object").session_reused)
            await saying(close)(reader, writer)

        async with upstream(script, ssl=served) as origin:
            url = f"https://127.0.0.1:{origin.port}"
            async with pool(url, tls=TlsConfig(ca_file=cert)) as one:
                for _ in range(3):
                    assert (await fetch(one)).body == b"ok"
                    await until(lambda one=one: not one.connections)
            assert resumed == [False, True, True]
            async with pool(url, tls=TlsConfig(ca_file=cert, server_name="localhost")) as one:
                assert (await fetch(one)).body == b"ok"

    run(work())


@pytest.mark.parametrize("fault", ["unknown authority", "other name", "not tls", "old tls"])
def test_an_upstream_that_does_not_prove_who_it_is_gets_nothing(tmp_path: Path, fault: str) -> None:
    cert, key = certificate(tmp_path)
    served: ssl.SSLContext | None = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    assert served is not None
    served.load_cert_chain(cert, key)
    tls = TlsConfig(ca_file=cert)
    if fault == "unknown authority":
        tls = TlsConfig()
    elif fault == "other name":
        tls = TlsConfig(ca_file=cert, server_name="elsewhere.example")
    elif fault == "not tls":
        served = None
    else:
        served.minimum_version = ssl.TLSVersion.TLSv1_2
        served.maximum_version = ssl.TLSVersion.TLSv1_2
        served.set_ciphers("AES128-SHA")

    async def work() -> None:
        got: list[bytes] = []

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 mail ready\r\n")
            got.append(await reader.read(65536))

        async with upstream(script, ssl=served) as origin:
            async with pool(f"https://127.0.0.1:{origin.port}", tls=tls) as one:
                heard = Heard()
                asked = UpstreamRequest("/", ((b"authorization", b"Bearer secret"),), b"{}")
                call = one.call(asked, heard, first_byte_s=30, idle_s=30)
                await heard.over.wait()
                assert heard.fault is not None
                assert (heard.fault.kind, call.sent) == ("tls", False)
            assert b"secret" not in b"".join(got)

    run(work())


def test_a_client_certificate_is_shown_where_it_is_asked_for(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    ours, our_key = certificate(tmp_path, "gateway")
    ours.write_bytes(ours.read_bytes() + our_key.read_bytes())
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ours)
    served.load_cert_chain(cert, key)
    served.verify_mode = ssl.CERT_REQUIRED

    async def work() -> None:
        async with upstream(saying(OK), ssl=served) as origin:
            url = f"https://127.0.0.1:{origin.port}"
            async with pool(url, tls=TlsConfig(ca_file=cert, client_cert=ours)) as one:
                assert (await fetch(one)).body == b"ok"
            async with pool(url, tls=TlsConfig(ca_file=cert)) as one:
                assert (await fetch(one)).fault is not None

    run(work())


@pytest.mark.parametrize(
    "config",
    [
        lambda folder: ProviderConfig(url="https://h", tls=TlsConfig(ca_file=folder / "missing.pem")),
        lambda folder: ProviderConfig(url="https://h", tls=TlsConfig(client_cert=folder / "missing.pem")),
        lambda folder: ProviderConfig(url="http://user:password@h"),
        lambda folder: ProviderConfig(url="http://"),
        lambda folder: ProviderConfig(url="http://h:99999"),
    ],
)
def test_a_provider_that_cannot_be_called_is_a_configuration_error(
    tmp_path: Path, config: Callable[[Path], ProviderConfig]
) -> None:
    async def work() -> None:
        timers = Timers(asyncio.get_running_loop())
        with pytest.raises(ConfigError) as error:
            OriginPool(config(tmp_path), timers)
        assert "password" not in str(error.value)
        timers.close()

    run(work())


def test_both_families_of_a_name_are_tried() -> None:
    """`localhost` often has an IPv6 address where nobody listens."""

    async def work() -> None:
        async with upstream(saying(OK)) as origin, pool(f"http://localhost:{origin.port}") as one:
            assert (await fetch(one)).body == b"ok"

    run(work())


def test_faults_are_safe_to_tell() -> None:
    heard = heard_of(b"HTTP/1.1 200 OK\r\nbad header with sk-secret\r\n\r\n")
    assert isinstance(heard.fault, Fault)
    assert "sk-secret" not in heard.fault.message


def test_a_burst_of_calls_asks_the_resolver_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        asked = 0
        resolve = Dialer._look_up

        async def counted(self: Dialer) -> list[Address]:
            nonlocal asked
            asked += 1
            return await resolve(self)

        monkeypatch.setattr(Dialer, "_look_up", counted)
        async with upstream(saying(OK, OK)) as origin, pool(f"http://localhost:{origin.port}") as one:
            for heard in await asyncio.gather(*[fetch(one) for _ in range(20)]):
                assert heard.body == b"ok"
            assert asked == 1

    run(work())


def test_addresses_are_tried_side_by_side_and_the_losers_closed() -> None:
    async def work() -> None:
        async with upstream(saying(OK)) as origin:
            dialer = Dialer(Origin.of(origin.url), None, None)
            with socket.socket() as full:  # takes no further connection, and refuses none
                full.bind(("127.0.0.1", 0))
                full.listen(0)
                fillers = [socket.socket() for _ in range(4)]
                for filler in fillers:
                    filler.setblocking(False)
                    filler.connect_ex(full.getsockname())
                stuck = (socket.AF_INET, full.getsockname())
                good = (socket.AF_INET, ("127.0.0.1", origin.port))
                connected = await dialer._connect([stuck, good])
                assert connected.getpeername() == good[1]
                connected.close()
                for filler in fillers:
                    filler.close()

    run(work())
