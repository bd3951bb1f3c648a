"""Whether what is learned holds what will be asked: an evaluation over such data measures memory.

An example is contaminated where it shares a run of 13 words with a row of an evaluation set, or asks the same question.
Runs that stand in many rows of the evaluation set (instructions that all of them begin with) tell nothing.

Source: Brown et al., Language Models are Few-Shot Learners, 2020, appendix C: 13-grams.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from llmops.finetune.data.examples import Example
from llmops.finetune.data.words import Hashes, passages, question, questions, shingles, words

RUN = 13


@dataclass(frozen=True)
class Contaminated:
    """An example and the row of the evaluation set that it gives away."""

    example: Example
    where: str
    why: str

    def __str__(self) -> str:
        return f"{self.example.where} {self.why} {self.where}"


class EvaluationSet:
    """What must not be learned."""

    def __init__(self, rows: Iterable[Example]) -> None:
        examples = list(rows)
        self._where = [example.where for example in examples]
        common = max(5, len(examples) // 20)
        runs = [_runs(example) for example in examples]
        self._runs, self._rows = _rare(runs, common)
        asked = [question(example) for example in examples]
        often = Counter(asked)
        self._questions = {one: place for place, one in enumerate(asked) if one and often[one] <= common}

    def given_away_by(self, example: Example) -> Contaminated | None:
        """The evaluation row that an example holds, None where it holds none."""
        same = next((self._questions[one] for one in questions(example) if one in self._questions), None)
        if same is not None:
            return Contaminated(example, self._where[same], "asks the same as")
        runs = _runs(example)
        if not len(runs) or not len(self._runs):
            return None
        places = np.minimum(np.searchsorted(self._runs, runs), len(self._runs) - 1)
        hits = self._rows[places[self._runs[places] == runs]]
        if not len(hits):
            return None
        row = int(np.bincount(hits).argmax())
        count = int((hits == row).sum())
        return Contaminated(example, self._where[row], f"shares {RUN + count - 1} words or more with")


def _runs(example: Example) -> Hashes:
    long = [passage for passage in passages(example) if len(words(passage)) >= RUN]
    return np.unique(np.concatenate([shingles(passage, RUN) for passage in long] or [np.empty(0, np.uint64)]))


def _rare(runs: Sequence[Hashes], common: int) -> tuple[Hashes, np.typing.NDArray[np.int64]]:
    """All runs but those of more than `common` rows, sorted, each with a row that holds it."""
    every = np.concatenate([*runs, np.empty(0, np.uint64)])
    rows = np.repeat(np.arange(len(runs)), [len(one) for one in runs])
    found, first, counts = np.unique(every, return_index=True, return_counts=True)
    return found[counts <= common], rows[first[counts <= common]]
