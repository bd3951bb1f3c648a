"""Follow-ups become questions that stand alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.upstream import Reply, Upstream, running_upstream

from llmops.core.chain import ChainContext, Message
from llmops.core.errors import UpstreamError
from llmops.core.llm import LlmClient, LlmEndpoint
from llmops.rag.answer.condense import condense_by_llm, condense_by_rule

HISTORY: list[Message] = [
    {"role": "user", "content": "Who designed the Aurora pump?"},
    {"role": "assistant", "content": "Ingrid Halvorsen [1]"},
]


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with running_upstream() as server:
        yield server


@pytest.mark.parametrize(
    "follow_up", ["And how much does it weigh?", "Why?", "How long is that?", "What about spare filters?", "When?"]
)
def test_leaning_follow_up_takes_its_topic_along(follow_up: str) -> None:
    assert condense_by_rule(follow_up, HISTORY) == f"Who designed the Aurora pump? {follow_up}"


@pytest.mark.parametrize(
    "question",
    [
        "Which mayor opened the turbine hall of Tromso?",
        "How are quarantined files listed on the console?",
        "What is Chroma?",
        "What is the metric that decides a promotion?",
    ],
)
def test_question_that_stands_alone_is_left_alone(question: str) -> None:
    assert condense_by_rule(question, HISTORY) == question


def test_chain_of_follow_ups_reaches_back_to_the_topic() -> None:
    history: list[Message] = [*HISTORY, {"role": "user", "content": "And when?"}]
    assert condense_by_rule("Why?", history) == "Who designed the Aurora pump? And when? Why?"


def test_first_question_is_never_changed() -> None:
    assert condense_by_rule("Why?", []) == "Why?"


def by_llm(upstream: Upstream, history: list[Message]) -> str:
    return condense_by_llm("And when?", history, LlmClient(LlmEndpoint(upstream.url, "t", attempts=1)), ChainContext())


def test_llm_rewrites(upstream: Upstream) -> None:
    upstream.script(Reply(pieces=("When was the Aurora ", "pump designed?\n")))
    assert by_llm(upstream, HISTORY) == "When was the Aurora pump designed?"
    assert "Ingrid Halvorsen" in upstream.requests[0].messages[1]["content"]


def test_llm_is_not_asked_about_a_first_question(upstream: Upstream) -> None:
    assert by_llm(upstream, []) == "And when?"
    assert upstream.requests == []


@pytest.mark.parametrize("reply", ["", "Sure!\nHere is the question: when?", "x" * 2000])
def test_unusable_rewrite_falls_back_to_the_rule(upstream: Upstream, reply: str) -> None:
    upstream.script(Reply(pieces=(reply,)))
    assert by_llm(upstream, HISTORY) == "Who designed the Aurora pump? And when?"


def test_failing_llm_is_reported(upstream: Upstream) -> None:
    upstream.script(Reply(status=500))
    with pytest.raises(UpstreamError):
        by_llm(upstream, HISTORY)
