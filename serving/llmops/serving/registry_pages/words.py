"""Words and marks that the templates share: how a state, a verdict, an effect or a node of lineage is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import orjson

from llmops.core.errors import UserError
from llmops.registry.evidence import Evidence
from llmops.registry.lineage import version_in
from llmops.registry.promotion.states import FAILED, State
from llmops.serving.registry_pages.evidence import findings, interval, is_ratio, number, threshold
from llmops.serving.registry_pages.runs import grade as run_grade

_GOOD = frozenset({"pass", "done", "approve", State.PROMOTED, State.VALIDATED, State.APPROVED, State.READY})
_BAD = frozenset({"fail", "failed", "denied", "deny", "abandoned", *FAILED})
_WAIT = frozenset({"inconclusive", "missing", "stale", "open", State.HELD, State.AWAITING_APPROVAL})


def grade(word: str) -> str:
    """The class by which a state or verdict is marked, beside its word."""
    for name, words in (("good", _GOOD), ("bad", _BAD), ("wait", _WAIT)):
        if word in words:
            return f"state-{name}"
    return "state-off"


def node_version(node: str) -> tuple[str, int] | None:
    """Name and number of a node of lineage that is a version; None for every other."""
    try:
        ref = version_in(node)
    except UserError:  # a node of a form that nobody writes any more
        return None
    return (str(ref.name), ref.version) if ref is not None and ref.version is not None else None


def about_parts(about: str) -> tuple[str, int | None] | None:
    """The asset, and the version where it is one, that an action is about; None where it is neither."""
    found = node_version(about)
    if found is not None:
        return found
    name = about.partition("@")[0].partition("/")[0]
    return (name, None) if name.count(".") == 2 and ", " not in about else None


def effect(record: Evidence) -> str:
    """The effect with its interval in one line, "" where there is none."""
    if record.effect is None and record.ci_low is None:
        return ""
    shown = partial(number, signed=not is_ratio(record))
    parts = [shown(record.effect)]
    if record.ci_low is not None and record.ci_high is not None:
        parts.append(f"[{shown(record.ci_low)}, {shown(record.ci_high)}]")
    return " ".join(parts)


def as_json(value: Any) -> str:
    """A value of a setting as one readable line."""
    return value if isinstance(value, str) else orjson.dumps(value, default=str).decode()


FILTERS: Mapping[str, Callable[..., Any]] = {
    "grade": grade,
    "run_grade": run_grade,
    "node_version": node_version,
    "about_parts": about_parts,
    "effect": effect,
    "interval": interval,
    "threshold": threshold,
    "findings": findings,
    "as_json": as_json,
}
