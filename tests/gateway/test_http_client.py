"""Requests and replies of the providers' side: every way to reply, and every way to reply wrongly."""

from __future__ import annotations

import asyncio

import pytest
from tests.support.raw_upstream import CHUNKED, OK, Heard, fetch, pool, read_request, saying, silent, upstream
from tests.support.wire import JSON, run, until

from llmops.gateway.calls import Fault, UpstreamRequest


def heard_of(reply: bytes, **options: int) -> Heard:
    async def work() -> Heard:
        async with upstream(saying(reply)) as origin, pool(origin.url, **options) as one:
            return await fetch(one)

    return run(work())


def test_the_request_is_written_as_it_was_meant() -> None:
    async def work() -> None:
        seen: list[tuple[bytes, bytes]] = []

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for _ in range(2):
                seen.append(await read_request(reader))
                writer.write(OK)

        async with upstream(script) as origin, pool(origin.url + "/v1") as one:
            heard = await fetch(one, UpstreamRequest("/v1/x?a=b", ((b"authorization", b"Bearer k"),), b"body"))
            assert heard.body == b"ok"
            head, body = seen[0]
            assert body == b"body"
            assert head == (
                b"POST /v1/x?a=b HTTP/1.1\r\nhost: 127.0.0.1:%d\r\naccept-encoding: identity\r\n"
                b"authorization: Bearer k\r\nuser-agent: llmops-gateway\r\ncontent-length: 4\r\n\r\n" % origin.port
            )
            await fetch(one, UpstreamRequest("/", [(b"User-Agent", b"mine")], b""))
            assert seen[1][0].lower().count(b"user-agent") == 1

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


def test_a_reply_that_comes_again_is_not_taken_for_the_one_between() -> None:
    limited = b"HTTP/1.1 429 Too Many\r\nRetry-After: 3\r\nContent-Length: 2\r\n\r\nno"
    between = CHUNKED + b"2\r\nok\r\n0\r\n\r\n"
    found: list[tuple[int, bytes]] = []

    async def work() -> None:
        async with upstream(saying(limited, between, limited, between)) as origin, pool(origin.url) as one:
            for _ in range(4):
                heard = await fetch(one)
                found.append((heard.status, heard.body))

    run(work())
    assert found == [(429, b"no"), (200, b"ok")] * 2


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
        UpstreamRequest("/", ((b"Host", b"elsewhere"),), b""),
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


def test_faults_are_safe_to_tell() -> None:
    heard = heard_of(b"HTTP/1.1 200 OK\r\nbad header with sk-secret\r\n\r\n")
    assert isinstance(heard.fault, Fault)
    assert "sk-secret" not in heard.fault.message


def test_what_came_before_a_bad_chunk_is_told_before_the_fault() -> None:
    heard = heard_of(CHUNKED + b"2\r\nok\r\n3\r\nyes\r\nzz\r\n")
    assert heard.fault is not None
    assert (heard.fault.kind, heard.body) == ("invalid", b"okyes")
