"""What a model says of a document is data: only what was declared becomes a fact, the rest is counted."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from llmops.rag.facts.config import DeclaredFact, ExtractionConfig
from llmops.rag.facts.declared import UnreadableReplyError, read_reply

FACTS = (
    DeclaredFact(name="kind", values=("Report", "minutes"), description="what it is"),
    DeclaredFact(name="day", type="date", description="its day"),
    DeclaredFact(name="pages", type="integer", description="how long"),
    DeclaredFact(name="price", type="number", description="in euros"),
    DeclaredFact(name="draft", type="boolean", description="is it one"),
    DeclaredFact(name="people", many=True, description="who is named"),
    DeclaredFact(name="level", type="integer", values=(1, 2), description="of secrecy"),
)


@pytest.mark.parametrize(
    ("said", "facts", "dropped"),
    [
        ({"kind": "report", "day": "2024-03"}, {"kind": "Report", "day": "2024-03"}, 0),
        ({"pages": "12", "price": 3.5}, {"pages": 12, "price": 3.5}, 0),
        ({"kind": "novel", "day": "5 March", "pages": 1.5, "price": "much", "draft": "yes"}, {}, 5),
        ({"people": ["Ann", "Ann", " Bob\nSmith ", 7]}, {"people": ["Ann", "Bob Smith"]}, 1),
        ({"people": "Ann", "draft": False, "level": 2}, {"people": ["Ann"], "draft": False, "level": 2}, 0),
        ({"level": 3, "kind": ["report", "minutes"], "unknown": "x"}, {}, 4),
        ({"kind": None, "people": [], "day": ""}, {}, 0),
        ({"day": "2024-02-30", "pages": True, "price": 1e300}, {}, 3),
        ({"people": ["x" * 201, "\x00\x1b"]}, {}, 2),
    ],
)  # fmt: skip
def test_only_what_was_declared_is_kept(said, facts, dropped):
    stated = read_reply(f"Sure: {json.dumps({'facts': said})}", FACTS)
    assert (stated.facts, stated.dropped) == (facts, dropped)


@pytest.mark.parametrize("reply", ["", "no idea", "{", '{"facts": ', "[1]", "{" * 100_000 + "}" * 100_000])
def test_a_reply_that_is_none_is_told_apart_from_no_facts(reply):
    with pytest.raises(UnreadableReplyError):
        read_reply(reply, FACTS)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*(fact.name for fact in FACTS), "other"]), values))
def test_whatever_a_model_says_becomes_declared_values_or_nothing(said):
    stated = read_reply(json.dumps({"facts": said}), FACTS)
    json.loads(json.dumps(stated.facts, allow_nan=False))
    assert set(stated.facts) <= {fact.name for fact in FACTS}
    for value in stated.facts.values():
        assert isinstance(value, str | int | float | bool | list)


def test_a_declaration_that_contradicts_itself_is_refused():
    for wrong in ({"type": "integer", "values": ("a",)}, {"type": "date", "values": ("2024",)}, {"name": "a-b"}):
        with pytest.raises(ValidationError):
            DeclaredFact(**{"name": "x", "description": "y", **wrong})
    with pytest.raises(ValidationError, match="twice"):
        ExtractionConfig(model="m", facts=(FACTS[0], FACTS[0]))
