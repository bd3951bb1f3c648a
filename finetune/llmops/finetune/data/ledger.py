"""Which examples were learned from in which step: what is asked when one of them has to be forgotten.

A line a step, appended as it is done and synced with each checkpoint; a resumed run cuts what lies beyond its own.
Knows ids only, not what they say.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import orjson

from llmops.core.errors import IntegrityError
from llmops.core.files import sync_directory


class Ledger:
    """The file `ledger.jsonl` of a run; one process writes it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab")

    def add(self, step: int, ids: Sequence[str]) -> None:
        """Note what a step learned from; ids of examples, `<id>:<n>` for a part of one."""
        self._file.write(orjson.dumps({"step": step, "ids": ids}) + b"\n")

    def sync(self) -> None:
        """Make all that was added durable: before the checkpoint that counts on it."""
        self._file.flush()
        os.fsync(self._file.fileno())
        sync_directory(self._path.parent)

    def cut(self, steps: int) -> None:
        """Keep the steps below this number: those that the checkpoint holds. Half a line of a crash goes too.

        Raises:
            IntegrityError: some of those steps are not in it.
        """
        self._file.flush()
        end, expected = 0, 0
        with self._path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n") or _step(line, self._path) >= steps:
                    break
                end += len(line)
                expected = _step(line, self._path) + 1
        if expected < steps:
            raise IntegrityError(
                f"the ledger ends with step {expected - 1}, and the checkpoint with step {steps - 1}",
                where=str(self._path),
                hint="resume from an older checkpoint, or start a new run",
            )
        os.truncate(self._path, end)
        self.sync()

    def close(self) -> None:
        self.sync()
        self._file.close()


def read_ledger(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Each step with the ids that it learned from; half a line at the end is none."""
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                found = orjson.loads(line)
                yield found["step"], found["ids"]


def learned_from(path: Path, examples: Iterable[str]) -> dict[str, list[int]]:
    """For each of these examples the steps that learned from it, or from a part of it; none where it was never seen."""
    steps: dict[str, list[int]] = {example: [] for example in examples}
    for step, ids in read_ledger(path):
        for one in dict.fromkeys(id.partition(":")[0] for id in ids):
            if one in steps:
                steps[one].append(step)
    return steps


def _step(line: bytes, path: Path) -> int:
    try:
        return int(orjson.loads(line)["step"])
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError("a line of the ledger cannot be read", where=str(path)) from error
