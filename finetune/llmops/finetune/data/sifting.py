"""Which of the examples that were read are learned from, and which are kept to judge by; what was left out is counted.

In this order: bad rows, exact duplicates, near ones, what is asked in the held-out examples too, what an evaluation set
holds. Then a share is kept apart, where the job names no held-out examples of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from llmops.finetune.config import DataConfig, SourceConfig
from llmops.finetune.data.contamination import EvaluationSet
from llmops.finetune.data.dataset import Problem
from llmops.finetune.data.dedup import near_duplicates
from llmops.finetune.data.examples import Example
from llmops.finetune.data.formats import example
from llmops.finetune.data.heldout import heldout_ids, is_heldout
from llmops.finetune.data.sources import BadRowError, Source
from llmops.finetune.data.tally import Tally
from llmops.finetune.data.words import question, questions

Progress = Callable[[str, int, int], None]
"""Told the stage, how much is done, and of how much (0: not known)."""


@dataclass(frozen=True)
class Opened:
    """The sources of a job, each with what the job says of it."""

    learned: Sequence[tuple[SourceConfig, Source]]
    heldout: Sequence[tuple[SourceConfig, Source]]
    contamination: Sequence[tuple[SourceConfig, Source]]


@dataclass(frozen=True)
class Sides:
    learned: list[Example]
    heldout: list[Example]
    problems: list[Problem]


def sift(opened: Opened, data: DataConfig, tally: Tally, listen: Progress) -> Sides:
    """Read everything, and part it; of a stream the first rows of each source, to be judged by."""
    given = _once(_all(opened.heldout, Tally(len(opened.heldout), skip_bad=data.on_bad == "skip"), _silent))
    learned: list[Example] = list(_all(opened.learned, tally, listen, data.shuffle_buffer if data.streaming else None))
    if data.dedup != "none":
        learned = _without_equal(learned, tally)
    if data.dedup == "near":
        learned = _without_near(learned, given, data, tally, listen)
    if given:
        learned = _without_questions(learned, given, tally)
    learned, problems = _without_contaminated(learned, opened, data, tally)
    if opened.heldout:
        return Sides(learned, given, problems)
    share = data.heldout_share
    kept = {one.id for one in learned if is_heldout(one, share)} if data.streaming else heldout_ids(learned, share)
    for one in learned:
        if one.id in kept:
            tally.count(one.source, "heldout")
    return Sides(
        [one for one in learned if one.id not in kept], _once(one for one in learned if one.id in kept), problems
    )


def read_examples(opened: Source, source: SourceConfig, number: int, tally: Tally) -> Iterator[Example]:
    """The examples of one source; bad rows are counted, or end it.

    Raises:
        BadRowError: a row does not fit, and such rows are not skipped.
    """
    rows = (found for part in range(opened.parts()) for found in opened.rows(part))
    for row, where in islice(rows, source.limit):
        tally.count(number, "read")
        try:
            if isinstance(row, BadRowError):
                raise row
            yield example(row, where, source.format, number)
        except BadRowError as error:
            tally.bad(number, error)


def _all(
    sources: Sequence[tuple[SourceConfig, Source]], tally: Tally, listen: Progress, most: int | None = None
) -> Iterator[Example]:
    done = 0
    for number, (source, opened) in enumerate(sources):
        for found in islice(read_examples(opened, source, number, tally), most):
            if done % 1000 == 0:
                listen("read", done, 0)
            done += 1
            yield found


def _once(examples: Iterable[Example]) -> list[Example]:
    return list({one.id: one for one in examples}.values())


def _without_equal(examples: Sequence[Example], tally: Tally) -> list[Example]:
    found: dict[str, Example] = {}
    for one in examples:
        first = found.setdefault(one.id, one)
        if first is not one:
            tally.count(one.source, "duplicates")
            tally.report("duplicates", f"{one.where} equals {first.where}")
    return list(found.values())


def _without_near(
    examples: Sequence[Example], given: Sequence[Example], data: DataConfig, tally: Tally, listen: Progress
) -> list[Example]:
    size = len(examples) + len(given)
    found = near_duplicates(
        examples, data.near_threshold, first=given, listen=lambda done: listen("near duplicates", done, size)
    )
    places = {one.id: one.where for one in (*examples, *given)}
    for one in examples:
        if one.id in found:
            tally.count(one.source, "near_duplicates")
            tally.report("near_duplicates", f"{one.where} nearly equals {places[found[one.id]]}")
    return [one for one in examples if one.id not in found]


def _without_questions(examples: Sequence[Example], given: Sequence[Example], tally: Tally) -> list[Example]:
    """Those that the held-out examples do not hold too."""
    ids = {one.id: one.where for one in given}
    asked = {question(one): one.where for one in given}
    asked.pop("", None)
    found = []
    for one in examples:
        where = ids.get(one.id) or next((asked[said] for said in questions(one) if said in asked), None)
        if where is None:
            found.append(one)
            continue
        tally.count(one.source, "contaminated")
        tally.report("contaminated", f"{one.where} asks the same as the held-out {where}")
    return found


def _without_contaminated(
    examples: list[Example], opened: Opened, data: DataConfig, tally: Tally
) -> tuple[list[Example], list[Problem]]:
    if not opened.contamination:
        return examples, []
    rows = _all(opened.contamination, Tally(len(opened.contamination), skip_bad=False), _silent)
    evaluation = EvaluationSet(rows)
    found = {one.id: hit for one in examples if (hit := evaluation.given_away_by(one)) is not None}
    for one in examples:
        if one.id in found:
            tally.count(one.source, "contaminated")
            tally.report("contaminated", str(found[one.id]))
    problems = []
    if found and data.on_contamination == "error":
        hits = list(found.values())
        what = f"{len(hits)} examples hold rows of an evaluation set: {hits[0]}"
        hint = "take them out, or set data.on_contamination: drop"
        problems.append(Problem("contaminated", len(hits), what, hint, tuple(hit.example.where for hit in hits[:5])))
    return [one for one in examples if one.id not in found], problems


def _silent(stage: str, done: int, of: int) -> None:
    """Nobody listens."""
