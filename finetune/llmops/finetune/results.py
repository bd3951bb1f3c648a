"""What a run says about its result: the model it began with, the data it read, and how both models did on held-out
examples, example by example. `registration` makes a version of it, and `gate` a verdict.

A run writes it as `result.json` once it has trained and evaluated. Knows plain values; no torch and no registry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from llmops.core.ids import digest
from llmops.finetune.runs import RunFolder

FILE = "result.json"
LOWER_IS_BETTER = frozenset({"loss"})


@dataclass(frozen=True)
class Base:
    """The model that training began with; a model made from nothing has none.

    Args:
        uri: hub id, folder, or `run:<id>` for what a finetune run left.
        digest: `artefact.model_digest` of its files.
        revision: commit of a hub model.
        version: registered version (`dev.docs.base/3`), where it is one.
        files: of a registered version, the digest under which a verified copy of its files lies in the cache.
    """

    uri: str
    digest: str
    revision: str | None = None
    licence: str | None = None
    version: str | None = None
    files: str | None = None


@dataclass(frozen=True)
class DataRead:
    """One source that was read, as it was then.

    Args:
        digest: SHA-256 of what was read.
        version: of a table.
    """

    uri: str
    digest: str
    rows: int = 0
    version: str | None = None
    use: Literal["train", "heldout"] = "train"


@dataclass(frozen=True)
class Scored:
    """One figure of every held-out example, in one order for all models.

    Args:
        metric: loss, token_accuracy, exact_match, preference_accuracy, reward_margin, reward; loss is better low.
        before: of the model that training began with; None where there was none, or it cannot be measured so.
        after: of the result.
        champion: of the version that is champion now, where there is one and it was asked.
    """

    metric: str
    after: tuple[float, ...]
    before: tuple[float, ...] | None = None
    champion: tuple[float, ...] | None = None

    @property
    def lower_is_better(self) -> bool:
        return self.metric in LOWER_IS_BETTER


@dataclass(frozen=True)
class Evaluation:
    """Held-out examples and what came of them.

    Args:
        digest: SHA-256 of the ids of the examples.
        champion: the version that `Scored.champion` is of.
    """

    examples: int
    digest: str
    scores: tuple[Scored, ...]
    champion: str | None = None

    def score(self, metric: str) -> Scored | None:
        return next((one for one in self.scores if one.metric == metric), None)


@dataclass(frozen=True)
class Result:
    """Everything that registration has to know beside the job and the files of the model.

    Args:
        template: fingerprint of chat template and tokenizer, equal at training and serving.
        tracked: id of the run in the tracking store of the version's catalog.
    """

    base: Base | None
    data: tuple[DataRead, ...]
    evaluation: Evaluation
    template: str | None = None
    tracked: str | None = None

    @property
    def digest(self) -> str:
        return digest(asdict(self))

    def save(self, folder: RunFolder) -> None:
        folder.write(FILE, asdict(self))

    @classmethod
    def load(cls, folder: RunFolder) -> Result:
        """Read it back.

        Raises:
            NotFoundError: the run is not that far.
        """
        return cls.of(folder.read(FILE))

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Result:
        evaluation = found["evaluation"]
        scores = tuple(_scored(one) for one in evaluation["scores"])
        return cls(
            base=None if found["base"] is None else Base(**found["base"]),
            data=tuple(DataRead(**one) for one in found["data"]),
            evaluation=Evaluation(**{**evaluation, "scores": scores}),
            template=found.get("template"),
            tracked=found.get("tracked"),
        )


def _scored(found: Mapping[str, Any]) -> Scored:
    lists = {key: tuple(value) for key, value in found.items() if isinstance(value, list)}
    return Scored(**{**found, **lists})
