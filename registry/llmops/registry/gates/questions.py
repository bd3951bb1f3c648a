"""A set of questions with what is expected of each answer, and the scorers that hold an answer against it.

Knows the file's fields and texts. How an answer comes about is a chain's matter.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from llmops.core.errors import NotFoundError, UserError, did_you_mean
from llmops.core.ids import digest
from llmops.registry.evidence import Data
from llmops.registry.gates.plugins import SCORERS, find
from llmops.registry.gates.ranking import ranking
from llmops.registry.gates.trial import Answer
from llmops.registry.gates.wording import spaced, words

_FIELDS = frozenset({"id", "question", "answer", "cites", "relevant", "refuse", "tags"})
Scorer = Callable[["Question", Answer], float]


@dataclass(frozen=True)
class Question:
    """One question.

    Args:
        answers: texts of which any is right; empty: none is known.
        cites: what a citation has to hold: a document's URI, or words that stand in the cited passage.
        relevant: what has to be found for it, likewise, each with how relevant it is (a grade above 0).
        refuse: that it is out of scope, and has to be refused.
        tags: for slices.
    """

    id: str
    question: str
    answers: tuple[str, ...] = ()
    cites: tuple[str, ...] = ()
    relevant: Mapping[str, float] = field(default_factory=dict)
    refuse: bool = False
    tags: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class QuestionSet:
    questions: tuple[Question, ...]
    data: Data

    def table(self) -> Any:
        """The tags as a pyarrow table, one row a question, for slices."""
        import pyarrow as pa

        names = sorted({name for question in self.questions for name in question.tags})
        columns = {name: [question.tags.get(name) for question in self.questions] for name in names}
        try:
            return pa.table(columns | {"refuse": [question.refuse for question in self.questions]})
        except pa.ArrowException as error:
            raise UserError(f"the tags do not fit one table: {error}", where=self.data.table) from error


def read_questions(path: Path) -> QuestionSet:
    """Read a question file: JSON lines, or a YAML list.

    Raises:
        NotFoundError: no such file.
        UserError: an entry is malformed; names its line or place.
    """
    if not path.is_file():
        raise NotFoundError("no such file", where=str(path), hint="paths are relative to the working folder")
    content = path.read_bytes()
    entries = _lines(content, path) if path.suffix in {".jsonl", ".ndjson"} else _list(content, path)
    questions = tuple(_question(entry, f"{path}: question {place}", place) for place, entry in enumerate(entries, 1))
    if not questions:
        raise UserError("there is no question", where=str(path))
    if len({question.id for question in questions}) != len(questions):
        raise UserError("two questions have the same id", where=str(path))
    rows = digest([[q.id, q.question, q.answers, q.cites, dict(q.relevant), q.refuse] for q in questions])
    return QuestionSet(
        questions, Data(table=str(path), version=f"sha256:{digest(content)}", rows=len(questions), digest=rows)
    )


def scorer(name: str) -> Scorer:
    """The scorer of a name: built in, an entry point of `llmops.scorers`, or module:function.

    It gives 0 to 1, the more the better; but seconds and dollars, the less the better (`costs`).
    """
    if name in _SCORERS:
        return _SCORERS[name]
    if ranked := ranking(name):
        return ranked
    try:
        return find(name, SCORERS)
    except NotFoundError as error:
        known = [*sorted(_SCORERS), "recall@10", "ndcg@10"]
        hint = did_you_mean(name, known) or f"there are {', '.join(known)}, and scorers of your own"
        raise NotFoundError(f"no scorer `{name}`", hint=hint) from error


def applies(name: str, question: Question) -> bool:
    """Whether a scorer has anything to say of a question."""
    needed = {"exact_match": question.answers, "token_f1": question.answers, "contains": question.answers}
    if name in needed:
        return bool(needed[name])
    if ranking(name):
        return bool(question.relevant)
    return bool(question.cites) if name == "cites" else True


def exact_match(question: Question, answer: Answer) -> float:
    """1 where the answer is one of the right texts, but for case, punctuation and citation markers."""
    said = words(answer.text)
    return float(any(said == words(right) for right in question.answers))


def contains(question: Question, answer: Answer) -> float:
    """1 where the answer holds one of the right texts, word by word."""
    said = spaced(answer.text)
    return float(any(spaced(right) in said for right in question.answers))


def token_f1(question: Question, answer: Answer) -> float:
    """Words shared with the right text, as SQuAD counts them: the harmonic mean of precision and recall, the best.

    Source: Rajpurkar et al., arXiv 1606.05250, section 6.1.
    """
    return max((_overlap(words(answer.text), words(right)) for right in question.answers), default=0.0)


def cites(question: Question, answer: Answer) -> float:
    """1 where a citation that stands in its document is of an expected document, or holds the expected words."""
    held = [citation for citation in answer.citations if citation.stands]
    uris, texts = {citation.uri for citation in held}, [spaced(citation.text) for citation in held]
    return float(any(one in uris or any(spaced(one) in text for text in texts) for one in question.cites))


def refusal(question: Question, answer: Answer) -> float:
    """1 where what is out of scope was refused, and what is not was answered."""
    return float(answer.refused == question.refuse)


def cost_usd(question: Question, answer: Answer) -> float:
    """What the answer cost.

    Raises:
        UserError: whoever answers does not tell it.
    """
    if answer.cost_usd is None:
        raise UserError("what an answer costs is not told here", where="cost_usd", hint="routes of a gateway tell it")
    return answer.cost_usd


_SCORERS: dict[str, Scorer] = {
    "exact_match": exact_match,
    "contains": contains,
    "token_f1": token_f1,
    "cites": cites,
    "refusal": refusal,
    "cost_usd": cost_usd,
    "answer_s": lambda question, answer: answer.total_s,
    "first_text_s": lambda question, answer: answer.first_s,
}
costs = frozenset({"cost_usd", "answer_s", "first_text_s"})
"""Scorers of which less is better."""


def _overlap(said: Sequence[str], right: Sequence[str]) -> float:
    shared = sum((Counter(said) & Counter(right)).values())
    if not shared:
        return float(not said and not right)
    precision, recall = shared / len(said), shared / len(right)
    return 2 * precision * recall / (precision + recall)


def _lines(content: bytes, path: Path) -> list[Any]:
    found = []
    for number, line in enumerate(content.splitlines(), 1):
        if line.strip():
            try:
                found.append(json.loads(line))
            except ValueError as error:
                raise UserError(f"this line is no JSON: {error}", where=f"{path}:{number}") from error
    return found


def _list(content: bytes, path: Path) -> list[Any]:
    try:
        found = yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise UserError(f"the file is no YAML: {error}", where=str(path)) from error
    if not isinstance(found, list):
        raise UserError("the file is no list of questions", where=str(path))
    return found


def _question(entry: Any, where: str, place: int) -> Question:
    if not isinstance(entry, dict) or not isinstance(entry.get("question"), str) or not entry["question"].strip():
        raise UserError("a question is a mapping with a text `question`", where=where)
    if unknown := sorted(set(entry) - _FIELDS):
        raise UserError(f"unknown key `{unknown[0]}`", where=where, hint=did_you_mean(str(unknown[0]), _FIELDS))
    if not isinstance(entry.get("refuse", False), bool) or not isinstance(entry.get("tags", {}), dict):
        raise UserError("`refuse` is true or false, `tags` a mapping", where=where)
    return Question(
        id=str(entry.get("id", place)),
        question=entry["question"],
        answers=_texts(entry.get("answer"), "answer", where),
        cites=_texts(entry.get("cites"), "cites", where),
        relevant=_grades(entry.get("relevant"), where),
        refuse=entry.get("refuse", False),
        tags=entry.get("tags", {}),
    )


def _texts(value: Any, key: str, where: str) -> tuple[str, ...]:
    values = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(one, str | int | float) for one in values):
        raise UserError(f"`{key}` is a text or a list of texts", where=where)
    return tuple(str(one) for one in values)


def _grades(value: Any, where: str) -> dict[str, float]:
    """What is relevant: a mapping of URIs or words to grades, or a list of equally relevant ones."""
    if not isinstance(value, dict):
        return dict.fromkeys(_texts(value, "relevant", where), 1.0)
    grades = {str(key): grade for key, grade in value.items()}
    if not all(isinstance(grade, int | float) and 0 < grade < math.inf for grade in grades.values()):
        raise UserError("the grades of `relevant` are numbers above 0", where=where)
    return {key: float(grade) for key, grade in grades.items()}
