"""Recall and nDCG of retrieved passages, against sums done by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.core.errors import UserError
from llmops.registry.gates.questions import Question, applies, costs, read_questions, scorer
from llmops.registry.gates.ranking import ndcg, ranking, recall
from llmops.registry.gates.trial import Answer, Passage


def passages(*uris: str) -> list[Passage]:
    return [Passage(uri, f"words of {uri}") for uri in uris]


def test_recall_counts_what_any_passage_holds_or_comes_from() -> None:
    found = [*passages("a.md", "b.md"), Passage("c.md", "The blue Aurora-pump, again.")]
    assert recall({"a.md": 1, "z.md": 1}, found) == 0.5
    assert recall({"aurora pump": 1}, found) == 1
    assert recall({"aurora pum": 1}, found) == 0


def test_ndcg_by_hand() -> None:
    found = passages("x", "b", "a")
    gained = 1 / math.log2(3) + 7 / math.log2(4)
    ideal = 7 / math.log2(2) + 1 / math.log2(3)
    assert ndcg({"a": 3, "b": 1}, found) == pytest.approx(gained / ideal)
    assert ndcg({"a": 3}, []) == 0


@given(
    st.permutations("abcdef"), st.dictionaries(st.sampled_from("abcxyz"), st.sampled_from([1.0, 2.0, 3.0]), min_size=1)
)
def test_both_lie_between_nothing_and_the_ideal_order(order: list[str], relevant: dict[str, float]) -> None:
    here = {one: grade for one, grade in relevant.items() if one in order}
    best = sorted(order, key=lambda one: -here.get(one, 0))
    for measure in (recall, ndcg):
        assert 0 <= measure(relevant, passages(*order)) <= measure(relevant, passages(*best)) + 1e-12 <= 1 + 1e-9
    if here:
        assert ndcg(here, passages(*best)) == pytest.approx(1)


def test_the_name_says_how_many_passages_count() -> None:
    question = Question("q", "?", relevant={"b": 1})
    answer = Answer("", refused=False, retrieved=tuple(passages("a", "b")))
    assert (scorer("recall@1")(question, answer), scorer("recall@2")(question, answer)) == (0, 1)
    assert ranking("recall@0") is ranking("precision@3") is None
    assert applies("ndcg@5", question)
    assert not applies("ndcg@5", Question("q", "?"))


def test_costs_are_read_from_the_answer_or_missed_aloud() -> None:
    question = Question("q", "?")
    assert scorer("cost_usd")(question, Answer("", refused=False, cost_usd=0.25)) == 0.25
    assert scorer("answer_s")(question, Answer("", refused=False, total_s=1.5)) == 1.5
    assert {"cost_usd", "answer_s", "first_text_s"} == costs
    with pytest.raises(UserError, match="what an answer costs is not told"):
        scorer("cost_usd")(question, Answer("", refused=False))


@pytest.mark.parametrize("grades", ["{a.md: 0}", "{a.md: -1}", "{a.md: .inf}", "{a.md: high}"])
def test_a_grade_is_a_number_above_zero(tmp_path: Path, grades: str) -> None:
    file = tmp_path / "q.yaml"
    file.write_text(f"[{{question: '?', relevant: {grades}}}]")
    with pytest.raises(UserError, match="grades"):
        read_questions(file)
    file.write_text("[{question: '?', relevant: [a.md, b.md]}]")
    assert read_questions(file).questions[0].relevant == {"a.md": 1.0, "b.md": 1.0}
