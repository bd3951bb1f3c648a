"""What each failure of an upstream costs: the rows, the budget's own book, and what the caller is told agree."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.support.faulty import (
    INPUT_TOKENS,
    PATIENCE_S,
    Scripted,
    Step,
    Wire,
    hang_up,
    not_http,
    refused_url,
    scripted_upstream,
    silent,
    slow_body,
    status,
    stream,
    text,
    whole,
    wrong_length,
)
from tests.support.wire import certificate
from tests.support.worker import RunningWorker, route, running_worker, target, user_says

from llmops.gateway.allowance import UsageRow, open_store, read_usage

OUTPUT_TOKENS = 5
GOOD = Decimal(INPUT_TOKENS + 2 * OUTPUT_TOKENS) / 1_000_000
ONCE = {"attempts": 1, "backoff_s": 0}
TWICE = {"attempts": 2, "backoff_s": 0.01}
HASTY = {"first_byte_s": PATIENCE_S, "idle_s": 0.5}  # a slow machine's upstream is late, too
AT_HEAD = {"first_byte_s": 0.5, "idle_s": PATIENCE_S}
BOTH_ANSWER_IN = {"first_byte_s": 2.0, "idle_s": PATIENCE_S}
NEVER_OPEN = {"failures": 1000}


def mid_stream(after: bytes) -> Step:
    """One good event, then these bytes of the wire, then silence."""

    def step(wire: Wire) -> None:
        event = {"id": "x", "model": "m", "choices": [{"index": 0, "delta": {"content": "one"}}]}
        line = b"data: " + json.dumps(event).encode() + b"\n\n"
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        wire.send(head + b"%x\r\n%b\r\n" % (len(line), line))
        if after:  # else both may arrive in one piece, and nothing has been said yet
            assert wire.asked.heard.wait(PATIENCE_S)
        wire.send(after)
        wire.wait(PATIENCE_S)

    return step


@dataclass
class Case:
    """What the upstream does, and what must come of it. `exact`: what was answered well; `more`: an estimate on top."""

    steps: tuple[Step, ...]
    status: int
    outcome: str
    model: str = "once"
    stream: bool = False
    exact: Decimal = Decimal(0)
    more: bool = False
    asked: int = 1
    token: str = field(default="", compare=False)


AT_ONCE = status(429, ("Retry-After", "0"))
BAD_EVENT, BAD_CHUNK = b"8\r\ndata: {\n\r\n2\r\n\n\n\r\n", b"zz\r\n"
CASES = {
    "refused": Case((), 502, "refused", "refused", asked=0),
    "tls": Case((), 502, "tls", "tls", asked=0),
    "slow head": Case((silent(),), 504, "first_byte_timeout", "at-head", more=True),
    "slow body": Case((slow_body(),), 504, "idle_timeout", "hasty", more=True),
    "hang-up": Case((hang_up(),), 502, "cut", more=True),
    "wrong length": Case((wrong_length(),), 502, "cut", more=True),
    "not HTTP": Case((not_http(),), 502, "invalid", more=True),
    "no JSON": Case((text(b"no json"),), 502, "invalid", more=True),
    "not the format": Case((text(b'{"choices": 7}'),), 502, "invalid", more=True),
    "429": Case((status(429, ("Retry-After", "60")),), 429, "rate_limited"),
    "401": Case((status(401),), 502, "unauthenticated"),
    "500": Case((status(500),), 502, "server_error"),
    "429, then fine": Case((AT_ONCE, whole()), 200, "rate_limited", "twice", exact=GOOD, asked=2),
    "TLS, then the next": Case((), 200, "tls", "tls-tiers", exact=GOOD, asked=0),
    "500, then fine": Case((status(500), whole()), 200, "server_error", "twice", exact=GOOD, asked=2),
    "cut, then fine": Case((wrong_length(), whole()), 200, "cut", "twice", exact=GOOD, more=True, asked=2),
    "silent, then the next": Case((silent(),), 200, "first_byte_timeout", "tiers", exact=GOOD, more=True),
    "stream cut": Case((stream(("a", "b"), cut_after=1),), 200, "cut", "once", True, more=True),
    "stream silent": Case((mid_stream(b""),), 200, "idle_timeout", "hasty", True, more=True),
    "stream with a bad event": Case((mid_stream(BAD_EVENT),), 200, "invalid", "once", True, more=True),
    "stream with a bad chunk": Case((mid_stream(BAD_CHUNK),), 200, "invalid", "once", True, more=True),
}  # fmt: skip


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Scripted, Scripted, Scripted]]:
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(*certificate(tmp_path_factory.mktemp("certificate")))
    with scripted_upstream() as first, scripted_upstream() as second, scripted_upstream(served) as unproven:
        yield first, second, unproven


def configured(servers: tuple[Scripted, Scripted, Scripted]) -> dict[str, Any]:
    names = ("first", "second", "tls")
    urls = {name: {"url": server.url} for name, server in zip(names, servers, strict=True)}
    return {
        "providers": {**urls, "refused": {"url": refused_url()}},
        "routes": [
            route("once", retry=ONCE, breaker=NEVER_OPEN),
            route("twice", retry=TWICE, breaker=NEVER_OPEN),
            route("hasty", retry=ONCE, breaker=NEVER_OPEN, timeouts=HASTY),
            route("at-head", retry=ONCE, breaker=NEVER_OPEN, timeouts=AT_HEAD),
            route("tiers", target(), target("second", tier=1), retry=ONCE, breaker=NEVER_OPEN, timeouts=BOTH_ANSWER_IN),
            route("refused", target("refused"), retry=ONCE, breaker=NEVER_OPEN),
            route("tls", target("tls"), retry=TWICE, breaker=NEVER_OPEN),
            route("tls-tiers", target("tls"), target("second", tier=1), retry=TWICE, breaker=NEVER_OPEN),
        ],
    }


def told(worker: RunningWorker, case: Case, upstream: Scripted) -> int:
    """The status; a stream ends with exactly one error, at its end."""
    body = user_says(model=case.model, stream=case.stream)
    if not case.stream:
        return worker.chat(body, token=case.token).status_code
    events: list[str] = []
    with (
        worker.client(case.token) as client,
        client.stream("POST", "/v1/chat/completions", json=body) as reply,
    ):
        for line in reply.iter_lines():
            if line.startswith("data: "):
                events.append(line[6:])
                upstream.asked[0].heard.set()
    errors = [event for event in events if '"error"' in event]
    assert len(errors) == 1, events
    assert errors[0] == events[-1], events
    return reply.status_code


def spent(worker: RunningWorker) -> dict[str, UsageRow]:
    async def read() -> list[UsageRow]:
        store = open_store(worker.checked)
        try:
            return await read_usage(store)
        finally:
            await store.close()

    return {row.meter.partition("/")[0]: row for row in asyncio.run(read())}


def test_every_failure_is_booked_once_and_everywhere_alike(
    servers: tuple[Scripted, Scripted, Scripted], tmp_path: Path
) -> None:
    first, second, unproven = servers
    second.reset(whole(tokens=OUTPUT_TOKENS))
    with running_worker(tmp_path, **configured(servers)) as worker:
        for case in CASES.values():
            case.token = worker.key(publish_now=False, budgets=((10**9, "total"),))
        worker.publish_keys()
        last = list(CASES.values())[-1].token
        worker.until(lambda: worker.chat(user_says(model="none"), token=last).status_code == 404)
        for name, case in CASES.items():
            first.reset()
            first.script(*case.steps)
            assert told(worker, case, first) == case.status, name
            assert len(first.asked) == case.asked, name
        worker.stop()
        rows, book = worker.rows(layer=None), spent(worker)
    assert unproven.asked == []
    assert unproven.failed_handshakes == 2, "who does not prove who he is, is not asked again"
    for name, case in CASES.items():
        key = f"key:{case.token.split('_')[1]}"
        check(name, case, [row for row in rows if row["requester"] == key], book.get(key))


def check(name: str, case: Case, rows: list[dict[str, Any]], booked: UsageRow | None) -> None:
    (call,) = [row for row in rows if row["layer"] == "gateway"]
    attempts = json.loads(call["tags"].get("attempts", "[]"))
    assert (attempts[0]["outcome"] if attempts else call["error_class"]) == case.outcome, name
    costs = sum(Decimal(row["cost_usd"]) for row in rows)
    assert booked is not None, name
    assert (Decimal(booked.spent) / 10**9, booked.leased) == (costs, 0), name
    estimated = [row for row in rows if row["tags"].get("estimated") == "true"]
    assert len(estimated) == int(case.more), name
    estimate = sum(Decimal(row["cost_usd"]) for row in estimated)
    assert costs - estimate == case.exact, name
    assert (estimate > 0) is case.more, name
    assert estimate == sum(Decimal(row["input_tokens"] + 2 * row["output_tokens"]) for row in estimated) / 10**6, name


def test_an_upstream_that_proves_who_it_is_is_asked_once_it_is_trusted(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(cert, key)
    with scripted_upstream(served) as upstream:
        config = {"routes": [route("chat", breaker=NEVER_OPEN)], "providers": {"first": {"url": upstream.url}}}
        with running_worker(tmp_path, **config) as worker:
            refused = worker.chat()
            assert (refused.status_code, refused.json()["error"]["code"]) == (502, "upstream_tls")
            assert upstream.asked == []
            trusted = {"url": upstream.url, "tls": {"ca_file": str(cert)}}
            worker.reload(providers={"first": trusted})
            worker.until(lambda: worker.chat().status_code == 200)
