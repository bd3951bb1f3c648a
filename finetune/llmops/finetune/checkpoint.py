"""Checkpoints that are whole or not there: written aside, synced, listed with digests, and only then given their name.

    step-00000120/
        manifest.json    SHA-256 and size of every file
        state.json       facts: counters, position in the data, how the run is divided
        ...              safetensors and JSON of whoever trains

The newest that is whole is resumed from; broken ones are moved aside with the reason, never trusted. The last whole one
is never deleted. Knows files and digests; no torch.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from llmops.core.errors import ConflictError, IntegrityError, StorageError
from llmops.core.files import sync_directory

MANIFEST, STATE = "manifest.json", "state.json"
FORMAT = 1
_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    """One that was found whole."""

    path: Path
    step: int
    state: Mapping[str, Any]

    @property
    def size_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.path.iterdir())


@dataclass(frozen=True)
class Rejected:
    """One that cannot be resumed from, and why."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path.name}: {self.reason}"


class Checkpoints:
    """The checkpoints of one run.

    Args:
        keep: how many of the newest stay.
        pause: called with the name of each stage of writing; tests and proofs kill the process there.
    """

    def __init__(self, folder: Path, *, keep: int = 3, pause: Callable[[str], None] | None = None) -> None:
        self._folder, self._keep, self._pause = folder, keep, pause or _nothing

    def save(self, step: int, write: Callable[[Path], None], state: Mapping[str, Any]) -> Checkpoint:
        """Make a checkpoint of the files that `write` puts into the folder it is given.

        Raises:
            StorageError: the disk refused; earlier checkpoints are as they were.
        """
        aside = self.begin(step)
        try:
            write(aside)
        except OSError as error:
            self.abandon(step)
            raise _refused(error, aside) from error
        return self.finish(step, state)

    def begin(self, step: int) -> Path:
        """The folder that all ranks write into; `finish` gives it its name."""
        aside = self.aside(step)
        try:
            for left in self._folder.glob(".*.tmp"):
                shutil.rmtree(left)
            aside.mkdir(parents=True)
        except OSError as error:
            raise _refused(error, aside) from error
        self._pause("begun")
        return aside

    def finish(self, step: int, state: Mapping[str, Any]) -> Checkpoint:
        """Make what lies in the folder of `begin` durable, list it, and give it its name; the oldest ones go."""
        aside, path = self.aside(step), self._folder / _name(step)
        try:
            (aside / STATE).write_bytes(orjson.dumps(dict(state), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))
            self._pause("written")
            files = {file.name: _sealed(file) for file in sorted(aside.iterdir())}
            manifest = {"format": FORMAT, "step": step, "files": files}
            (aside / MANIFEST).write_bytes(orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
            _sync(aside / MANIFEST)
            sync_directory(aside)
            self._pause("sealed")
            if path.exists():
                self._move_aside(path)
            aside.rename(path)
            sync_directory(self._folder)
            self._pause("named")
        except OSError as error:
            self.abandon(step)
            raise _refused(error, path) from error
        self._prune()
        return Checkpoint(path, step, state)

    def abandon(self, step: int) -> None:
        shutil.rmtree(self.aside(step), ignore_errors=True)

    def newest_valid(self, identity: str) -> tuple[Checkpoint | None, list[Rejected]]:
        """The newest checkpoint of this job that is whole, and the newer ones that are not.

        Args:
            identity: of the job's configuration; what was put here from another one's run is not gone on with.
        """
        rejected: list[Rejected] = []
        for path in reversed(self.all()):
            try:
                found = verified(path)
            except IntegrityError as error:
                rejected.append(Rejected(path, error.what))
                continue
            if found.state.get("identity") == identity:
                return found, rejected
            rejected.append(Rejected(path, "it is of a run with other settings"))
        return None, rejected

    def set_aside(self, rejected: list[Rejected]) -> None:
        """Take broken checkpoints out of the way, so that they are not looked at again; nothing of them is deleted."""
        for one in rejected:
            self._move_aside(one.path)

    def all(self) -> list[Path]:
        """Oldest first, whole or not."""
        found = [path for path in self._folder.glob("step-*") if _NAME.fullmatch(path.name)]
        return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))

    def _prune(self) -> None:
        """Take the oldest away: first out of sight, so that a kill leaves no half one in it."""
        for path in self.all()[: -self._keep]:
            self._pause("pruning")
            gone = path.with_name(f".{path.name}.gone.tmp")
            path.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)

    def _move_aside(self, path: Path) -> None:
        path.rename(path.with_name(f"broken-{path.name}-{time.time_ns()}"))

    def aside(self, step: int) -> Path:
        return self._folder / f".{_name(step)}.tmp"


def verified(path: Path) -> Checkpoint:
    """A checkpoint, every byte of it compared with its manifest.

    Raises:
        IntegrityError: says which file is missing, cut short or changed.
    """
    try:
        manifest = orjson.loads((path / MANIFEST).read_bytes())
        files: dict[str, dict[str, Any]] = manifest["files"]
        step = int(manifest["step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError("its manifest is missing or broken", where=str(path), code="checkpoint_broken") from error
    for name, known in files.items():
        file = path / name
        if not file.is_file():
            raise IntegrityError(f"{name} is missing", where=str(path), code="checkpoint_broken")
        if file.stat().st_size != known["bytes"]:
            what = f"{name} has {file.stat().st_size} bytes, and should have {known['bytes']}"
            raise IntegrityError(what, where=str(path), code="checkpoint_broken")
        if _sha256(file) != known["sha256"]:
            raise IntegrityError(f"{name} has other contents", where=str(path), code="checkpoint_broken")
    try:
        return Checkpoint(path, step, dict(orjson.loads((path / STATE).read_bytes())))
    except (OSError, ValueError, TypeError) as error:
        raise IntegrityError(f"{STATE} is missing or broken", where=str(path), code="checkpoint_broken") from error


def require_same_division(known: Mapping[str, Any], now: Mapping[str, Any], *, exact: bool) -> list[str]:
    """What is divided otherwise than when the checkpoint was made, in words.

    Args:
        exact: whether that ends the run, since the weights would not be those of an undisturbed one.

    Raises:
        ConflictError: something differs, and exact resume is required.
    """
    differs = [f"{key} was {known.get(key)}, and is {now[key]} now" for key in now if known.get(key) != now[key]]
    if differs and exact:
        raise ConflictError(
            "the run cannot be resumed exactly: " + "; ".join(differs),
            hint="start it as before, or allow another result: `--set checkpoint.exact_resume=best_effort`",
            code="inexact_resume",
        )
    return differs


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _sealed(file: Path) -> dict[str, Any]:
    _sync(file)
    return {"sha256": _sha256(file), "bytes": file.stat().st_size}


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _refused(error: OSError, path: Path) -> StorageError:
    return StorageError(
        f"the checkpoint cannot be saved: {error.strerror or error}",
        where=str(path.parent),
        hint="free space on the disk; earlier checkpoints are intact",
        code="checkpoint_not_saved",
    )


def _nothing(stage: str) -> None:
    """Nobody waits to kill this process."""
