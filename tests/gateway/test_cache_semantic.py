"""The semantic cache: only the same setting, only the same numbers and negations, only near enough, never too much."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Sequence
from typing import Any

import pytest

from llmops.core.errors import UpstreamError
from llmops.gateway.cache import Memory, RouteCache, Stored
from llmops.gateway.cache.semantic import Questions, question_of, telling
from llmops.gateway.calls import KeyPolicy, Usage
from llmops.gateway.config import CacheConfig, SemanticCacheConfig


def stored(text: str, at: float = 1e12) -> Stored:
    return Stored(text.encode(), Usage(), "m", at)


def at_angle(degrees: float, width: int = 4) -> list[float]:
    """A vector at this angle to the first axis."""
    radians = math.radians(degrees)
    return [3 * math.cos(radians), 3 * math.sin(radians), *[0.0] * (width - 2)]


def test_the_nearest_above_the_threshold() -> None:
    questions = Questions(0.95, 100_000)
    questions.add(b"s", "q", at_angle(0), stored("zero"))
    questions.add(b"s", "q", at_angle(10), stored("ten"))
    questions.add(b"s", "q", at_angle(90), stored("ninety"))

    def found(degrees: float) -> bytes | None:
        answer = questions.find(b"s", "q", at_angle(degrees))
        return answer.body if answer else None

    assert found(1) == b"zero"
    assert found(8) == b"ten"
    assert found(-18) == b"zero"
    assert found(-19) is None, "cos 19 degrees is 0.946"
    assert found(45) is None
    assert questions.find(b"other", "q", at_angle(0)) is None


def test_numbers_and_negations_must_agree() -> None:
    questions = Questions(0.5, 100_000)
    questions.add(b"s", "Population of Paris in 2023?", at_angle(0), stored("2.1 M"))
    assert questions.find(b"s", "population of paris 2023", at_angle(0)) is not None
    assert questions.find(b"s", "population of paris 2024", at_angle(0)) is None
    assert questions.find(b"s", "what was not the population of paris in 2023", at_angle(0)) is None
    assert telling("Why doesn't it work without 3.5 V?") == ("doesn't", "without", "3.5")


def test_the_bound_holds_and_the_oldest_gives_way() -> None:
    questions = Questions(0.99, 50_000)
    draw = random.Random(1)
    vectors = [[draw.gauss(0, 1) for _ in range(64)] for _ in range(300)]
    for number, vector in enumerate(vectors):
        questions.add(b"s%d" % (number % 3), "q", vector, stored(f"{number}"))
        assert questions.size_bytes <= 50_000
    assert 20 < len(questions) < 100
    assert questions.find(b"s0", "q", vectors[0]) is None
    for number in range(300 - len(questions), 300):
        answer = questions.find(b"s%d" % (number % 3), "q", vectors[number])
        assert answer is not None
        assert answer.body == str(number).encode()


def test_old_answers_are_forgotten() -> None:
    questions = Questions(0.99, 100_000)
    questions.add(b"s", "q", at_angle(0), stored("old", at=10))
    questions.add(b"s", "q", at_angle(90), stored("new", at=20))
    questions.forget_older(10)
    assert questions.find(b"s", "q", at_angle(0)) is None
    assert questions.find(b"s", "q", at_angle(90)) is not None


def test_another_embedding_model_begins_anew() -> None:
    questions = Questions(0.9, 100_000)
    questions.add(b"s", "q", at_angle(0, 4), stored("4"))
    assert questions.find(b"s", "q", at_angle(0, 8)) is None
    questions.add(b"s", "q", at_angle(0, 8), stored("8"))
    assert len(questions) == 1


@pytest.mark.parametrize("vector", [[], [0.0, 0.0], [float("nan"), 1.0], [float("inf"), 1.0]])
def test_embeddings_without_direction_are_no_answer(vector: list[float]) -> None:
    questions = Questions(0.9, 100_000)
    questions.add(b"s", "q", vector, stored("x"))
    assert len(questions) == 0
    questions.add(b"s", "q", [1.0, 0.0], stored("x"))
    assert questions.find(b"s", "q", vector) is None


@pytest.mark.parametrize(
    ("operation", "body", "question"),
    [
        ("chat", {"messages": [{"role": "user", "content": "q"}]}, "q"),
        ("chat", {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]}, "q"),
        ("messages", {"system": "s", "messages": [{"role": "user", "content": "q"}]}, "q"),
        ("responses", {"input": "q"}, "q"),
        ("completions", {"prompt": "q"}, "q"),
        ("chat", {"messages": [{"role": "user", "content": "q"}], "tools": [{}]}, None),
        ("chat", {"messages": [{"role": "user", "content": "q"}], "n": 2}, None),
        ("chat", {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}]}, None),
        ("chat", {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "q"}]}, None),
        ("chat", {"messages": [{"role": "user", "content": ""}]}, None),
        ("chat", {"messages": []}, None),
        ("chat", {"messages": "q"}, None),
        ("completions", {"prompt": ["q"]}, None),
        ("embeddings", {"input": "q"}, None),
    ],
)
def test_only_one_question_in_plain_text(operation: Any, body: dict[str, Any], question: str | None) -> None:
    found = question_of(operation, body)
    assert (found[0] if found else None) == question


def opened(embed: Any, **more: Any) -> RouteCache:
    config = CacheConfig(semantic=SemanticCacheConfig(embedding_route="e", threshold=0.95), **more)
    return RouteCache(
        config, "chat", "1", Memory(100_000, config.ttl_s), questions=Questions(0.95, 100_000), embed=embed
    )


def policy(*groups: str) -> KeyPolicy:
    return KeyPolicy("k", "0" * 64, "k", frozenset(groups), frozenset(), None, None, frozenset())


def body(text: str, system: str = "s") -> dict[str, Any]:
    return {"messages": [{"role": "system", "content": system}, {"role": "user", "content": text}]}


def test_through_the_route() -> None:
    import time

    asked: list[str] = []

    async def embed(text: str) -> Sequence[float]:
        asked.append(text)
        return at_angle(90 if "cat" in text else 0)

    async def main() -> None:
        route = opened(embed)

        async def ask(text: str, who: KeyPolicy, system: str = "s") -> str | None:
            lookup = route.lookup("chat", body(text, system), who)
            assert lookup is not None
            found = route.get(lookup) or await route.fetch(lookup)
            if found is None:
                route.keep(lookup, stored(f"answer to {text}", time.time()))
                return None
            return found.body.decode()

        assert await ask("how old is the dog", policy("a")) is None
        assert await ask("what age has the dog", policy("a")) == "answer to how old is the dog"
        assert await ask("what age has the cat", policy("a")) is None
        assert await ask("what age has the dog", policy("b")) is None, "another scope"
        assert await ask("what age has the dog", policy("a"), "other system prompt") is None
        before = len(asked)
        assert await ask("how old is the dog", policy("a")) == "answer to how old is the dog"
        assert len(asked) == before, "the very same question needs no embedding"
        assert route.counters.similar == 1

    asyncio.run(main())


def test_a_failing_embedding_is_a_miss() -> None:
    async def embed(text: str) -> Sequence[float]:
        raise UpstreamError("no embedding today")

    async def main() -> None:
        route = opened(embed)
        lookup = route.lookup("chat", body("q"), None)
        assert lookup is not None
        assert await route.fetch(lookup) is None
        route.keep(lookup, stored("a"))
        assert len(route.questions or ()) == 0

    asyncio.run(main())
