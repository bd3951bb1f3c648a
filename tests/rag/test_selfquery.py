"""Filters read out of questions: they narrow, they are shown, and no reply of a model opens what was closed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.indexes import NAME, Workplace
from tests.support.upstream import Reply, running_upstream

from llmops.core.chain import ChainContext, Retrieval, Step
from llmops.core.errors import UserError
from llmops.core.identity import Principal
from llmops.core.llm import LlmClient, LlmEndpoint
from llmops.rag.answer.quoting import QuotingAnswerer
from llmops.rag.chain import ChainParts, RagChain
from llmops.rag.config import AnswerConfig, FolderSource, IndexConfig, RetrievalConfig
from llmops.rag.index import open_index
from llmops.rag.ingest.refresh import Options, refresh
from llmops.rag.retrieve import Retriever
from llmops.rag.selfquery import SelfQuery, read_filters

FACTS = {"team": "who wrote it", "date": "day of the report"}
SOURCES = {
    "north": {"team": "north", "date": "2023-05-01"},
    "south": {"team": "south", "date": "2024-02-01"},
    "secret": {"team": "board", "date": "2024-03-01"},
}
ANN = Principal("ann", groups=frozenset())
QUESTION = "What does the southern report of 2024 say about rivers?"


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    place = Workplace.at(tmp_path_factory.mktemp("facts"))
    sources = []
    for name, facts in SOURCES.items():
        place.write(f"{name}/report.md", f"# Report\n\nThe {name} report says that rivers rise.")
        acl = ("board",) if name == "secret" else ("everyone",)
        sources.append(FolderSource(path=str(place.docs / name), acl=acl, metadata=facts))
    refresh(IndexConfig(name=NAME, sources=tuple(sources)), place.state, Options(embedder=place.embedder))
    opened = open_index(place.state, NAME)
    yield opened, place.embedder
    opened.close()


@pytest.fixture
def asked(index):
    """Asks a chain whose model replies with these texts; gives steps, uris and what the model was shown."""
    opened, embedder = index
    with running_upstream() as upstream:
        client = LlmClient(LlmEndpoint(upstream.url, "t", attempts=1))
        chain = RagChain(
            ChainParts(
                reader=opened.reader,
                retriever=Retriever(opened.reader, embedder, RetrievalConfig()),
                answerer=QuotingAnswerer(embedder),
                condense=lambda question, history, context: question,
                config=AnswerConfig(),
                self_query=SelfQuery(client, FACTS),
            )
        )

        def ask(reply: str, **filters):
            upstream.script(Reply((reply,)))
            context = ChainContext(principal=ANN, settings={"filters": filters})
            events = list(chain.stream([{"role": "user", "content": QUESTION}], context))
            steps = [event for event in events if isinstance(event, Step)]
            passages = next(event.passages for event in events if isinstance(event, Retrieval))
            return steps, {one.uri.split("/")[-2] for one in passages}, upstream.requests[-1].messages[1]["content"]

        yield ask


def test_a_question_becomes_a_filter_that_is_shown_as_a_step(asked):
    filters = {"team": "south", "date": {"from": "2024", "to": "2024"}}
    steps, found, shown = asked(json.dumps({"filters": filters}))
    assert found == {"south"}
    assert [(step.number, step.passages, step.filters) for step in steps] == [(1, 1, filters)]
    facts = {fact["fact"]: fact["values"] for fact in json.loads(shown)["facts"]}
    assert sorted(facts["team"]) == ["north", "south"], "values of documents that Ann may not read are not shown"
    assert sorted(facts["date"]) == ["2023-05-01", "2024-02-01"]


@pytest.mark.parametrize(
    "reply",
    [
        *("", "I can't", '{"filters": {"salary": 1}}', '{"filters": {"team": {"$ne": "x"}}}', '{"filters": []}'),
        *('{"filters": {"team": null}}', '{"filters": {"team": []}}', '{"filters": {"date": {}}}', '{"filters": {}}'),
    ],
)
def test_what_is_no_filter_leaves_the_search_as_it_was(asked, reply):
    steps, found, _ = asked(reply)
    assert found == {"north", "south"}
    assert not steps


@pytest.mark.parametrize("team", ["west", "board"])
def test_a_filter_that_finds_nothing_is_dropped_and_both_searches_are_shown(asked, team):
    steps, found, _ = asked(json.dumps({"filters": {"team": team}}))
    assert found == {"north", "south"}, "a team that is not there, or not for Ann, is told alike"
    assert [(step.number, step.passages, step.filters) for step in steps] == [(1, 0, {"team": team}), (2, 2, None)]


def test_the_requests_own_filters_stand_above_those_of_the_question(asked):
    assert asked('{"filters": {"team": "south"}}', team="north")[1] == {"north"}
    steps, found, _ = asked('{"filters": {"date": {"from": "2025"}}}', team="north")
    assert found == {"north"}
    assert len(steps) == 2
    assert asked('{"filters": {}}', date={"from": "2024"})[1] == {"south"}
    with pytest.raises(UserError, match="no document has the metadata `nonsense`"):
        asked("{}", nonsense=1)


@given(st.text() | st.dictionaries(st.text(), st.text()).map(json.dumps))
def test_no_reply_breaks_the_reading(reply):
    assert set(read_filters(reply, frozenset(FACTS))) <= set(FACTS)
