"""The pool of connections to a provider: kept, replaced, waited for, paused, cancelled."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.support.raw_upstream import CHUNKED, OK, Heard, fetch, pool, read_request, saying, silent, upstream
from tests.support.wire import JSON, run, until

from llmops.gateway.calls import UpstreamRequest


def test_connections_are_kept_the_last_one_first() -> None:
    async def work() -> None:
        served: list[int] = []

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            number = origin.connections
            while True:
                await read_request(reader)
                served.append(number)
                await until(lambda: len(served) >= 3)
                writer.write(OK)

        async with upstream(script) as origin, pool(origin.url) as one:
            await asyncio.gather(*[fetch(one) for _ in range(3)])
            assert origin.connections == one.connections == 3
            for _ in range(5):
                assert (await fetch(one)).body == b"ok"
            assert origin.connections == 3
            assert len(set(served[4:])) == 1, "another connection than the last one used"

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
            assert (await fetch(one)).body == b"ok"
            assert origin.connections == 2

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


def test_a_replaced_call_waits_for_a_new_connection_not_for_another_kept_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        first_out, dialled, answered = asyncio.Event(), asyncio.Event(), 0
        seconds = 0

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal seconds, answered
            await read_request(reader)
            answered += 1
            await until(lambda: answered >= 2)
            writer.write(OK)
            await read_request(reader)
            seconds += 1
            if seconds == 1:
                await first_out.wait()
                writer.write(OK)
                await read_request(reader)  # whoever takes this kept connection loses it

        async with upstream(script) as origin, pool(origin.url) as one:
            await asyncio.gather(fetch(one), fetch(one))
            dial = one._dialer.dial

            async def held(*arguments: Any) -> Any:
                await dialled.wait()
                return await dial(*arguments)

            monkeypatch.setattr(one._dialer, "dial", held)
            slow = asyncio.create_task(fetch(one))
            await until(lambda: seconds == 1)
            replaced = asyncio.create_task(fetch(one))
            await until(lambda: one.waiting == 1)
            first_out.set()
            assert (await slow).body == b"ok"
            assert one.waiting == 1
            dialled.set()
            assert (await replaced).body == b"ok"

    run(work())


def test_a_listener_may_cancel_from_within() -> None:
    async def work() -> None:
        class Impatient(Heard):
            def on_head(self, status: int, headers: object) -> None:
                call.cancel()

            def on_data(self, data: bytes) -> None:
                raise AssertionError("told after cancel")

        async with upstream(saying(CHUNKED + b"2\r\nok\r\n0\r\n\r\n", OK)) as origin, pool(origin.url) as one:
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
