"""Properties of the transport over arbitrary bytes: how they are split never matters, and nothing is read in two ways.

httptools (llhttp) is the second reader: whatever the door accepts, it must read the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import httptools
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.raw_upstream import Heard
from tests.support.wire import Memory

from llmops.gateway.calls import Fault, Request, Responder
from llmops.gateway.config import HttpConfig, ProviderConfig
from llmops.gateway.http import frame
from llmops.gateway.http.chunks import Chunks
from llmops.gateway.http.client import OriginPool
from llmops.gateway.http.door import Connection
from llmops.gateway.http.head import BadMessageError, parse_request
from llmops.gateway.http.server import HttpServer
from llmops.gateway.http.timers import Timers
from llmops.gateway.http.upstream import Call, Upstream

TIMES = 50 if os.environ.get("LLMOPS_SOAK") else 1
TOKEN = st.text("!#$%&'*+-.^_`|~0123456789abcXYZ", min_size=1, max_size=12).map(str.encode)
VALUE = st.binary(max_size=30).map(lambda raw: bytes(byte for byte in raw if byte == 9 or 32 <= byte != 127))
TARGET = st.text("abc/%20-._~:@!$&'()*+,;=?", max_size=30).map(lambda text: b"/" + text.encode())
OURS = {b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", *frame.OWN}
FIELDS = st.lists(st.tuples(TOKEN, VALUE), max_size=8, unique_by=lambda field: field[0].lower()).map(
    lambda fields: [field for field in fields if field[0].lower() not in OURS]
)
BODY = st.binary(max_size=200)
CUTS = st.lists(st.integers(0, 4000), max_size=12)
Seen = tuple[str, str, str, dict[bytes, bytes], bytes]


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner.get_loop()


def inside(loop: asyncio.AbstractEventLoop, work: Callable[[], Any]) -> Any:
    async def run() -> Any:
        return work()

    return loop.run_until_complete(run())


def chunked(draw: st.DrawFn, body: bytes) -> bytes:
    """The body in chunks of drawn sizes, with a drawn spelling of each size."""
    out, at = b"", 0
    while at < len(body):
        size = draw(st.integers(1, len(body) - at))
        spelling = draw(st.sampled_from([b"%x", b"%X", b"00%x"]))
        out += spelling % size + b"\r\n" + body[at : at + size] + b"\r\n"
        at += size
    return out + b"0\r\n" + draw(st.sampled_from([b"", b"X-Sum: 1\r\n"])) + b"\r\n"


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, Seen]:
    """A valid request as bytes, and what a reader must make of it."""
    method, target = draw(st.sampled_from([b"POST", b"GET", b"PUT"])), draw(TARGET)
    fields, body = draw(FIELDS), draw(BODY)
    if draw(st.booleans()):
        framing, wire = (b"Transfer-Encoding", b"chunked"), chunked(draw, body)
    else:
        framing, wire = (b"Content-Length", b"%d" % len(body)), body
    lines = draw(st.permutations([(b"Host", b"localhost"), framing, *fields]))
    blank = draw(st.sampled_from([b"", b" ", b"\t "]))
    head = b"".join(b"%b:%b%b%b\r\n" % (name, blank, value, blank) for name, value in lines)
    path, _, query = target.decode().partition("?")
    headers = {name.lower(): value.strip(b" \t") for name, value in lines if name != b"Content-Length"}
    return b"%b %b HTTP/1.1\r\n%b\r\n%b" % (method, target, head, wire), (method.decode(), path, query, headers, body)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:stop] for start, stop in pairwise(edges)]


class Fed:
    """A server connection without a socket, answering each request at once."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.transport = Memory()
        self.timers = Timers(asyncio.get_running_loop())
        self.server = HttpServer(self._handle, HttpConfig(header_bytes=8192, body_bytes=1 << 20), self.timers)
        self.connection: Connection = self.server()
        self.connection.connection_made(self.transport)

    def _handle(self, request: Request, responder: Responder) -> None:
        self.seen.append((request.method, request.path, request.query, dict(request.headers), request.body))
        responder.send(200, (), b"ok")

    async def feed(self, parts: list[bytes]) -> None:
        for part in parts:
            if not self.transport.closed:
                self.connection.data_received(part)
        for _ in range(20):
            await asyncio.sleep(0)  # pipelined requests are taken up one turn of the loop apart
        self.connection.connection_lost(None)
        self.timers.close()


def fed(loop: asyncio.AbstractEventLoop, parts: list[bytes]) -> Fed:
    async def run() -> Fed:
        one = Fed()
        await one.feed(parts)
        return one

    return loop.run_until_complete(run())


@given(several=st.lists(requests(), min_size=1, max_size=4), cuts=CUTS)
@settings(max_examples=75 * TIMES, deadline=None)
def test_how_requests_are_split_never_matters(
    loop: asyncio.AbstractEventLoop, several: list[tuple[bytes, Seen]], cuts: list[int]
) -> None:
    data = b"".join(wire for wire, _ in several)
    expected = [seen for _, seen in several]
    assert fed(loop, pieces(data, cuts)).seen == expected


@given(one=requests(), bodies=st.lists(BODY, min_size=1, max_size=4))
@settings(max_examples=40 * TIMES, deadline=None)
def test_a_head_that_comes_again_is_read_as_if_it_were_the_first(
    loop: asyncio.AbstractEventLoop, one: tuple[bytes, Seen], bodies: list[bytes]
) -> None:
    wire, seen = one
    head, _, rest = wire.partition(b"\r\n\r\n")
    length = re.search(rb"\r\nContent-Length:[ \t]*([0-9]+)", head)
    parts = [wire]
    for body in bodies:
        again = head
        if length is not None:
            rest = body
            again = b"%b%d%b" % (head[: length.start(1)], len(body), head[length.end(1) :])
        parts.append(again + b"\r\n\r\n" + rest)
    expected = [seen, *((*seen[:4], body if length is not None else seen[4]) for body in bodies)]
    assert fed(loop, parts).seen == expected


@given(one=requests())
@settings(max_examples=20 * TIMES, deadline=None)
def test_byte_by_byte_is_as_good_as_whole(loop: asyncio.AbstractEventLoop, one: tuple[bytes, Seen]) -> None:
    data, expected = one
    assert fed(loop, [bytes([byte]) for byte in data]).seen == [expected]


class Second:
    """What llhttp makes of the same bytes: of the first message in them."""

    def __init__(self, data: bytes) -> None:
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.whole = False
        self.method = ""
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(data)

    def on_url(self, target: bytes) -> None:
        if not self.whole:
            self.target += target

    def on_headers_complete(self) -> None:
        if not self.whole:
            self.method = self._parser.get_method().decode()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.whole:
            self.headers.append((name.lower(), value.strip(b" \t")))

    def on_body(self, data: bytes) -> None:
        if not self.whole:
            self.body += data

    def on_message_complete(self) -> None:
        self.whole = True


def mutated(draw: st.DrawFn, data: bytes) -> bytes:
    """The same with a few bytes replaced, inserted or left out, such as smugglers use."""
    odd = st.sampled_from([b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b":", b",", b";", b"0", b"\x0b", b"\xff", b"x"])
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(odd) + data[at + draw(st.integers(0, 2)) :]
    return data


@st.composite
def almost_requests(draw: st.DrawFn) -> bytes:
    return mutated(draw, draw(requests())[0])


@given(data=almost_requests())
@settings(max_examples=250 * TIMES, deadline=None)
def test_what_is_accepted_is_read_alike_by_another_parser(loop: asyncio.AbstractEventLoop, data: bytes) -> None:
    """Refusing more than llhttp does is fine; reading differently is how requests are smuggled."""
    seen = fed(loop, [data]).seen
    if not seen:
        return
    method, path, query, headers, body = seen[0]
    try:
        second = Second(data)
    except httptools.HttpParserUpgrade:
        return
    except httptools.HttpParserError:  # perhaps only of a second message
        try:
            second = Second(data[: first_message(data)])
        except httptools.HttpParserError:
            return  # it refuses (a tab after `chunked`, say): nobody is misled
    target = second.target.decode("ascii")
    if not target.startswith("/"):
        target = target.partition("://")[2].partition("/")[2].join(["/", ""])
    assert (second.method, target) == (method, f"{path}?{query}" if "?" in target else path)
    joined: dict[bytes, bytes] = {}
    for name, value in second.headers:
        if name in headers:
            joined[name] = joined[name] + b", " + value if name in joined else value
    assert joined == headers
    assert second.body.startswith(body)


def first_message(data: bytes) -> int:
    """Where the first message ends, by the door's own account."""
    end = data.index(b"\r\n\r\n") + 4
    length = parse_request(data[: end - 4])[1]
    if length >= 0:
        return end + length
    chunks = Chunks()
    chunks.feed(data[end:])
    return len(data) - len(chunks.surplus)


@given(data=st.one_of(st.binary(max_size=400), almost_requests()), cuts=CUTS)
@settings(max_examples=150 * TIMES, deadline=None)
def test_no_bytes_crash_the_door_or_hang_it(loop: asyncio.AbstractEventLoop, data: bytes, cuts: list[int]) -> None:
    """Every connection ends in replies, an error with a close, or a deadline."""

    async def run() -> None:
        one = Fed()
        for part in pieces(data, cuts):
            one.connection.data_received(part)
        for _ in range(20):
            await asyncio.sleep(0)
        assert one.transport.closed or one.connection.deadline != float("inf")
        assert one.transport.written.startswith(b"HTTP/1.1 ") or not one.transport.written
        one.timers.now += 1000.0
        one.connection.expire()
        if not one.transport.closed:  # the error is out; what lingers goes at the next deadline
            one.connection.expire()
        assert one.transport.closed
        one.connection.connection_lost(None)
        one.timers.close()

    loop.run_until_complete(run())


@given(body=BODY, data=st.data(), cuts=CUTS, extra=st.binary(max_size=10))
@settings(max_examples=100 * TIMES, deadline=None)
def test_chunks_come_apart_however_they_are_split(
    body: bytes, data: st.DataObject, cuts: list[int], extra: bytes
) -> None:
    wire = data.draw(st.composite(chunked)(body)) + extra
    chunks = Chunks()
    got, surplus = b"", b""
    for part in pieces(wire, cuts):
        if chunks.done:
            surplus += part
        else:
            got += chunks.feed(part)
            surplus += chunks.surplus
    assert (got, surplus, chunks.done) == (body, extra, True)


@given(headers=st.lists(st.tuples(st.binary(max_size=10), st.binary(max_size=20)), max_size=6))
@settings(max_examples=150 * TIMES, deadline=None)
def test_header_lines_are_refused_or_read_back_the_same(headers: list[tuple[bytes, bytes]]) -> None:
    try:
        lines = frame.field_lines(headers)
    except ValueError:
        return
    assert lines.count(b"\r\n") == lines.count(b"\n") == lines.count(b"\r") == len(headers)
    split = [tuple(line.split(b": ", 1)) for line in lines.split(b"\r\n")[:-1]]
    assert split == headers


class Answering:
    """An upstream connection without a socket, on which one call waits for its reply."""

    def __init__(self) -> None:
        self.timers = Timers(asyncio.get_running_loop())
        self.pool = OriginPool(ProviderConfig(url="http://127.0.0.1:1"), self.timers, reply_bytes=1 << 20)
        self.heard = Heard()
        self.connection = Upstream(self.pool)
        self.connection.connection_made(Memory())
        call = Call(self.pool, self.heard, 60.0, 60.0)
        call.wire = b"POST / HTTP/1.1\r\n\r\n"
        self.connection.begin(call)

    def feed(self, parts: list[bytes]) -> Heard:
        for part in parts:
            self.connection.data_received(part)
        self.connection.eof_received()
        self.connection.connection_lost(None)
        self.pool.close()
        self.timers.close()
        return self.heard


@st.composite
def replies(draw: st.DrawFn) -> tuple[bytes, int, bytes, str]:
    status, fields, body = draw(st.sampled_from([200, 400, 429, 500, 529])), draw(FIELDS), draw(BODY)
    fields = [field for field in fields if field[0].lower() not in (b"content-encoding", b"content-type")]
    lines = b"".join(b"%b: %b\r\n" % field for field in fields)
    kind = draw(st.sampled_from(["length", "chunked", "close"]))
    if kind == "length":
        wire = lines + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    elif kind == "chunked":
        wire = lines + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(draw, body)
    else:
        wire = lines + b"\r\n" + body
    interim = draw(st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n"]))
    return interim + b"HTTP/1.1 %d Some\r\n" % status + wire, status, body, kind


@given(reply=replies(), cuts=CUTS)
@settings(max_examples=100 * TIMES, deadline=None)
def test_how_a_reply_is_split_never_matters(
    loop: asyncio.AbstractEventLoop, reply: tuple[bytes, int, bytes, str], cuts: list[int]
) -> None:
    wire, status, body, _ = reply
    heard = inside(loop, lambda: Answering().feed(pieces(wire, cuts)))
    assert (heard.status, heard.body, heard.ended, heard.fault) == (status, body, True, None)


@given(reply=replies(), cuts=CUTS, at=st.integers(0, 4000))
@settings(max_examples=100 * TIMES, deadline=None)
def test_a_reply_cut_anywhere_is_never_taken_for_whole(
    loop: asyncio.AbstractEventLoop, reply: tuple[bytes, int, bytes, str], cuts: list[int], at: int
) -> None:
    wire, _, body, kind = reply
    part = wire[: at % len(wire)]
    heard = inside(loop, lambda: Answering().feed(pieces(part, cuts)))
    assert heard.over.is_set()
    assert not (heard.ended and heard.body != body and kind != "close"), "short of its length or its last chunk"
    assert isinstance(heard.fault, Fault) or heard.ended


@given(data=st.one_of(st.binary(max_size=400), replies().map(lambda reply: reply[0])), more=st.data(), cuts=CUTS)
@settings(max_examples=150 * TIMES, deadline=None)
def test_no_bytes_crash_a_call_or_leave_it_without_an_end(
    loop: asyncio.AbstractEventLoop, data: bytes, more: st.DataObject, cuts: list[int]
) -> None:
    wire = more.draw(st.composite(mutated)(data))
    heard = inside(loop, lambda: Answering().feed(pieces(wire, cuts)))
    assert heard.over.is_set()


@given(block=st.binary(max_size=120))
@settings(max_examples=150 * TIMES, deadline=None)
def test_a_head_is_parsed_or_refused(block: bytes) -> None:
    for data in (block, b"GET / HTTP/1.1\r\n" + block, b"GET / HTTP/1.1\r\nHost: a\r\n" + block):
        with contextlib.suppress(BadMessageError):
            assert parse_request(data)[0].headers[b"host"]
