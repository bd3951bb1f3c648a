"""What became of each configuration: written down before it is in force and again after, until it is on record.

    changes/ID.json    one configuration that was taken up, refused, or left half-way by a supervisor that died

The supervisor writes them and asks no database, so a gateway is changed while the audit log is out of reach, and the
record of it still comes. Knows files and digests; how they get into the log is `control.record`'s matter.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import orjson

from llmops.core.errors import IntegrityError, LlmopsError, StorageError
from llmops.core.files import sync_directory, write_atomic
from llmops.core.ids import digest, new_id

CHANGES = "changes"
Cause = Literal["start", "file", "signal"]
_PARTS = ("providers", "routes", "teams", "prices")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """From which configuration to which. `after` is empty where the new one could not even be read."""

    cause: Cause
    file: str | None
    before: dict[str, Any]
    after: dict[str, Any]


@dataclass(frozen=True)
class Change:
    """One step as it is written down. `outcome` is empty as long as nobody knows it."""

    change_id: str
    cause: str
    file: str | None
    at: float
    before: str | None
    after: str | None
    changed: tuple[str, ...]
    outcome: Literal["", "done", "failed", "abandoned"] = ""
    error: str = ""
    status: int | None = None
    recovered: bool = False
    """The outcome was told by a later supervisor, from what was in force."""


class Changes:
    """The supervisor's side of one gateway folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / CHANGES
        self._refused: Change | None = None

    def settle(self, in_force: str | None) -> None:
        """Conclude what was left open: done where that configuration is the one in force, else abandoned."""
        for path in self._folder.glob("*.json"):
            try:
                change = read_change(path)
            except IntegrityError as error:
                _log.error("%s (%s)", error.what, error.where)
                continue
            if change is not None and not change.outcome:
                done = change.after == in_force
                outcome = {"outcome": "done", "status": 200} if done else {"outcome": "abandoned"}
                self._conclude(replace(change, **outcome, recovered=True))

    @contextmanager
    def taking_up(self, step: Step) -> Iterator[None]:
        """Write down that a configuration is to be in force; the block puts it there.

        Raises:
            StorageError: that, or the configuration itself, cannot be written; the old one stays in force.
        """
        change = _change_of(step)
        try:
            self._write(change)
            yield
        except OSError as error:
            refused = StorageError(f"the configuration cannot be written: {error.strerror}", where=str(self._folder))
            self._conclude(_failed(change, refused))
            raise refused from error
        self._refused = None
        self._conclude(replace(change, outcome="done", status=200))

    def refused(self, step: Step, error: LlmopsError) -> None:
        """Write down that a configuration was refused; once, however often the same one is tried again."""
        change = _failed(_change_of(step), error)
        if self._refused is not None and _alike(change, self._refused):
            return
        self._refused = change
        self._conclude(change)

    def _conclude(self, change: Change) -> None:
        """What is done is done, whether this can be written or not: the next `settle` finds it open."""
        try:
            self._write(change)
        except OSError as error:
            _log.error("what became of the configuration is not written down: %s", error)

    def _write(self, change: Change) -> None:
        if not self._folder.exists():
            self._folder.mkdir(parents=True, mode=0o700)
            sync_directory(self._folder.parent)
        write_atomic(self._folder / f"{change.change_id}.json", orjson.dumps(asdict(change)), mode=0o600)


def written(folder: Path) -> list[Path]:
    """The changes that are not on record yet, oldest first."""
    return sorted((folder / CHANGES).glob("*.json"))


def read_change(path: Path) -> Change | None:
    """One of them; None where it was put on record a moment ago.

    Raises:
        IntegrityError: the file is damaged.
    """
    try:
        values = orjson.loads(path.read_bytes())
        return Change(**{**values, "changed": tuple(values["changed"])})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise IntegrityError(
            "what became of a configuration cannot be read", where=str(path), hint="move the file away"
        ) from error


def forget(path: Path) -> None:
    """Drop one that is on record."""
    path.unlink(missing_ok=True)


def parts_changed(before: dict[str, Any], after: dict[str, Any]) -> tuple[str, ...]:
    """Which parts of two published configurations differ, as in `routes.fast` or `workers`; names only."""
    if not before or not after:
        return ()
    old, new = _flat(before), _flat(after)
    return tuple(sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name)))


def _flat(published: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in published.items():
        named = {one["name"]: one for one in value} if name == "routes" else value
        found |= {f"{name}.{inner}": part for inner, part in named.items()} if name in _PARTS else {name: value}
    return found


def _change_of(step: Step) -> Change:
    before, after = (digest(side) if side else None for side in (step.before, step.after))
    return Change(
        new_id(), step.cause, step.file, time.time(), before, after, parts_changed(step.before, step.after)
    )  # fmt: skip


def _failed(change: Change, error: LlmopsError) -> Change:
    what = f"{error.what} ({error.where})" if error.where else error.what
    return replace(change, outcome="failed", error=what, status=error.http_status)


def _alike(one: Change, other: Change) -> bool:
    return (one.before, one.after, one.error) == (other.before, other.after, other.error)
