"""Filters by value, by list and by range: what they admit, as a walk over every document would say."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.core.errors import UserError
from llmops.core.identity import Principal
from llmops.rag.index.access import Access
from llmops.rag.index.facts import Facts

ANYBODY = Principal("a", groups=frozenset())
HR = Principal("b", groups=frozenset({"hr"}))
values = st.one_of(st.integers(-3, 3), st.sampled_from(["a", "b", "2024-01", "2024-12-31"]), st.booleans(), st.none())


@given(st.lists(st.dictionaries(st.sampled_from("xy"), values)), st.lists(values, min_size=1, max_size=3))
def test_a_filter_admits_what_a_walk_over_all_documents_admits(metadata, wanted) -> None:
    facts = Facts(metadata)
    assert facts.matching("x", wanted).tolist() == ["x" in held and held["x"] in wanted for held in metadata]
    assert facts.matching("x", wanted[0]).tolist() == ["x" in held and held["x"] == wanted[0] for held in metadata]


@given(st.lists(st.integers(-5, 5)), st.integers(-6, 6) | st.none(), st.integers(-6, 6))
def test_a_range_of_numbers_holds_both_its_ends(held, low, high) -> None:
    found = Facts({"n": one} for one in held).matching("n", {"from": low, "to": high})
    assert found.tolist() == [(low is None or one >= low) and one <= high for one in held]


def test_a_range_of_dates_ends_with_its_last_day_and_its_last_month() -> None:
    dates = ["2023-12-31", "2024-01-01", "2024-06-30T10:00:00+00:00", "2024-12-31T23:59", "2025-01-01"]
    facts = Facts({"date": one} for one in dates)
    assert facts.matching("date", {"from": "2024", "to": "2024"}).tolist() == [False, True, True, True, False]
    assert facts.matching("date", {"to": "2024-06-30"}).tolist() == [True, True, True, False, False]
    assert facts.matching("date", {"from": "2024-12"}).tolist() == [False, False, False, True, True]
    with pytest.raises(UserError, match="numbers"):
        facts.matching("date", {"from": "2024", "to": 2025})
    for broken in ({}, {"gte": 1}):
        with pytest.raises(UserError, match="`from`"):
            facts.matching("date", broken)


def test_a_fact_with_several_values_is_found_by_each() -> None:
    facts = Facts([{"author": ["ann", "bob"]}, {"author": "ann"}, {"author": []}, {}])
    assert facts.matching("author", "ann").tolist() == [True, True, False, False]
    assert facts.matching("author", ["bob", "eve"]).tolist() == [True, False, False, False]


def test_facts_of_private_documents_are_neither_named_nor_listed() -> None:
    labels = [('["hr"]', '{"pay": 1, "team": "secret"}', "{}"), ('["everyone"]', "{}", '{"team": "open"}')]
    access = Access(labels, np.array([0, 1, 1, -1]), np.array([True, True, True, False]))
    assert access.mask(ANYBODY, {"team": ["secret", "open"]}).tolist() == [False, True, True, False]
    assert access.mask(HR, {"team": "secret"}).tolist() == [True, False, False, False]
    assert access.values(ANYBODY, ["team", "pay"], 9) == {"team": ["open"], "pay": []}
    assert set(access.values(HR, ["team"], 9)["team"]) == {"open", "secret"}
    with pytest.raises(UserError, match="no document has the metadata `pay`") as told:
        access.mask(ANYBODY, {"pay": 1})
    assert "secret" not in json.dumps(str(told.value))
