"""The parts that decide without a socket: breaker, tab, host names, escalation, tiers, measures, metrics."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from dataclasses import dataclass, field, fields

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.json_values import patiently

from llmops.core.errors import ConfigError
from llmops.core.web.hosts import hostname
from llmops.gateway import compiled
from llmops.gateway.calls import Fault, Meter, Usage
from llmops.gateway.config import BreakerConfig, EscalateConfig, RoiRule, TargetConfig
from llmops.gateway.engine import admission
from llmops.gateway.engine.breaker import Breaker
from llmops.gateway.engine.candidates import start_tier
from llmops.gateway.engine.escalation import Escalation, mean_logprob
from llmops.gateway.engine.host import Host, check_origin
from llmops.gateway.engine.measure import measure
from llmops.gateway.engine.metrics import BOUNDS, Metrics
from llmops.gateway.engine.seldom import USUAL, Seldom
from llmops.gateway.engine.tab import Tab

HEAVY = (
    "sqlalchemy",
    "pyarrow",
    "deltalake",
    "duckdb",
    "opentelemetry",
    "starlette",
    "httpx",
    "mlflow",
    "torch",
    "numpy",
)


def test_a_worker_imports_nothing_heavy() -> None:
    program = f"import sys, llmops.gateway.worker; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- what requests share ---


@pytest.mark.skipif(compiled.running() == "compiled", reason="machine code writes without asking")
def test_what_all_usual_requests_share_cannot_be_written_to() -> None:
    """So that each test of a whole gateway, with whatever feature, would see an attempt."""
    names = [field.name for field in fields(Seldom)]
    before = [getattr(USUAL, name) for name in names]
    for name in [*names, "anything"]:
        with pytest.raises(AttributeError, match="one request's own"):
            setattr(USUAL, name, "mine")
    assert [getattr(USUAL, name) for name in names] == before
    assert all(value is None or isinstance(value, str | float | tuple) for value in before), (
        "none can be changed within"
    )
    Seldom().tags = {"one's": "own"}


# --- breaker ---------------------------------------------------------------------------------------------------------


def test_failures_in_a_row_open_the_breaker_and_a_good_probe_closes_it() -> None:
    breaker = Breaker(BreakerConfig(failures=3, open_s=10))
    assert [breaker.failure(0.0) for _ in range(3)] == [False, False, True]
    assert not breaker.admits(9.9)
    assert breaker.admits(10.0)
    breaker.begin()
    assert not breaker.admits(10.0), "one probe at a time"
    breaker.success()
    assert breaker.admits(10.0)


def test_failed_probes_keep_it_open_twice_as_long_each_time_up_to_ten_times() -> None:
    breaker = Breaker(BreakerConfig(failures=1, open_s=1))
    breaker.failure(0.0)
    now, waits = 0.0, []
    for _ in range(6):
        waits.append(breaker.until - now)
        now = breaker.until
        breaker.begin()
        assert breaker.failure(now)
    assert waits == [1, 2, 4, 8, 10, 10]


def test_half_of_the_last_twenty_open_it_too() -> None:
    breaker = Breaker(BreakerConfig(failures=5, open_s=1))
    opened = []
    for _ in range(10):
        opened.append(breaker.failure(0.0))
        if not opened[-1]:
            breaker.success()
    assert opened == [False] * 9 + [True]


@given(st.lists(st.sampled_from(["success", "failure", "abandon", "wait"]), max_size=80))
def test_a_breaker_always_lets_somebody_in_again(steps: list[str]) -> None:
    breaker, now = Breaker(BreakerConfig(failures=2, open_s=1)), 0.0
    for step in steps:
        if step == "wait":
            now += 20
        elif breaker.admits(now):
            breaker.begin()
            getattr(breaker, step)(*([now] if step == "failure" else []))
    assert breaker.admits(now + 10.0)


# --- tab -------------------------------------------------------------------------------------------------------------


@dataclass
class Held:
    """A reservation that knows whether it was ended."""

    nano: int
    tokens: int
    ended: list[tuple[str, int, int]] = field(default_factory=list)

    def settle(self, nano_usd: int, tokens: int) -> None:
        self.ended.append(("settled", nano_usd, tokens))

    def release(self) -> None:
        self.ended.append(("released", 0, 0))


@dataclass
class Shelf:
    """Allowances without an end."""

    held: list[tuple[tuple[Meter, ...], Held]] = field(default_factory=list)

    def try_reserve(self, meters: tuple[Meter, ...], nano_usd: int, tokens: int) -> Held:
        self.held.append((tuple(meters), Held(nano_usd, tokens)))
        return self.held[-1][1]

    async def reserve(self, meters: tuple[Meter, ...], nano_usd: int, tokens: int) -> Held:
        return self.try_reserve(meters, nano_usd, tokens)


METERS = (Meter("key:a", "usd", 10**12, "day"), Meter("key:a", "requests", 100), Meter("key:a", "tokens", 10**9))


@given(
    st.lists(
        st.tuples(st.integers(1, 1000), st.integers(1, 1000), st.integers(0, 1000), st.integers(0, 500)), min_size=1
    )
)
def test_what_was_spent_is_settled_once_and_was_covered_before(attempts: list[tuple[int, int, int, int]]) -> None:
    shelf = Shelf()
    tab = Tab(shelf, METERS)
    for worst, worst_tokens, cost, tokens in attempts:
        assert tab.try_cover(worst, worst_tokens)
        free = sum(held.nano for _, held in shelf.held) - tab.nano_usd
        assert free >= worst
        tab.book(min(cost, worst), Usage(min(tokens, worst_tokens)))
    tab.settle(asked=True)
    tab.settle(asked=True)
    assert all(len(held.ended) == 1 for _, held in shelf.held)
    assert sum(held.ended[0][1] for _, held in shelf.held) == tab.nano_usd
    assert sum(held.ended[0][2] for _, held in shelf.held) == tab.tokens
    assert all(meter.what != "requests" for meters, _ in shelf.held[1:] for meter in meters), "one call, one request"


def test_where_nobody_was_asked_everything_is_given_back() -> None:
    shelf = Shelf()
    tab = Tab(shelf, METERS)
    assert tab.try_cover(100, 10)
    tab.settle(asked=False)
    assert shelf.held[0][1].ended == [("released", 0, 0)]


GUESTS = (Meter("route:b", "usd", 10**12, "day"), Meter("route:b", "concurrent", 1))


@pytest.mark.parametrize("meters", [GUESTS, ()])
def test_a_reservation_that_comes_after_the_end_is_given_back(meters: tuple[Meter, ...]) -> None:
    asyncio.run(_ends_while_it_waits(meters))


async def _ends_while_it_waits(meters: tuple[Meter, ...]) -> None:
    asked, may_come = asyncio.Event(), asyncio.Event()

    class Slow(Shelf):
        async def reserve(self, meters: tuple[Meter, ...], nano_usd: int, tokens: int) -> Held:
            asked.set()
            await may_come.wait()
            return self.try_reserve(meters, nano_usd, tokens)

    shelf = Slow()
    tab = Tab(shelf, METERS)
    assert tab.try_cover(100, 10)
    tab.book(60, Usage(5))  # the first attempt failed at a cost, so that the second one needs more
    late = tab.cover_guest(meters, 100, 10) if meters else tab.cover(100, 10)
    waiting = asyncio.create_task(late)
    await asked.wait()
    tab.settle(asked=True)  # the caller left, or the time of the request is over
    may_come.set()
    await waiting
    assert [held.ended for _, held in shelf.held] == [[("settled", 60, 5)], [("released", 0, 0)]]


def test_a_fallback_route_pays_for_its_own_attempts_and_covers_each() -> None:
    asyncio.run(_two_fallbacks())


async def _two_fallbacks() -> None:
    shelf, others = Shelf(), (Meter("route:c", "usd", 10**12, "day"),)
    tab = Tab(shelf, ())
    await tab.cover_guest(GUESTS, 100, 10)
    tab.book(70, Usage(7), GUESTS)
    assert not tab.knows_guest(GUESTS, 100, 10), "the second attempt may cost as much as the first"
    await tab.cover_guest(GUESTS, 100, 10)
    tab.book(90, Usage(9), GUESTS)
    await tab.cover_guest(others, 500, 50)
    tab.book(400, Usage(40), others)
    tab.settle(asked=True)
    spent = [(meters[0].subject, sum(part[1] for part in held.ended)) for meters, held in shelf.held]
    assert spent == [("route:b", 100), ("route:b", 60), ("route:c", 400)]
    assert [held.nano for _, held in shelf.held] == [100, 70, 500]
    assert "concurrent" not in {meter.what for meter in shelf.held[1][0]}, "one call, one place"


# --- host ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("localhost", "localhost"),
        ("LOCALHOST:80", "localhost"),
        ("[::1]:8000", "::1"),
        ("[::1]", "::1"),
        ("a:b", ""),
        ("[::1", ""),
        ("[::1]x", ""),
        ("", ""),
    ],
)
def test_names_in_host_headers(header: str, name: str) -> None:
    assert hostname(header) == name


def test_a_loopback_bind_has_loopback_names_and_those_allowed() -> None:
    host = Host("127.0.0.1", ["Gate.example"])
    assert host.check(b"gate.example:80") is None
    assert host.check(b"localhost") is None
    assert host.check(b"evil.example") is not None
    assert host.check(None) is not None
    assert Host("0.0.0.0", []).check(b"anything") is None
    assert Host("0.0.0.0", ["gate.example"]).check(b"anything") is not None


@pytest.mark.parametrize(
    ("origin", "host", "good"),
    [
        (b"http://localhost:4000", b"localhost:4000", True),
        (b"https://localhost:4000", b"localhost:4000", True),
        (b"http://localhost:5000", b"localhost:4000", False),
        (b"file://localhost:4000", b"localhost:4000", False),
        (b"null", b"localhost:4000", False),
    ],
)
def test_only_our_own_pages_may_call_without_a_key(origin: bytes, host: bytes, good: bool) -> None:
    assert (check_origin({b"origin": origin, b"host": host}) is None) == good


# --- answers that are not good enough --------------------------------------------------------------------------------


def chat_reply(text: str, **more: object) -> dict[str, object]:
    return {"choices": [{"message": {"content": text}, **more}]}


@pytest.mark.parametrize(
    ("config", "request_", "reply", "reason"),
    [
        ({"unless": "yes"}, {}, chat_reply("no"), "unless"),
        ({"unless": "yes"}, {}, chat_reply("yes"), None),
        ({"when": "sorry"}, {}, {"content": [{"type": "text", "text": "I am sorry"}]}, "when"),
        ({"when": "sorry"}, {}, {"output": [{"content": [{"text": "sorry"}]}]}, "when"),
        ({"valid_json": True}, {"response_format": {"type": "json_object"}}, chat_reply("{"), "valid_json"),
        ({"valid_json": True}, {"response_format": {"type": "json_object"}}, chat_reply("{}"), None),
        ({"valid_json": True}, {}, chat_reply("{"), None),
        ({"min_logprob": -1.0}, {}, chat_reply("x", logprobs={"content": [{"logprob": -3}]}), "min_logprob"),
        ({"min_logprob": -1.0}, {}, chat_reply("x"), None),
        ({"unless": "yes"}, {}, {"choices": [{"message": {"tool_calls": [{}]}}]}, None),
    ],
)
def test_reasons_to_ask_a_better_target(
    config: dict[str, object], request_: dict[str, object], reply: dict[str, object], reason: str | None
) -> None:
    assert Escalation(EscalateConfig.model_validate(config)).reason(request_, reply) == reason


def test_a_pattern_that_is_none_is_refused_when_the_configuration_is_read() -> None:
    with pytest.raises(ConfigError, match="regular expression"):
        Escalation(EscalateConfig(unless="("))


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "message", "content", "text", "output", "logprobs", "type"]),
            children,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@patiently
@given(st.dictionaries(st.sampled_from(["choices", "content", "output"]), json_values))
def test_any_reply_can_be_judged(reply: dict[str, object]) -> None:
    rule = Escalation(EscalateConfig(unless="x", when="y", valid_json=True, min_logprob=-1))
    assert rule.reason({}, reply) in (None, "unless", "when", "min_logprob")
    mean_logprob(reply)


# --- measures, tiers, tags -------------------------------------------------------------------------------------------


TARGET = TargetConfig(provider="p", model="m", max_output_tokens=100)


def test_plain_requests_are_bounded_by_their_bytes_and_the_enforced_maximum() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 40}
    size = measure("chat", body, json.dumps(body).encode())
    assert size.plain
    most_input, most_output = size.worst(TARGET)
    assert most_input >= len(json.dumps(body))
    assert most_output == 40
    assert measure("chat", {**body, "max_tokens": 500}, b"x" * 99).worst(TARGET)[1] == 100


@given(
    st.dictionaries(
        st.sampled_from(["tools", "n", "response_format", "metadata", "prediction"]), st.just([]), max_size=2
    ),
    st.lists(st.text(max_size=20), max_size=4),
)
def test_the_short_way_bounds_as_the_long_way_does(more: dict[str, object], texts: list[str]) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": text} for text in texts], **more}
    raw = json.dumps(body).encode()
    size = measure("chat", body, raw)
    assert size.plain == (not more)
    if size.plain:
        slow = measure("chat", {**body, "tools": None}, raw)
        assert not slow.plain
        assert size.worst(TARGET) == slow.worst(TARGET)


def test_pictures_count_as_pictures() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
    body = {"model": "m", "messages": [{"role": "user", "content": [picture, {"type": "text", "text": "Hello"}]}]}
    size = measure("chat", body, json.dumps(body).encode())
    assert size.images == 1
    assert size.input_estimate < 5000
    assert start_tier([RoiRule(tier=2, has_images=True)], body, size, {}) == 2


def test_no_rule_means_the_first_tier() -> None:
    size = measure("chat", {}, b"{}")
    assert start_tier([RoiRule(tier=3, min_input_tokens=10), RoiRule(tier=1, tags={"a": "b"})], {}, size, {}) == 0
    assert start_tier([RoiRule(tier=1, tags={"a": "b"})], {}, size, {"a": "b", "c": "d"}) == 1


@given(st.binary(max_size=200))
def test_any_tags_header_is_read_or_refused(header: bytes) -> None:
    tags = None
    with contextlib.suppress(Fault):
        tags = admission.read_tags(header)
    if tags is None:
        with pytest.raises(Fault) as refused:
            admission.read_tags(header)
        assert refused.value.status == 400
    else:
        assert all(value.isprintable() for value in tags.values())
        assert not admission.OWN_TAGS & tags.keys()


# --- metrics ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1000), min_size=1))
def test_each_duration_is_in_one_bucket(durations: list[float]) -> None:
    metrics = Metrics(0)
    for duration in durations:
        metrics.tally("r", "t", "2xx", "").time(duration, None)
    _, _, counts, total = json.loads(metrics.as_json([]))["histograms"][0]
    assert sum(counts) == len(durations)
    assert total == pytest.approx(sum(durations), abs=1e-3)
    for place, bound in enumerate(BOUNDS):
        assert sum(counts[: place + 1]) == sum(duration <= bound for duration in durations)


def test_series_are_bounded() -> None:
    metrics = Metrics(0)
    for number in range(20_000):
        metrics.tally("r", f"t{number}", "2xx", "").calls += 1
        metrics.count("seldom", kind=str(number))
    dumped = json.loads(metrics.as_json([]))
    calls = [value for name, _, value in dumped["counters"] if name == "llmops_gateway_requests_total"]
    assert sum(calls) == 20_000
    assert len(dumped["counters"]) < 60_000
    assert sum(value for name, _, value in dumped["counters"] if name == "seldom") == 20_000
