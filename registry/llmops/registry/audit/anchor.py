"""The anchor: a small file, best kept on another machine, that remembers how far the chain has come.

A chain whose last rows were cut off is a good chain; the anchor shows that there was more. It follows each commit, so a
crash leaves it behind by what was committed last, never ahead.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from llmops.core.errors import IntegrityError, StorageError
from llmops.core.files import write_atomic


@dataclass(frozen=True)
class Mark:
    """A place in the chain: the number and the hash of its last row; 0 and "" before the first."""

    seq: int
    hash: str


class Anchor:
    """The anchor's file. Any number of processes advance it; it never goes back."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Mark | None:
        """Where it stands; None where there is no such file.

        Raises:
            IntegrityError: it is not what an anchor looks like.
        """
        try:
            found = orjson.loads(self.path.read_bytes())
            return Mark(int(found["seq"]), str(found["hash"]))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"the anchor cannot be read: {error.strerror}", where=str(self.path)) from error
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError("this is no anchor of an audit chain", where=str(self.path)) from error

    def advance(self, mark: Mark) -> bool:
        """Remember a later place, durably; False, and nothing done, where the file is gone."""
        with self._alone():
            stands = self.read()
            if stands is not None and stands.seq < mark.seq:
                self._write(mark)
            return stands is not None

    def begin(self, mark: Mark) -> None:
        """Make the file where there is none."""
        with self._alone():
            if self.read() is None:
                self._write(mark)

    def _write(self, mark: Mark) -> None:
        write_atomic(self.path, orjson.dumps({"seq": mark.seq, "hash": mark.hash}) + b"\n")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.with_name(f".{self.path.name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise StorageError(f"cannot write the anchor: {error.strerror}", where=str(self.path)) from error
