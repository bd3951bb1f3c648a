"""What a chain is checked for: it answers, its citations stand, it refuses what is out of scope, and is quick.

Knows `core.chain`'s contract by way of its answers, and no chain's inside.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from llmops.core.errors import ConflictError
from llmops.registry.gates.model_checks import at_most, failed
from llmops.registry.gates.questions import Question, applies, scorer
from llmops.registry.gates.report import Finding
from llmops.registry.gates.spec import QuestionsConfig
from llmops.registry.gates.thresholds import check_scores
from llmops.registry.gates.trial import Answer, Trial, TrialError


@dataclass(frozen=True)
class Answered:
    """A question, and its answer or why there is none."""

    question: Question
    answer: Answer | None
    failure: TrialError | None = None


def ask_all(trial: Trial, questions: Sequence[Question], groups: Sequence[str]) -> list[Answered]:
    """Put every question; a chain whose process has ended fails the rest.

    Raises:
        ConflictError: the index was refreshed meanwhile, so the answers are not of one state of it.
    """
    found: list[Answered] = []
    ended: TrialError | None = None
    for question in questions:
        if ended is not None:
            found.append(Answered(question, None, ended))
            continue
        try:
            found.append(Answered(question, trial.ask(question.question, groups)))
        except TrialError as error:
            found.append(Answered(question, None, error))
            if error.error_code in {"timeout", "memory", "cpu", "crashed", "killed", "nonsense"}:
                ended = error
    head_of([each.answer for each in found if each.answer is not None], where=str(trial.version.ref))
    return found


def head_of(answers: Sequence[Answer], *, where: str) -> dict[str, object] | None:
    """The one state of the index that all answers came from.

    Raises:
        ConflictError: there are several.
    """
    heads = sorted({answer.head for answer in answers})
    if len(heads) > 1:
        (generation, before), (_, after) = heads[0], heads[-1]
        raise ConflictError(
            f"the index moved from {before} to {after} while the questions were asked (generation {generation})",
            where=where,
            hint="ask again while no refresh runs",
        )
    return {"generation": heads[0][0], "seq": heads[0][1]} if heads else None


def check_answers(answered: Sequence[Answered], config: QuestionsConfig) -> Iterator[Finding]:
    """Shares of questions that were answered, cited and refused as they should be, and the scorers' limits."""
    yield from _broken(answered)
    inside = [each.answer for each in answered if not each.question.refuse]
    outside = [each.answer for each in answered if each.question.refuse]
    told = [answer for answer in inside if answer is not None and not answer.refused and answer.text.strip()]
    if inside:
        yield from _share("answers", len(told), len(inside), config.answered_min, "questions in scope are answered")
        citing = sum(any(citation.stands for citation in answer.citations) for answer in told)
        yield from _share("citations", citing, len(told), config.cited_min, "answers cite")
        untrue = [citation for answer in told for citation in answer.citations if not citation.stands]
        if untrue:
            what = f"{len(untrue)} citations do not stand in their document, the first in {untrue[0].uri}"
            yield Finding("citations:stand", "fail", what, measured=len(untrue), limit="<= 0")
    if outside:
        refused = sum(answer is not None and answer.refused for answer in outside)
        yield from _share("refusals", refused, len(outside), config.refused_min, "questions out of scope are refused")
    yield from check_scores(_scores(answered, config), config.scores)
    yield from _latency([each.answer for each in answered if each.answer is not None], config)


def _broken(answered: Sequence[Answered]) -> Iterator[Finding]:
    broken = [each for each in answered if each.failure is not None]
    if broken:
        first = broken[0]
        assert first.failure is not None
        yield failed(f"answer:{first.question.id}", first.failure)


def _share(check: str, count: int, n: int, least: float, what: str) -> Iterator[Finding]:
    """One finding; none where a share of 0 would do, for then nothing is asked."""
    if least == 0:
        return
    if n == 0:
        yield Finding(check, "fail", f"no {what}: there is nothing to count", limit=f">= {least:g}", n=0)
        return
    fine = count / n >= least
    yield Finding(
        check, "pass" if fine else "fail", f"{count} of {n} {what}", measured=count / n, limit=f">= {least:g}", n=n
    )


def _scores(answered: Sequence[Answered], config: QuestionsConfig) -> dict[str, list[float]]:
    """By scorer the score of every question it speaks of; no answer scores 0."""
    found = {}
    for threshold in config.scores:
        score = scorer(threshold.metric)
        found[threshold.metric] = [
            0.0 if each.answer is None else float(score(each.question, each.answer))
            for each in answered
            if applies(threshold.metric, each.question)
        ]
    return found


def _latency(answers: Sequence[Answer], config: QuestionsConfig) -> Iterator[Finding]:
    if not answers:
        return
    pairs = (
        ("first_text", config.first_text_p95_ms, [answer.first_s for answer in answers]),
        ("answer", config.answer_p95_ms, [answer.total_s for answer in answers]),
    )
    for name, limit, seconds in pairs:
        if limit is not None:
            measured = float(np.quantile(seconds, 0.95)) * 1000
            yield at_most(
                f"latency:{name}_p95_ms", measured, limit, f"p95 until {name.replace('_', ' ')}, in ms", len(seconds)
            )
