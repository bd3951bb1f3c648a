"""What users add: checks, scorers and baselines of their own, by entry point or as `package.module:function`.

Knows how they are found and what they are handed. They are code of whoever runs the gate, and run in its process; a
version's own code never does.

A project of one's own offers them so:

    [project.entry-points."llmops.checks"]
    refunds_are_never_negative = "shop.checks:refunds_are_never_negative"

Groups: `llmops.checks` (function of a `Checking`, giving findings), `llmops.kinds` (the same, for every version of the
kind that the entry is named after), `llmops.openers` (how versions of a kind are opened for questions),
`llmops.scorers` (of rows or of answers), `llmops.baselines`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from llmops.core.errors import NotFoundError, UserError, did_you_mean
from llmops.registry.records import Kind, Version

if TYPE_CHECKING:
    from llmops.registry.assets import Registry
    from llmops.registry.gates.heldout import HeldOut
    from llmops.registry.gates.judged import Judged, Output

CHECKS, KINDS, SCORERS, BASELINES = "llmops.checks", "llmops.kinds", "llmops.scorers", "llmops.baselines"
OPENERS = "llmops.openers"


@dataclass(frozen=True)
class Checking:
    """What an own check looks at.

    Args:
        heldout: the rows, None where no data are given.
        judged: the version's predictions of them, None where there are none.
        predict: asks the version, in its confined process, for the output of any pyarrow table.
    """

    version: Version
    registry: Registry
    heldout: HeldOut | None = None
    judged: Judged | None = None
    predict: Callable[[Any], Output] | None = None


@dataclass(frozen=True)
class Opening:
    """How a version is opened for questions where its own files do not say it: as a chain of this package.

    Args:
        opener: `llmops.module:function`; called in the confined process, it gives a `core.chain.Chain`.
        configuration: JSON values handed to it; its `state` is replaced by that of whoever asks.
        facts: what the evidence has to name besides the version, such as the chain that was asked.
    """

    opener: str
    configuration: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)


def find(name: str, group: str) -> Callable[..., Any]:
    """The function that a name stands for.

    Raises:
        NotFoundError: there is none; names the nearest entry point.
        UserError: it cannot be imported.
    """
    known = {entry.name: entry for entry in entry_points(group=group)}
    if name in known:
        return _imported(known[name].value)
    if ":" not in name:
        hint = did_you_mean(name, known) or f"write package.module:function, or install an entry point of `{group}`"
        raise NotFoundError(f"no `{name}` in `{group}`", hint=hint)
    return _imported(name)


def of_kind(kind: Kind, group: str = KINDS) -> Callable[..., Any] | None:
    """What the part that owns a kind brings for it: its check, or its opener."""
    found = [entry.value for entry in entry_points(group=group) if entry.name == kind.value]
    return _imported(found[0]) if found else None


def opening(version: Version, registry: Registry, through: Mapping[str, Any]) -> Opening | None:
    """How the kind's own part opens this version for questions; None: its files are opened as they are.

    Args:
        through: what it is asked through, such as the chain that a prompt is put into.

    Raises:
        UserError: this kind answers no questions, or `through` does not fit it.
        NotFoundError: what it is to be asked through is not there.
    """
    find_opening = of_kind(version.kind, OPENERS)
    found: Opening | None = None if find_opening is None else find_opening(version, registry, dict(through))
    if found is None and not version.kind.answers:
        raise UserError(f"`{version.ref}` is {version.kind.noun}: it answers no questions", where="questions")
    return found


def _imported(place: str) -> Callable[..., Any]:
    module, _, function = place.partition(":")
    try:
        found = getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UserError(f"`{place}` cannot be imported: {error}") from error
    if not callable(found):
        raise UserError(f"`{place}` is no function")
    return found  # type: ignore[no-any-return]
