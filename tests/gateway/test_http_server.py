"""The callers' side of the door with well-behaved callers, over real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from pathlib import Path

import pytest
from tests.support.wire import JSON, certificate, door, echo, peer, post, run, until, wait

from llmops.core.errors import ConfigError
from llmops.gateway.calls import Request, Responder
from llmops.gateway.config import HttpConfig
from llmops.gateway.http.server import HttpServer
from llmops.gateway.http.timers import Timers


def test_a_whole_request_reaches_the_handler_and_the_reply_the_caller() -> None:
    async def work() -> None:
        async with door() as gate, peer(gate.port) as one:
            got = await one.ask(post(b'{"a":1}', b"X-Llmops-Tags: k=v", path=b"/v1/chat/completions?x=1&y"))
            assert (got.status, got.body) == (200, b'{"a":1}')
            assert got.headers[b"content-type"] == b"application/json"
            assert got.headers[b"date"].endswith(b"GMT")
            assert b"connection" not in got.headers
            request = gate.requests[0]
            assert (request.method, request.path, request.query) == ("POST", "/v1/chat/completions", "x=1&y")
            assert request.headers[b"x-llmops-tags"] == b"k=v"

    run(work())


def test_a_connection_is_kept_for_further_requests() -> None:
    async def work() -> None:
        async with door() as gate, peer(gate.port) as one:
            for number in range(5):
                body = b"%d" % number * number
                assert (await one.ask(post(body))).body == body
            assert gate.server.connections == 1

    run(work())


def test_pipelined_requests_are_answered_in_order_and_one_at_a_time() -> None:
    async def work() -> None:
        async with door(wait) as gate, peer(gate.port) as one:
            await one.send(post(b"first") + post(b"second") + post(b"third"))
            for number, body in enumerate([b"first", b"second", b"third"]):
                await until(lambda number=number: len(gate.requests) == number + 1)
                assert gate.requests[number].body == body
                gate.responders[number].send(200, (), body)
                assert (await one.reply()).body == body

    run(work())


def test_a_thousand_pipelined_requests_neither_overflow_the_stack_nor_the_memory() -> None:
    async def work() -> None:
        async with door() as gate, peer(gate.port) as one:
            sending = asyncio.create_task(one.send(post(b"x" * 500) * 2000))
            for _ in range(2000):
                assert (await one.reply()).status == 200
            await sending
            assert len(gate.requests) == 2000

    run(work())


def test_past_its_bound_a_pipeline_is_not_read_until_the_reply_is_out() -> None:
    async def work() -> None:
        async with door(wait) as gate, peer(gate.port) as one:
            await one.send(post(b"a"))
            await until(lambda: gate.requests)
            flood = asyncio.create_task(one.send(post(b"y" * 100_000) * 300))
            done, _ = await asyncio.wait({flood}, timeout=0.3)
            assert not done, "30 MB fitted into a buffer that is bounded"
            gate.server.handler = echo
            gate.responders[0].send(200, (), b"")
            for _ in range(301):
                await one.reply()
            await flood

    run(work())


def test_chunked_bodies_trailers_included() -> None:
    async def work() -> None:
        async with door() as gate, peer(gate.port) as one:
            head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            got = await one.ask(head + b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n")
            assert got.body == b"hello world"
            got = await one.ask(head + b"0005\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n")
            assert got.body == b"hello"
            assert (await one.ask(post(b"next"))).body == b"next"
            assert b"x-sum" not in gate.requests[1].headers

    run(work())


def test_a_body_is_called_for_where_the_caller_expects_it() -> None:
    async def work() -> None:
        async with door() as gate, peer(gate.port) as one:
            await one.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
            assert (await one.reply()).status == 100
            assert not gate.requests
            assert (await one.ask(b"body")).body == b"body"

    run(work())


def test_an_expected_body_that_is_too_large_is_refused_before_it_is_sent() -> None:
    async def work() -> None:
        async with door(body_bytes=10) as gate:
            got = await gate.ask(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 11\r\n\r\n")
            assert got.status == 413

    run(work())


@pytest.mark.parametrize(("lines", "kept"), [(b"", False), (b"Connection: keep-alive\r\n", True)])
def test_http_1_0_is_answered_without_chunks_and_kept_only_on_request(lines: bytes, kept: bool) -> None:
    async def work() -> None:
        async with door() as gate, peer(gate.port) as one:
            got = await one.ask(b"POST / HTTP/1.0\r\n" + lines + b"Content-Length: 2\r\n\r\nok")
            assert got.body == b"ok"
            assert got.headers[b"connection"] == (b"keep-alive" if kept else b"close")
            if kept:
                assert (await one.ask(post(b"again"))).body == b"again"
            else:
                assert await one.rest() == b""

    run(work())


def test_a_stream_to_http_1_0_ends_with_the_connection() -> None:
    def stream(request: Request, responder: Responder) -> None:
        responder.start(200, ())
        responder.write(b"a")
        responder.write(b"b")
        responder.end()

    async def work() -> None:
        async with door(stream) as gate:
            got = await gate.ask(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert b"transfer-encoding" not in got.headers
            assert got.headers[b"connection"] == b"close"
            assert got.body == b"ab"

    run(work())


def test_connection_close_is_honoured() -> None:
    async def work() -> None:
        async with door() as gate, peer(gate.port) as one:
            got = await one.ask(post(b"x", b"Connection: Keep-Alive, Close"))
            assert got.headers[b"connection"] == b"close"
            assert await one.rest() == b""

    run(work())


def test_head_gets_the_length_but_not_the_body() -> None:
    def health(request: Request, responder: Responder) -> None:
        responder.send(200, JSON, b'{"ok":true}')

    async def work() -> None:
        async with door(health) as gate, peer(gate.port) as one:
            await one.send(b"HEAD /health HTTP/1.1\r\nHost: a\r\n\r\n")
            got = await one.reply(bodyless=True)
            assert got.headers[b"content-length"] == b"11"
            assert (await one.ask(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")).body == b'{"ok":true}'
            assert [request.method for request in gate.requests] == ["HEAD", "GET"]

    run(work())


def test_no_content_has_neither_body_nor_length() -> None:
    async def work() -> None:
        async with door(lambda _, responder: responder.send(204, (), b"")) as gate, peer(gate.port) as one:
            for _ in range(2):
                assert b"content-length" not in (await one.ask(post())).headers

    run(work())


def test_a_stream_is_chunked_and_its_first_chunk_leaves_with_the_head() -> None:
    async def work() -> None:
        async with door(wait) as gate, peer(gate.port) as one:
            await one.send(post())
            await until(lambda: gate.requests)
            responder = gate.responders[0]
            responder.start(200, ((b"content-type", b"text/event-stream"),))
            responder.write(b"data: 1\n\n")
            responder.write(b"")
            responder.write(b"data: 2\n\n")
            responder.end()
            got = await one.reply()
            assert got.headers[b"transfer-encoding"] == b"chunked"
            assert got.chunks == [b"data: 1\n\n", b"data: 2\n\n"]
            await one.send(post(b"next"))
            await until(lambda: len(gate.requests) == 2)

    run(work())


def test_the_head_of_a_stream_leaves_before_its_first_chunk() -> None:
    async def work() -> None:
        async with door(wait) as gate, peer(gate.port) as one:
            await one.send(post())
            await until(lambda: gate.requests)
            gate.responders[0].start(200, ())
            assert (await one.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
            gate.responders[0].end()
            assert await one.reader.readexactly(5) == b"0\r\n\r\n"

    run(work())


def test_an_aborted_stream_is_seen_as_cut() -> None:
    async def work() -> None:
        async with door(wait) as gate, peer(gate.port) as one:
            await one.send(post())
            await until(lambda: gate.requests)
            responder = gate.responders[0]
            responder.start(200, ())
            responder.write(b"half")
            responder.abort()
            rest = await one.rest()
            assert rest.endswith(b"4\r\nhalf\r\n")

    run(work())


def test_an_aborted_stream_to_http_1_0_is_a_reset() -> None:
    async def work() -> None:
        async with door(wait) as gate, peer(gate.port) as one:
            await one.send(b"GET / HTTP/1.0\r\n\r\n")
            await until(lambda: gate.requests)
            gate.responders[0].start(200, ())
            gate.responders[0].write(b"half")
            await one.reader.readuntil(b"half")
            gate.responders[0].abort()
            with pytest.raises(ConnectionResetError):
                await one.reader.read()

    run(work())


def test_a_reply_is_given_once() -> None:
    async def work() -> None:
        async with door() as gate, peer(gate.port) as one:
            await one.ask(post())
            with pytest.raises(RuntimeError, match="once"):
                gate.responders[0].send(200, (), b"")
            with pytest.raises(RuntimeError, match="once"):
                gate.responders[0].write(b"late")
            assert (await one.ask(post(b"next"))).body == b"next"

    run(work())


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x-a", b"1\r\nset-cookie: x")],
        [(b"x-a", b"1\n")],
        [(b"x-a", b"1\r")],
        [(b"x-a", b"\0")],
        [(b"x a", b"1")],
        [(b"x-a\r\nx-b", b"1")],
        [(b"", b"1")],
        [(b"Content-Length", b"1")],
        [(b"transfer-encoding", b"chunked")],
        [(b"connection", b"close")],
    ],
)
def test_no_header_of_a_reply_can_change_its_shape(headers: list[tuple[bytes, bytes]]) -> None:
    async def work() -> None:
        async with door(lambda _, responder: responder.send(200, headers, b"")) as gate:
            got = await gate.ask(post())
            assert got.status == 500
            assert json.loads(got.body)["error"]["code"] == "internal_error"

    run(work())


def test_a_handler_that_fails_is_answered_500_and_says_nothing_more(caplog: pytest.LogCaptureFixture) -> None:
    def fail(request: Request, responder: Responder) -> None:
        raise ZeroDivisionError

    async def work() -> None:
        async with door(fail) as gate, peer(gate.port) as one:
            got = await one.ask(post())
            assert got.status == 500
            assert b"ZeroDivision" not in got.body
            gate.responders[0].send(200, (), b"late")
            assert await one.rest() == b""

    run(work())
    assert "ZeroDivisionError" in caplog.text


def test_a_handler_that_fails_within_a_stream_cuts_it() -> None:
    def fail(request: Request, responder: Responder) -> None:
        responder.start(200, ())
        responder.write(b"half")
        raise ZeroDivisionError

    async def work() -> None:
        async with door(fail) as gate, peer(gate.port) as one:
            await one.send(post())
            assert not (await one.rest()).endswith(b"0\r\n\r\n")

    run(work())


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
def test_a_caller_that_leaves_is_told_of_once_and_later_writes_are_dropped(how: str) -> None:
    async def work() -> None:
        async with door(wait) as gate, peer(gate.port) as one:
            await one.send(post())
            await until(lambda: gate.requests)
            responder = gate.responders[0]
            gone: list[bool] = []
            responder.on_gone = lambda: gone.append(True)
            responder.start(200, ())
            responder.write(b"x")
            if how == "close":
                await one.close()
            elif how == "reset":
                one.reset()
            else:
                one.writer.write_eof()
            await until(lambda: gone)
            responder.write(b"y")
            responder.end()
            responder.abort()
            await until(lambda: not gate.server.connections)
            assert gone == [True]

    run(work())


def test_a_caller_that_leaves_after_its_reply_is_not_gone() -> None:
    async def work() -> None:
        async with door() as gate:
            async with peer(gate.port) as one:
                await one.send(post())
                await until(lambda: gate.requests)
                gate.responders[0].on_gone = lambda: pytest.fail("it had its reply")
                await one.reply()
            await until(lambda: not gate.server.connections)

    run(work())


def test_a_slow_reader_holds_the_writer_back_and_loses_nothing() -> None:
    async def work() -> None:
        async with door(wait) as gate, peer(gate.port) as one:
            await one.send(post())
            await until(lambda: gate.requests)
            responder = gate.responders[0]
            drained = asyncio.Event()
            responder.on_drain = drained.set
            responder.start(200, ())
            written = 0
            while not responder.full:
                responder.write(b"%010d" % written * 1000)
                written += 1
                assert written < 100_000
            responder.write(b"%010d" % written * 1000)
            reading = asyncio.create_task(one.reply())
            await drained.wait()
            assert not responder.full
            responder.end()
            got = await reading
            assert got.body == b"".join(b"%010d" % number * 1000 for number in range(written + 1))

    run(work())


def test_a_large_reply_is_whole() -> None:
    body = bytes(range(256)) * 20_000

    async def work() -> None:
        async with door(lambda _, responder: responder.send(200, (), body)) as gate:
            assert (await gate.ask(post())).body == body

    run(work())


def test_idle_connections_are_closed_in_silence() -> None:
    async def work() -> None:
        async with door(idle_s=0.05) as gate, peer(gate.port) as one:
            await one.ask(post())
            assert await one.rest() == b""

    run(work())


def test_past_the_cap_connections_are_refused_and_later_ones_served() -> None:
    async def work() -> None:
        async with door(connections=2) as gate:
            async with peer(gate.port) as one, peer(gate.port) as two:
                await one.ask(post())
                await two.ask(post())
                async with peer(gate.port) as three:
                    got = await three.reply()
                    assert (got.status, json.loads(got.body)["error"]["type"]) == (503, "server_error")
            await until(lambda: not gate.server.connections)
            assert (await gate.ask(post())).status == 200

    run(work())


def test_draining_lets_replies_end_and_closes_the_rest() -> None:
    async def work() -> None:
        async with door(wait) as gate, peer(gate.port) as busy, peer(gate.port) as idle:
            await idle.send(post())
            await until(lambda: gate.requests)
            gate.responders[0].send(200, (), b"")
            await idle.reply()
            await busy.send(post())
            await until(lambda: len(gate.requests) == 2)
            draining = asyncio.create_task(gate.server.drain(30.0))
            assert await idle.rest() == b""
            assert not draining.done()
            gate.responders[1].send(200, (), b"done")
            got = await busy.reply()
            assert (got.body, got.headers[b"connection"]) == (b"done", b"close")
            await draining
            with pytest.raises(OSError):
                await asyncio.open_connection("127.0.0.1", gate.port)

    run(work())


def test_draining_cuts_what_outlasts_its_grace() -> None:
    async def work() -> None:
        async with door(wait) as gate, peer(gate.port) as one:
            await one.send(post())
            await until(lambda: gate.requests)
            gone: list[bool] = []
            gate.responders[0].on_gone = lambda: gone.append(True)
            await gate.server.drain(0.01)
            assert gone == [True]
            assert await one.rest() == b""

    run(work())


def test_the_door_speaks_tls(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)

    async def work() -> None:
        async with door(tls_cert=cert, tls_key=key) as gate:
            context = ssl.create_default_context(cafile=cert)
            async with peer(gate.port, ssl=context, server_hostname="localhost") as one:
                for body in (b"a", b"b" * 300_000):
                    assert (await one.ask(post(body))).body == body
                got = await one.ask(b"NONSENSE\r\n\r\n")
                assert got.status == 400

    run(work())


def test_plain_http_to_a_tls_door_and_tls_to_a_plain_one_both_end(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)

    async def work() -> None:
        async with door(tls_cert=cert, tls_key=key) as gate, peer(gate.port) as one:
            await one.send(post())
            assert b"200" not in await one.rest()
            assert not gate.requests
        async with door() as gate:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                async with peer(gate.port, ssl=ssl.create_default_context(cafile=cert)):
                    pass
            assert not gate.requests

    run(work())


def test_a_bad_certificate_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("no certificate")

    async def work() -> None:
        timers = Timers(asyncio.get_running_loop())
        for config in (HttpConfig(tls_cert=tmp_path / "bad.pem"), HttpConfig(tls_key=tmp_path / "bad.pem")):
            with pytest.raises(ConfigError):
                await HttpServer(echo, config, timers).listen()
        timers.close()

    run(work())


def test_it_listens_on_a_socket_given_to_it() -> None:
    async def work() -> None:
        timers = Timers(asyncio.get_running_loop())
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        server = HttpServer(echo, HttpConfig(), timers)
        assert await server.listen(sock=sock) == sock.getsockname()[1]
        async with peer(sock.getsockname()[1]) as one:
            assert (await one.ask(post(b"x"))).body == b"x"
        await server.drain(5.0)
        timers.close()

    run(work())
