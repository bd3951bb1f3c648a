"""Callers that lie about lengths, never finish, flood, or speak something else: each refused, and none holds a thing.

Sources of the cases: RFC 9112 section 11.2 (request smuggling) and section 2.2, and RFC 9110 section 5.5.
"""

from __future__ import annotations

import asyncio
import json
import socket

import pytest
from tests.support.wire import Answered, door, peer, post, run, until, wait

from llmops.gateway.calls import Request, Responder
from llmops.gateway.http import door as door_module

HOST = b"Host: localhost\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


def refused(data: bytes, **config: int | float) -> Answered:
    """What the caller sees; the handler saw nothing, the connection is over, and another caller is served."""

    async def work() -> Answered:
        async with door(**config) as gate:
            async with peer(gate.port) as one:
                got = await one.ask(data)
                assert got.headers[b"connection"] == b"close"
                assert await one.rest() == b"", "a second reply: the bytes were read as two requests"
            assert not gate.requests
            assert (await gate.ask(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")).status == 200
            error = json.loads(got.body)["error"]
            assert set(error) == {"message", "type", "param", "code"}
            return got

    return run(work())


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"

BAD_HEADS = {
    "both lengths": HOST + b"Content-Length: 4\r\n" + CHUNKED,
    "both lengths, other order": HOST + CHUNKED + b"Content-Length: 4\r\n",
    "two lengths that differ": HOST + b"Content-Length: 4\r\nContent-Length: 5\r\n",
    "two lengths that agree": HOST + b"Content-Length: 4\r\nContent-Length: 4\r\n",
    "a list of lengths": HOST + b"Content-Length: 4, 4\r\n",
    "a length with a sign": HOST + b"Content-Length: +4\r\n",
    "a negative length": HOST + b"Content-Length: -1\r\n",
    "a length with an underscore": HOST + b"Content-Length: 1_0\r\n",
    "a hexadecimal length": HOST + b"Content-Length: 0x4\r\n",
    "an empty length": HOST + b"Content-Length:\r\n",
    "a length in other digits": HOST + "Content-Length: ٤\r\n".encode(),
    "a length past all bounds": HOST + b"Content-Length: 9999999999999999999999\r\n",
    "chunked twice": HOST + CHUNKED + CHUNKED,
    "chunked and more": HOST + b"Transfer-Encoding: gzip, chunked\r\n",
    "chunked but not last": HOST + b"Transfer-Encoding: chunked, identity\r\n",
    "unknown coding": HOST + b"Transfer-Encoding: xchunked\r\n",
    "coding in quotes": HOST + b'Transfer-Encoding: "chunked"\r\n',
    "vertical tab in the coding": HOST + b"Transfer-Encoding: \x0bchunked\r\n",
    "empty coding": HOST + b"Transfer-Encoding:\r\n",
    "space before the colon": HOST + b"Transfer-Encoding : chunked\r\n",
    "tab before the colon": HOST + b"Content-Length\t: 4\r\n",
    "a folded line": HOST + b"X-A: 1\r\n Transfer-Encoding: chunked\r\n",
    "a folded line by tab": HOST + b"X-A: 1\r\n\tb\r\n",
    "a line that begins with a space": b" " + HOST,
    "NUL in a value": HOST + b"X-A: a\0b\r\n",
    "NUL in a name": HOST + b"X\0A: a\r\n",
    "bare CR in a value": HOST + b"X-A: a\rb\r\n",
    "bare LF in a value": HOST + b"X-A: a\nX-B: b\r\n",
    "bell in a value": HOST + b"X-A: \x07\r\n",
    "DEL in a value": HOST + b"X-A: \x7f\r\n",
    "no colon": HOST + b"nonsense\r\n",
    "an empty name": HOST + b": value\r\n",
    "non-ASCII name": HOST + "Ä: 1\r\n".encode(),
    "braces in a name": HOST + b"a{b}: 1\r\n",
    "no host": b"",
    "two hosts": HOST + HOST,
    "a host with a path": b"Host: a/b\r\n",
    "a host with a user": b"Host: u@b\r\n",
    "two hosts in one": b"Host: a, b\r\n",
    "an empty host": b"Host:\r\n",
    "two keys": HOST + b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n",
    "two keys of the other kind": HOST + b"x-api-key: a\r\nx-api-key: b\r\n",
}


@pytest.mark.parametrize("lines", BAD_HEADS.values(), ids=BAD_HEADS)
def test_a_head_that_can_be_read_in_two_ways_is_refused(lines: bytes) -> None:
    assert refused(b"POST / HTTP/1.1\r\n" + lines + b"\r\n0\r\n\r\n" + SMUGGLED).status == 400


REQUEST_LINES = {
    b"GET  / HTTP/1.1": 400,
    b"GET / HTTP/1.1 ": 400,
    b"GET /": 400,
    b"GET / a HTTP/1.1": 400,
    b"GET\t/\tHTTP/1.1": 400,
    b"G@T / HTTP/1.1": 400,
    b"BREW / HTTP/1.1": 501,
    b"get / HTTP/1.1": 501,
    b"TRACE / HTTP/1.1": 501,
    b"CONNECT example.com:443 HTTP/1.1": 501,
    b"GET example.com:443 HTTP/1.1": 400,
    b"GET * HTTP/1.1": 400,
    b"OPTIONS * HTTP/1.1": 400,
    b"GET /a#b HTTP/1.1": 400,
    b"GET /\\..\\ HTTP/1.1": 400,
    b"GET /\xff HTTP/1.1": 400,
    b"GET /a\0b HTTP/1.1": 400,
    b"GET http://other/ HTTP/1.1": 400,
    b"GET http://user@localhost/ HTTP/1.1": 400,
    b"GET ftp://localhost/ HTTP/1.1": 400,
    b"GET //evil@localhost\x7f HTTP/1.1": 400,
    b"GET / HTTP/2.0": 505,
    b"PRI * HTTP/2.0": 505,
    b"GET / HTTP/0.9": 505,
    b"GET / HTTP/1.2": 505,
    b"GET / HTTP/1.1x": 400,
    b"GET / http/1.1": 400,
    b"GET / HTTP/11": 400,
    b"\x16\x03\x01\x02\x00": 400,
}


@pytest.mark.parametrize(("line", "status"), REQUEST_LINES.items())
def test_a_bad_request_line_is_refused(line: bytes, status: int) -> None:
    assert refused(line + b"\r\n" + HOST + b"\r\n").status == status


def test_an_absolute_target_counts_only_if_it_names_the_same_host() -> None:
    async def work() -> None:
        async with door() as gate:
            await gate.ask(b"GET http://localhost/a?b HTTP/1.1\r\n" + HOST + b"\r\n")
            assert (gate.requests[0].path, gate.requests[0].query) == ("/a", "b")
            await gate.ask(b"GET HTTP://localhost HTTP/1.1\r\n" + HOST + b"\r\n")
            assert gate.requests[1].path == "/"

    run(work())


BAD_CHUNKS = {
    "no size": b"\r\nhello\r\n",
    "size with a sign": b"+5\r\nhello\r\n0\r\n\r\n",
    "size with 0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "size with an underscore": b"0_5\r\nhello\r\n0\r\n\r\n",
    "size with a blank": b" 5\r\nhello\r\n0\r\n\r\n",
    "negative size": b"-5\r\nhello\r\n0\r\n\r\n",
    "size past all bounds": b"fffffffffffffffff\r\n",
    "bare LF after the size": b"5\nhello\r\n0\r\n\r\n",
    "data longer than its size": b"3\r\nhello\r\n0\r\n\r\n",
    "data shorter than its size": b"7\r\nhello\r\n0\r\n\r\n",
    "bare LF after the data": b"5\r\nhello\n0\r\n\r\n",
    "bare CR after the data": b"5\r\nhello\rx0\r\n\r\n",
    "an extension": b"5;a=b\r\nhello\r\n0\r\n\r\n",
    "an extension with a line feed": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "an extension without end": b"5;" + b"a" * 1000,
    "bad trailer": b"0\r\nX : 1\r\n\r\n",
    "folded trailer": b"0\r\nX: 1\r\n y\r\n\r\n",
    "endless trailer": b"0\r\n" + b"X: 1\r\n" * 2000,
}


@pytest.mark.parametrize("body", BAD_CHUNKS.values(), ids=BAD_CHUNKS)
def test_bad_chunks_are_refused(body: bytes) -> None:
    assert refused(b"POST / HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n" + body + SMUGGLED).status in (400, 431)


def test_a_body_of_tiny_chunks_is_refused() -> None:
    data = b"POST / HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n" + b"1\r\nx\r\n" * 3000
    assert refused(data).status == 400


def test_too_large_a_head_is_refused_whether_it_ends_or_not() -> None:
    line = b"POST / HTTP/1.1\r\n" + HOST
    filler = b"X-A: " + b"a" * 500 + b"\r\n"
    assert refused(line + filler * 10 + b"\r\n", header_bytes=2048).status == 431
    assert refused(line + filler * 10, header_bytes=2048).status == 431
    assert refused(line + b"X-A: " + b"a" * 5000, header_bytes=2048).status == 431
    assert refused(line + b"A: b\r\n" * 150 + b"\r\n").status == 431
    assert refused(line + b"A%d: b\r\n" * 150 % tuple(range(150)) + b"\r\n").status == 431


def test_too_long_a_target_is_refused_whether_it_ends_or_not() -> None:
    assert refused(b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n").status == 414
    assert refused(b"GET /" + b"a" * 40_000, header_bytes=2048).status == 414


def test_too_large_a_body_is_refused_before_it_is_read() -> None:
    assert refused(post(b"")[:-4].replace(b"Length: 0", b"Length: 1001") + b"\r\n\r\n", body_bytes=1000).status == 413
    assert refused(post(b"x" * 1001), body_bytes=1000).status == 413
    head = b"POST / HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n"
    assert refused(head + b"3e9\r\n" + b"x" * 1001, body_bytes=1000).status == 413
    assert refused(head + b"1f4\r\n%b\r\n" % (b"x" * 500) * 3, body_bytes=1000).status == 413


def test_who_sends_far_too_much_still_hears_why() -> None:
    async def work() -> None:
        async with door(body_bytes=1000) as gate, peer(gate.port) as one:
            sending = asyncio.create_task(one.send(post(b"x" * 8_000_000)))
            assert (await one.reply()).status == 413
            await sending

    run(work())


@pytest.mark.parametrize("begin", [b"GET", b"POST / HTTP/1.1\r\nHost: a\r\nX-", b"POST / HTTP/1.1\r\nHost: a\r\n\r"])
def test_a_head_that_does_not_end_is_given_up(begin: bytes) -> None:
    assert refused(begin, head_s=0.4).status == 408


def test_a_head_that_drips_is_given_up_all_the_same() -> None:
    async def work() -> None:
        async with door(head_s=0.3) as gate, peer(gate.port) as one:

            async def drip() -> None:
                await one.send(b"GET / HTTP/1.1\r\n")
                while not one.reader.at_eof():
                    await one.send(b"X-A: b\r\n")
                    await asyncio.sleep(0.02)

            dripping = asyncio.create_task(drip())
            assert (await one.reply()).status == 408
            dripping.cancel()
            assert not gate.requests

    run(work())


def test_a_connection_that_says_nothing_is_closed_in_silence() -> None:
    async def work() -> None:
        async with door(head_s=0.05) as gate, peer(gate.port) as one:
            assert await one.rest() == b""

    run(work())


@pytest.mark.parametrize("framing", [b"Content-Length: 100\r\n\r\nhalf", CHUNKED + b"\r\n4\r\nhalf\r\n"])
def test_a_body_that_does_not_end_is_given_up(framing: bytes) -> None:
    assert refused(b"POST / HTTP/1.1\r\n" + HOST + framing, body_s=0.1).status == 408


def test_a_caller_that_takes_nothing_is_given_up() -> None:
    async def work() -> None:
        def big(request: Request, responder: Responder) -> None:
            responder.start(200, ())
            responder.on_gone = lambda: gone.append(True)
            for _ in range(400):
                responder.write(b"x" * 100_000)

        gone: list[bool] = []
        async with door(big, write_s=0.1) as gate:
            sock = socket.create_connection(("127.0.0.1", gate.port))
            sock.sendall(post())
            await until(lambda: gone)
            await until(lambda: not gate.server.connections)
            assert gone == [True]
            sock.close()

    run(work())


def test_a_whole_reply_that_nobody_takes_does_not_hold_the_connection() -> None:
    async def work() -> None:
        def big(request: Request, responder: Responder) -> None:
            responder.send(200, (), b"x" * 40_000_000)

        for lines in ((), (b"Connection: close",)):
            async with door(big, write_s=0.1, idle_s=0.1) as gate:
                sock = socket.create_connection(("127.0.0.1", gate.port))
                sock.sendall(post(b"", *lines))
                await until(lambda gate=gate: gate.requests)
                await until(lambda gate=gate: not gate.server.connections)
                assert len(gate.requests) == 1
                sock.close()

    run(work())


def test_a_slow_but_steady_reader_gets_its_whole_reply() -> None:
    size = 12_000_000

    async def work() -> None:
        def big(request: Request, responder: Responder) -> None:
            responder.send(200, (), b"x" * size)

        async with door(big, write_s=3.0, idle_s=0.1) as gate, peer(gate.port, limit=65536) as one:
            await one.send(post())
            head = await one.reader.readuntil(b"\r\n\r\n")
            got = 0
            while got < size:
                got += len(await one.reader.readexactly(min(400_000, size - got)))
                await asyncio.sleep(0.03)
            assert b"content-length: 12000000" in head

    run(work())


def test_values_that_are_no_utf_8_stay_bytes() -> None:
    async def work() -> None:
        async with door() as gate:
            body = b"\xff\xfe\0\x80"
            assert (await gate.ask(post(body, b"X-Name: caf\xe9 \xff"))).body == body
            assert gate.requests[0].headers[b"x-name"] == b"caf\xe9 \xff"

    run(work())


def test_names_are_lower_case_and_repeated_headers_joined() -> None:
    async def work() -> None:
        async with door() as gate:
            await gate.ask(post(b"", b"X-TAG:  a\t", b"x-Tag: b"))
            assert gate.requests[0].headers[b"x-tag"] == b"a, b"

    run(work())


def test_a_caller_that_leaves_within_its_request_is_forgotten() -> None:
    async def work() -> None:
        async with door() as gate:
            for data in (b"", b"POST / HT", post(b"x" * 100)[:-50], post(b"")[:-2]):
                async with peer(gate.port) as one:
                    await one.send(data)
            await until(lambda: not gate.server.connections)
            assert not gate.requests

    run(work())


def test_keys_stay_out_of_the_memory_of_known_lines() -> None:
    from llmops.gateway.http import head

    key = b"sk-never-kept-0123456789"
    head.parse_request(b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + key + b"\r\nX-Api-Key: " + key)
    remembered = head._field.__self__  # type: ignore[attr-defined]
    assert remembered
    assert not any(key in line for line in remembered)


def test_the_memory_of_known_lines_is_bounded() -> None:
    from llmops.gateway.http import head

    for number in range(10_000):
        head.parse_request(b"GET /%d HTTP/1.1\r\nHost: a\r\nX-%d: %d" % (number, number, number))
    remembered = head._field.__self__  # type: ignore[attr-defined]
    assert len(remembered) <= 2048
    assert len(head._request_lines) <= 2048
    assert len(head._names) <= 2048


def test_a_waiting_caller_cannot_hide_its_leaving_behind_more_requests() -> None:
    """Up to the bound of the pipeline, bytes that follow do not keep the end of the connection from being seen."""

    async def work() -> None:
        async with door(wait) as gate, peer(gate.port) as one:
            await one.send(post() + post(b"x" * 1000) * 20)
            await until(lambda: gate.requests)
            gone: list[bool] = []
            gate.responders[0].on_gone = lambda: gone.append(True)
            await one.close()
            await until(lambda: gone)
            assert len(gate.requests) == 1

    run(work())


def test_unfinished_bodies_of_all_callers_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "BODIES_BYTES", 100_000)

    async def work() -> None:
        async with door() as gate:
            async with peer(gate.port) as one, peer(gate.port) as two:
                await one.send(post(b"x" * 70_000)[:-1])
                await until(lambda: gate.server.kept_bytes)
                await two.send(post(b"y" * 70_000)[:-1])
                assert (await two.reply()).status == 503
                assert (await one.ask(b"x")).status == 200
            await until(lambda: not gate.server.connections)
            assert gate.server.kept_bytes == 0
            assert (await gate.ask(post(b"z" * 70_000))).status == 200

    run(work())


def test_a_flood_of_connections_is_not_even_answered() -> None:
    async def work() -> None:
        async with door(connections=1) as gate, peer(gate.port) as one:
            await one.ask(post())
            async with peer(gate.port) as two, peer(gate.port) as three:
                assert (await two.reply()).status == 503
                assert await three.rest() == b""

    run(work())
