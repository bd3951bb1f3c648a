"""The cache of one worker: keys, scopes, wishes, bounds, flights - by example and against a model."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from llmops.gateway.cache import Memory, RouteCache, Stored, Wishes, read_wishes
from llmops.gateway.cache.exact import OVERHEAD_BYTES
from llmops.gateway.cache.flights import Flights
from llmops.gateway.calls import KeyPolicy, Usage
from llmops.gateway.config import CacheConfig


def policy(key_id: str, *groups: str) -> KeyPolicy:
    return KeyPolicy(key_id, "0" * 64, key_id, frozenset(groups), frozenset({"gateway"}), None, None, frozenset())


def stored(text: str = "answer", at: float = 0.0) -> Stored:
    return Stored(text.encode(), Usage(3, 4), "model", at)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def cache(**more: Any) -> RouteCache:
    config = CacheConfig(**more)
    return RouteCache(config, "chat", "v1", Memory(config.max_bytes, config.ttl_s, Clock()))


def body(text: str = "hi", **more: Any) -> dict[str, Any]:
    return {"model": "chat", "messages": [{"role": "user", "content": text}], **more}


def key(route: RouteCache, request: dict[str, Any], who: KeyPolicy | None = None, operation: Any = "chat") -> bytes:
    lookup = route.lookup(operation, request, who)
    assert lookup is not None
    return lookup.key


def test_one_request_has_one_key_however_it_is_written() -> None:
    route = cache()
    first = key(route, {"model": "chat", "temperature": 0, "messages": [{"role": "user", "content": "hi"}]})
    assert first == key(route, {"messages": [{"content": "hi", "role": "user"}], "temperature": 0, "model": "chat"})
    for more in (
        {"stream": True},
        {"stream_options": {"include_usage": True}},
        {"user": "u"},
        {"metadata": {"a": "b"}},
    ):
        assert first == key(route, body(temperature=0, **more))


def test_what_decides_the_answer_decides_the_key() -> None:
    route = cache()
    requests = [
        body(), body("hi "), body(temperature=1), body(seed=1), body(max_tokens=1), body(n=2),
        body(tools=[{"type": "function", "function": {"name": "f"}}]), body(response_format={"type": "json_object"}),
        {"model": "chat", "messages": [{"role": "system", "content": "hi"}]},
    ]  # fmt: skip
    keys = [key(route, request) for request in requests]
    assert len(set(keys)) == len(keys)
    assert key(route, body(), operation="messages") not in keys
    assert key(RouteCache(route.config, "chat", "v2", route.memory), body()) not in keys
    assert key(RouteCache(route.config, "other", "v1", route.memory), body()) not in keys


def test_parts_of_a_key_do_not_run_together() -> None:
    config = CacheConfig()
    one = RouteCache(config, "ab", "c", Memory(10_000, 1))
    other = RouteCache(config, "a", "bc", Memory(10_000, 1))
    assert key(one, body()) != key(other, body())


@pytest.mark.parametrize(
    ("per", "shared", "apart"),
    [
        (
            "groups",
            [("a", "x", "y"), ("b", "y", "x")],
            [("a", "x"), ("a", "x", "y"), ("a",), ("a", "x,y"), ("c", "xy")],
        ),
        ("key", [("a", "x"), ("a", "y")], [("a",), ("b",), ("c",)]),
        ("everyone", [("a", "x"), ("b",)], []),
    ],
)
def test_scopes(per: Any, shared: list[tuple[str, ...]], apart: list[tuple[str, ...]]) -> None:
    route = cache(per=per)
    assert len({key(route, body(), policy(*who)) for who in shared}) == 1
    assert len({key(route, body(), policy(*who)) for who in apart}) == len(apart)


def test_without_a_key_is_a_scope_of_its_own_for_keys() -> None:
    route = cache(per="key")
    assert key(route, body(), None) != key(route, body(), policy("None"))


@pytest.mark.parametrize(
    "more",
    [{"previous_response_id": "r"}, {"conversation": "c"}, {"background": True}, {"tools": [{"type": "web_search"}]},
     {"tools": "all"}, {"mcp_servers": [{"url": "x"}]}],
)  # fmt: skip
def test_what_depends_on_more_than_the_body_is_not_cached(more: dict[str, Any]) -> None:
    assert cache().lookup("responses", {"model": "chat", "input": "hi", **more}, None) is None


def test_sampled_answers_are_given_again_unless_refused() -> None:
    assert cache().lookup("chat", body(temperature=1), None) is not None
    strict = cache(sampled=False)
    assert strict.lookup("chat", body(temperature=1), None) is None
    assert strict.lookup("chat", body(), None) is None, "the default is a temperature above 0"
    assert strict.lookup("chat", body(temperature=0), None) is not None
    assert strict.lookup("embeddings", {"input": "x"}, None) is not None


def test_a_body_too_deep_to_write_is_not_cached() -> None:
    deep: Any = []
    for _ in range(2000):
        deep = [deep]
    assert cache().lookup("chat", body(x=deep), None) is None


@pytest.mark.parametrize(
    ("header", "wishes"),
    [
        (None, Wishes()),
        (b"no-store", Wishes(False, False)),
        (b"No-Cache", Wishes(read=False)),
        (b"max-age=60", Wishes(max_age_s=60)),
        (b'max-age="5", private', Wishes(max_age_s=5)),
        (b"max-age=soon", Wishes(max_age_s=0)),
        (b"max-age=-1", Wishes(max_age_s=0)),
        (b"only-if-cached", Wishes(only=True)),
        (b"no-cache, no-store", Wishes(False, False)),
        ("é=\u00b2,,=".encode("latin-1"), Wishes()),
    ],
)
def test_wishes(header: bytes | None, wishes: Wishes) -> None:
    assert read_wishes(header) == wishes


@given(st.binary(max_size=60))
def test_any_header_is_read(header: bytes) -> None:
    wishes = read_wishes(header)
    assert wishes.max_age_s is None or wishes.max_age_s >= 0
    assert read_wishes(header.upper()) == wishes


def test_wishes_are_obeyed() -> None:
    route = cache()
    asked = route.lookup("chat", body(), None)
    assert asked is not None
    assert route.get(asked) is None
    route.keep(asked, stored(at=990.0))
    assert route.get(asked) is not None
    for header, there in ((b"no-cache", False), (b"max-age=5", False), (b"max-age=10", True)):
        again = route.lookup("chat", body(), None, header)
        assert again is not None
        assert (route.get(again) is not None) == there
    assert route.lookup("chat", body(), None, b"no-store") is None
    assert (route.counters.hits, route.counters.kept) == (2, 1)


def test_age() -> None:
    clock = Clock()
    memory = Memory(10_000, 60, clock)
    assert memory.put(b"k", stored(at=clock.now))
    clock.now += 59.9
    assert memory.get(b"k") is not None
    clock.now += 0.2
    assert memory.get(b"k") is None
    assert memory.size_bytes == 0
    assert not memory.put(b"k", stored(at=0.0)), "too old to be kept"


def test_an_answer_too_large_is_not_kept() -> None:
    memory = Memory(8000, 1e9, Clock())
    assert not memory.put(b"k", stored("x" * 1001))
    assert len(memory) == 0


def test_single_questions_do_not_wash_out_what_is_asked_again() -> None:
    memory = Memory(200 * (OVERHEAD_BYTES + 100), 1e9, Clock())
    hot = [b"hot%d" % number for number in range(50)]
    for name in hot:
        memory.put(name, stored("x" * 100, 1000))
    for number in range(20_000):
        if number % 10 == 0:
            for name in hot[number // 10 % 50 :: 25]:
                if memory.get(name) is None:
                    memory.put(name, stored("x" * 100, 1000))
        memory.put(b"cold%d" % number, stored("x" * 100, 1000))
    assert sum(memory.get(name) is not None for name in hot) == 50


KEYS = st.sampled_from([bytes([number]) for number in range(12)])


class AgainstAModel(RuleBasedStateMachine):
    """Never a wrong, old or unknown answer; never more bytes than allowed; the books right."""

    MAX = 12_000
    TTL = 50.0

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.memory = Memory(self.MAX, self.TTL, self.clock)
        self.written: dict[bytes, Stored] = {}

    @rule(key=KEYS, size=st.integers(0, 2000), age=st.floats(0, 80))
    def put(self, key: bytes, size: int, age: float) -> None:
        entry = stored("x" * size, self.clock.now - age)
        kept = self.memory.put(key, entry)
        assert kept == (size + OVERHEAD_BYTES <= self.MAX // 8 and age < self.TTL)
        if kept:
            self.written[key] = entry
            assert self.memory.get(key) is entry or self.memory.size_bytes <= self.MAX

    @rule(key=KEYS, max_age=st.none() | st.floats(0, 60))
    def get(self, key: bytes, max_age: float | None) -> None:
        found = self.memory.get(key, max_age)
        if found is not None:
            assert found is self.written[key]
            assert found.age_s(self.clock.now) < self.TTL
            assert max_age is None or found.age_s(self.clock.now) <= max_age

    @rule(seconds=st.floats(0, 30))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def clear(self) -> None:
        self.memory.clear()
        assert len(self.memory) == 0

    @invariant()
    def books(self) -> None:
        entries = [*self.memory._small.values(), *self.memory._main.values()]
        assert self.memory.size_bytes == sum(entry.size for entry in entries) <= self.MAX
        assert self.memory._small_bytes == sum(entry.size for entry in self.memory._small.values())
        assert not self.memory._small.keys() & self.memory._main.keys()
        assert len(self.memory._gone) <= 1000


class AclScopes(RuleBasedStateMachine):
    """Whoever asks whatever in whatever order: an answer reaches only those who share its scope."""

    answers = Bundle("answers")

    def __init__(self) -> None:
        super().__init__()
        self.caches = {per: cache(per=per) for per in ("groups", "key", "everyone")}
        self.made: dict[bytes, tuple[str, object, str]] = {}

    @staticmethod
    def may_share(per: str, who: KeyPolicy | None) -> object:
        if per == "everyone":
            return None
        if per == "key":
            return who.key_id if who else ("nobody",)
        return who.groups if who else frozenset()

    @rule(
        per=st.sampled_from(["groups", "key", "everyone"]),
        who=st.none()
        | st.builds(
            lambda name, groups: policy(name, *groups),
            st.sampled_from(["a", "b", "None", "groups"]),
            st.lists(st.sampled_from(["x", "y", "xy", 'x","y', ""]), max_size=3),
        ),
        text=st.sampled_from(["hi", "ho", '"', "x"]),
        wish=st.sampled_from([None, b"no-cache", b"no-store"]),
    )
    def ask(self, per: str, who: KeyPolicy | None, text: str, wish: bytes | None) -> None:
        route = self.caches[per]
        asked = route.lookup("chat", body(text), who, wish)
        if asked is None:
            assert wish == b"no-store"
            return
        found = route.get(asked)
        setting = (per, self.may_share(per, who), text)
        if found is not None:
            assert wish is None
            assert self.made[found.body] == setting
        else:
            answer = f"answer {len(self.made)}"
            self.made[answer.encode()] = setting
            route.keep(asked, stored(answer, 1000))


TestAgainstAModel = AgainstAModel.TestCase
TestAgainstAModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAclScopes = AclScopes.TestCase
TestAclScopes.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_identical_questions_share_one_call() -> None:
    route = cache()
    asked = route.lookup("chat", body(), None)
    assert asked is not None
    heard: list[Stored | None] = []
    assert not route.join(asked, heard.append), "the first one leads"
    assert route.join(asked, heard.append)
    gone: list[Stored | None] = []
    assert route.join(asked, gone.append)
    route.leave(asked, gone.append)
    answer = stored(at=1000)
    route.keep(asked, answer)
    assert heard == [answer]
    assert gone == []
    assert len(route.flights) == 0


def test_when_the_leader_fails_one_of_the_others_leads() -> None:
    flights = Flights()
    calls: list[str] = []

    def waiter(name: str) -> Any:
        def heard(answer: Stored | None) -> None:
            if answer is None and not flights.join(b"k", heard):
                calls.append(name)
            elif answer is not None:
                calls.append(f"{name}: {answer.body.decode()}")

        return heard

    assert not flights.join(b"k", waiter("a"))
    for name in ("b", "c", "d"):
        assert flights.join(b"k", waiter(name))
    flights.land(b"k", None)
    assert calls == ["b"]
    flights.land(b"k", stored("yes"))
    assert calls == ["b", "c: yes", "d: yes"]
    flights.land(b"k", None)
    assert len(flights) == 0


def test_a_caller_who_wants_it_fresh_does_not_wait_for_others() -> None:
    route = cache()
    first = route.lookup("chat", body(), None)
    fresh = route.lookup("chat", body(), None, b"no-cache")
    assert first is not None
    assert fresh is not None
    assert not route.join(first, lambda answer: None)
    assert not route.join(fresh, lambda answer: None)
