"""Question files and scorers: exact texts, hostile files, and what holds for any words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.core.errors import NotFoundError, UserError
from llmops.registry.gates.questions import Question, applies, read_questions, scorer
from llmops.registry.gates.trial import Answer, Citation

QUESTION = Question("1", "Who?", answers=("The Index", "index"), cites=("guide/a.pdf", "kept by their text"))


def score(name: str, text: str, *citations: Citation, refused: bool = False) -> float:
    return scorer(name)(QUESTION, Answer(text, refused, citations))


def test_scorers_say_what_people_would() -> None:
    assert score("exact_match", "the index! [1]") == 1
    assert score("exact_match", "the index of documents") == 0
    assert score("contains", "It is the index [1][2].") == 1
    assert score("contains", "It is an indexed thing.") == 0
    assert score("token_f1", "the index of documents") == pytest.approx(2 * 0.5 * 1 / 1.5)
    assert score("token_f1", "nothing") == 0
    assert score("refusal", "", refused=True) == 0
    assert score("cites", "x", Citation("guide/a.pdf", "words", stands=True)) == 1
    assert score("cites", "x", Citation("guide/a.pdf", "words", stands=False)) == 0
    assert score("cites", "x", Citation("b", "Vectors are kept by their text.", stands=True)) == 1
    assert score("cites", "x", Citation("b", "unkept by their text", stands=True)) == 0
    assert not applies("exact_match", Question("2", "Why?", refuse=True))
    assert applies("refusal", Question("2", "Why?", refuse=True))


@given(st.text(max_size=60), st.text(max_size=60))
def test_shared_words_count_the_same_either_way(one: str, other: str) -> None:
    def f1(said: str, right: str) -> float:
        return scorer("token_f1")(Question("1", "?", answers=(right,)), Answer(said, refused=False))

    assert 0 <= f1(one, other) <= 1
    assert f1(one, other) == pytest.approx(f1(other, one))
    assert f1(one, one) == 1


def test_both_formats_give_the_same_questions(tmp_path: Path) -> None:
    entries = [
        {"id": "a", "question": "What?", "answer": ["one", 2], "cites": "x.pdf", "tags": {"topic": "money"}},
        {"question": "Salary?", "refuse": True, "tags": {"topic": "people"}},
    ]
    lines, listed = tmp_path / "q.jsonl", tmp_path / "q.yaml"
    lines.write_text("\n".join(map(json.dumps, entries)) + "\n\n")
    listed.write_text(json.dumps(entries))
    first, second = read_questions(lines), read_questions(listed)
    assert first.questions == second.questions
    assert first.data.digest == second.data.digest
    assert first.questions[0].answers == ("one", "2")
    assert first.questions[1].id == "2"
    assert first.table().to_pydict() == {"topic": ["money", "people"], "refuse": [False, True]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "no question"),
        ("{}", "no list"),
        ("[{answer: x}]", "a text `question`"),
        ("[{question: x, anwser: y}]", "unknown key `anwser`"),
        ("[{question: x, id: 1}, {question: y, id: 1}]", "same id"),
        ("[{question: x, answer: {a: b}}]", "a text or a list"),
        ("[{question: x, refuse: maybe}]", "true or false"),
        ("[", "no YAML"),
    ],
)
def test_a_malformed_file_says_where(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "q.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=words):
        read_questions(path)


def test_a_bad_line_and_a_missing_file_say_where(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"question": "x"}\n{"question"\n')
    with pytest.raises(UserError) as caught:
        read_questions(path)
    assert caught.value.where == f"{path}:2"
    with pytest.raises(NotFoundError, match="no such file"):
        read_questions(tmp_path / "gone.yaml")
    with pytest.raises(NotFoundError, match="no scorer `token_f2`") as unknown:
        scorer("token_f2")
    assert unknown.value.hint == "did you mean `token_f1`?"
