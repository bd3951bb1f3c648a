"""Several searches for one question: bounded, visible, merged fairly, and never more than the reader may read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.memory_index import HashingEmbedder, MemoryDocument, MemoryIndex
from tests.support.upstream import Reply, Seen, Upstream, running_upstream

from llmops.core.chain import ChainContext, Citation, Event, Retrieval, Step
from llmops.core.errors import UpstreamError
from llmops.core.identity import Principal
from llmops.core.llm import LlmClient, LlmEndpoint
from llmops.rag.answer.condense import condense_by_rule
from llmops.rag.answer.llm import LlmAnswerer
from llmops.rag.answer.prompt import DEFAULT_PROMPT
from llmops.rag.chain import ChainParts, RagChain
from llmops.rag.config import AnswerConfig, RetrievalConfig
from llmops.rag.hops import LlmPlanner, merged, read_plan
from llmops.rag.retrieve import Retrieved, Retriever
from llmops.rag.section import LlmConfig

DOCUMENTS = (
    MemoryDocument("a.md", "The waltz Aschenbrodel was composed by Johann Strauss.", title="Aschenbrodel"),
    MemoryDocument("b.md", "Johann Strauss was a citizen of Austria.", title="Strauss"),
    MemoryDocument("c.md", "Karl Renner led Austria after the war.", title="Renner"),
    MemoryDocument("d.md", "Karl Renner's salary was a secret.", title="Salary", acl=frozenset({"hr"})),
    *(MemoryDocument(f"x{n}.md", f"Unrelated notes about gardens, number {n}.", title=f"Notes {n}") for n in range(12)),
)
QUESTION = "Who led the country of the composer of Aschenbrodel?"
PLAN = "You plan the searches"


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with running_upstream() as server:
        yield server


def is_plan(seen: Seen) -> bool:
    return seen.messages[0]["content"].startswith(PLAN)


def chain(upstream: Upstream, hops: int = 3, top_k: int = 3) -> RagChain:
    embedder = HashingEmbedder()
    index = MemoryIndex(DOCUMENTS, embedder)
    answer = AnswerConfig(llm=LlmConfig(url=upstream.url, model="t"))
    client = LlmClient(LlmEndpoint(upstream.url, "t", timeout_s=60, attempts=1))
    return RagChain(
        ChainParts(
            reader=lambda: index,
            retriever=Retriever(lambda: index, embedder, RetrievalConfig(hops=hops, top_k=top_k)),
            answerer=LlmAnswerer(client, DEFAULT_PROMPT, embedder, answer.context_tokens),
            condense=lambda question, history, context: condense_by_rule(question, history),
            config=answer,
            planner=LlmPlanner(client),
        )
    )


def ask(rag: RagChain, **context: object) -> list[Event]:
    return list(rag.stream([{"role": "user", "content": QUESTION}], ChainContext(**context)))


def scripted(*plans: str, answer: str = "Karl Renner led Austria after the war. [1][2][3]") -> list[Reply]:
    return [*(Reply((plan,)) for plan in plans), Reply((answer,))]


def test_each_search_is_told_and_the_answer_stands_on_all_of_them(upstream: Upstream) -> None:
    upstream.script(*scripted('{"search": "citizen of Johann Strauss"}', '```json\n{"search": "who led Austria"}\n```'))
    events = ask(chain(upstream))
    assert [event.query for event in events if isinstance(event, Step)] == [
        QUESTION,
        "citizen of Johann Strauss",
        "who led Austria",
    ]
    (retrieval,) = [event for event in events if isinstance(event, Retrieval)]
    assert {passage.uri for passage in retrieval.passages} == {"a.md", "b.md", "c.md"}
    assert [event.uri for event in events if isinstance(event, Citation)] == ["c.md"]
    assert [is_plan(seen) for seen in upstream.requests] == [True, True, False]
    assert (
        "Johann Strauss" in upstream.requests[0].messages[1]["content"]
    )  # the planner saw what the first search found


@pytest.mark.parametrize(
    "reply",
    ['{"enough": true}', "no idea", '{"search": ""}', '{"search": 7}', '["x"]', '{"search": "' + "x" * 400 + '"}', ""],
)
def test_a_plan_that_asks_for_nothing_ends_the_search(upstream: Upstream, reply: str) -> None:
    upstream.script(*scripted(reply))
    events = ask(chain(upstream))
    assert len([event for event in events if isinstance(event, Step)]) == 1
    assert len(upstream.requests) == 2


def test_a_search_that_was_made_is_not_made_again_and_hops_are_bounded(upstream: Upstream) -> None:
    upstream.script(*scripted(f'{{"search": "{QUESTION.upper()}"}}'))
    assert len([event for event in ask(chain(upstream)) if isinstance(event, Step)]) == 1
    upstream.answer = lambda seen: Reply((f'{{"search": "number {len(upstream.requests)}"}}',))
    assert len([event for event in ask(chain(upstream, hops=4)) if isinstance(event, Step)]) == 4
    upstream.requests.clear()
    assert not [event for event in ask(chain(upstream, hops=1)) if isinstance(event, Step)]
    assert not any(is_plan(seen) for seen in upstream.requests)


def test_no_step_leads_to_what_its_reader_may_not_read(upstream: Upstream) -> None:
    plan = '{"search": "salary of Karl Renner"}'
    for principal, reads in ((Principal("ola"), False), (Principal("kari", groups=frozenset({"hr"})), True)):
        upstream.script(*scripted(plan, '{"enough": true}'))
        events = ask(chain(upstream), principal=principal)
        shown = {passage.uri for event in events if isinstance(event, Retrieval) for passage in event.passages}
        assert ("d.md" in shown) is reads
        assert any("secret" in seen.body["messages"][-1]["content"] for seen in upstream.requests) is reads
        upstream.requests.clear()


def test_a_planner_that_fails_is_told_as_any_failure_of_the_llm(upstream: Upstream) -> None:
    upstream.script(Reply(status=500))
    with pytest.raises(UpstreamError):
        ask(chain(upstream))


def test_passages_of_any_words_stay_between_their_markers(upstream: Upstream) -> None:
    upstream.script(*scripted('{"enough": true}'))
    ask(chain(upstream))
    shown = upstream.requests[0].messages[1]["content"]
    word = shown.partition("<<")[2].partition("\n")[0]
    assert len(word) == 12
    assert shown.count(f"<<{word}") == shown.count(f"\n{word}>>") > 0


def test_merging_takes_the_best_of_each_by_turns_and_copies_once() -> None:
    embedder = HashingEmbedder()
    index = MemoryIndex(DOCUMENTS, embedder)
    retriever = Retriever(lambda: index, embedder, RetrievalConfig(top_k=4))
    queries = ("Aschenbrodel", "Austria", "Aschenbrodel waltz")
    searches = [retriever.retrieve(query, Principal("ola")) for query in queries]
    found = [passage.chunk.uri for passage in merged(searches).passages]
    assert len(found) == len(set(found)) == 4
    assert found[0] == "a.md"
    assert found[1] in ("b.md", "c.md")


@given(st.text(max_size=80))
def test_any_reply_is_a_short_plan_or_none(reply: str) -> None:
    plan = read_plan(reply)
    assert plan is None or (plan.strip() == plan and 0 < len(plan) <= 300)


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=5, unique=True), min_size=1, max_size=4))
def test_merging_loses_no_first_place(orders: list[list[int]]) -> None:
    made = [_search(order) for order in orders]
    merged_uris = [found.chunk.uri for found in merged(made).passages]
    firsts = list(dict.fromkeys(f"{order[0]}.md" for order in orders))
    room = max(len(order) for order in orders)
    assert merged_uris[: min(len(firsts), room)] == firsts[:room]
    assert len(merged_uris) == min(room, len({number for order in orders for number in order}))
    assert all(a != b for a, b in pairwise(sorted(merged_uris)))


def _search(order: Sequence[int]) -> Retrieved:
    embedder = HashingEmbedder()
    words = ("ash", "birch", "cedar", "dogwood", "elm", "fir", "gum", "hazel", "iroko", "juniper")
    index = MemoryIndex([MemoryDocument(f"{n}.md", f"{words[n]} {words[n]} tree") for n in order], embedder)
    found = Retriever(lambda: index, embedder, RetrievalConfig(top_k=9)).retrieve("tree", Principal("ola"))
    by_uri = {passage.chunk.uri: passage for passage in found.passages}
    return replace(found, passages=tuple(by_uri[f"{n}.md"] for n in order))
