"""What users add: checks, scorers and baselines of their own, by entry point or as `package.module:function`.

Knows how they are found and what they are handed. They are code of whoever runs the gate, and run in its process; a
version's own code never does.

A project of one's own offers them so:

    [project.entry-points."llmops.checks"]
    refunds_are_never_negative = "shop.checks:refunds_are_never_negative"

Groups: `llmops.checks` (function of a `Checking`, giving findings), `llmops.kinds` (the same, for every version of the
kind that the entry is named after), `llmops.scorers` (of rows or of answers), `llmops.baselines`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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


def of_kind(kind: Kind) -> Callable[..., Any] | None:
    """The check that the part which owns a kind brings for it."""
    found = [entry.value for entry in entry_points(group=KINDS) if entry.name == kind.value]
    return _imported(found[0]) if found else None


def _imported(place: str) -> Callable[..., Any]:
    module, _, function = place.partition(":")
    try:
        found = getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UserError(f"`{place}` cannot be imported: {error}") from error
    if not callable(found):
        raise UserError(f"`{place}` is no function")
    return found  # type: ignore[no-any-return]
