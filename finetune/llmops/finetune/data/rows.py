"""Rows of tokens and the examples they came from, as files that are mapped into memory: training reads, never parses.

    examples.jsonl   one example a line; examples.npy: where each line begins
    ids.bin          all token ids, int32;  supervised.bin: a byte a token
    rows.npy         where each row begins; row_examples.npy: which example it is of; row_parts.npy: which part, or -1

Knows numpy and files. What a token means it does not know.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Self, overload

import numpy as np
import numpy.typing as npt
import orjson

from llmops.finetune.data.examples import Example, Tokens

Ints = npt.NDArray[np.int64]


class Examples(Sequence[Example]):
    """Examples on the disk, read one at a time; equal to a list of them."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "examples.jsonl"
        self._offsets: Ints = np.load(folder / "examples.npy")
        self.ids: npt.NDArray[np.void] = np.load(folder / "example_ids.npy")
        self.sources: npt.NDArray[np.int32] = np.load(folder / "example_sources.npy")

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, place: int) -> Example: ...
    @overload
    def __getitem__(self, place: slice) -> list[Example]: ...
    def __getitem__(self, place: int | slice) -> Example | list[Example]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        with self._path.open("rb") as file:
            return self._read(file, place)

    def __iter__(self) -> Iterator[Example]:
        with self._path.open("rb") as file:
            for place in range(len(self)):
                yield self._read(file, place)

    def _read(self, file: BinaryIO, place: int) -> Example:
        file.seek(self._offsets[place])
        return Example.from_json(orjson.loads(file.read(int(self._offsets[place + 1] - self._offsets[place]))))


class TokenRows(Sequence[Tokens]):
    """Rows of token ids with what of them is supervised, mapped from the disk."""

    def __init__(self, folder: Path, examples: Examples) -> None:
        self._starts: Ints = np.load(folder / "rows.npy")
        self._ids = _mapped(folder / "ids.bin", np.int32)
        self._supervised = _mapped(folder / "supervised.bin", np.bool_)
        self._examples = examples
        self.example: npt.NDArray[np.int32] = np.load(folder / "row_examples.npy")
        """For each row the place of its example."""
        self.part: npt.NDArray[np.int32] = np.load(folder / "row_parts.npy")

    def __len__(self) -> int:
        return len(self._starts) - 1

    @property
    def lengths(self) -> Ints:
        return np.diff(self._starts)

    @property
    def sources(self) -> npt.NDArray[np.int32]:
        """For each row the number of its source."""
        return self._examples.sources[self.example]

    @property
    def supervised_counts(self) -> Ints:
        """For each row how many tokens are learned: its first never is, since nothing stands before it."""
        total = np.concatenate([[0], np.cumsum(self._supervised, dtype=np.int64)])
        begins = np.minimum(self._starts[:-1] + 1, self._starts[1:])
        return np.asarray(total[self._starts[1:]] - total[begins])

    @property
    def keys(self) -> npt.NDArray[np.uint64]:
        """For each row 64 bits of its example's id and its part: what shuffling is keyed by."""
        return row_keys(self._examples.ids[self.example], self.part)

    @property
    def largest_id(self) -> int:
        """-1 where there is no token."""
        return int(self._ids.max()) if len(self._ids) else -1

    def arrays(self, place: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """Ids and supervision of a row, not copied."""
        start, end = self._starts[place], self._starts[place + 1]
        return self._ids[start:end], self._supervised[start:end]

    def example_of(self, place: int) -> Example:
        return self._examples[int(self.example[place])]

    def id(self, place: int) -> str:
        found = self._examples.ids[self.example[place]].tobytes().hex()
        return found if self.part[place] < 0 else f"{found}:{self.part[place]}"

    @overload
    def __getitem__(self, place: int) -> Tokens: ...
    @overload
    def __getitem__(self, place: slice) -> list[Tokens]: ...
    def __getitem__(self, place: int | slice) -> Tokens | list[Tokens]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        ids, supervised = self.arrays(place)
        return Tokens(tuple(ids.tolist()), tuple(supervised.tolist()), self.id(place))


class RowWriter:
    """Writes a folder of rows, in the order in which they come; they are durable when the block ends well."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        names = ("examples.jsonl", "ids.bin", "supervised.bin")
        self._files = {name: (folder / name).open("wb") for name in names}
        self._ids: list[bytes] = []
        self._sources: list[int] = []
        self._offsets, self._starts, self._of, self._parts = [0], [0], [0][:0], [0][:0]

    def add(self, example: Example, rows: Iterable[Tokens]) -> None:
        line = orjson.dumps(example.as_json()) + b"\n"
        self._files["examples.jsonl"].write(line)
        self._offsets.append(self._offsets[-1] + len(line))
        self._ids.append(bytes.fromhex(example.id))
        self._sources.append(example.source)
        for row in rows:
            self._files["ids.bin"].write(np.asarray(row.ids, np.int32).tobytes())
            self._files["supervised.bin"].write(np.asarray(row.supervised, np.bool_).tobytes())
            self._starts.append(self._starts[-1] + len(row.ids))
            self._of.append(len(self._ids) - 1)
            _, colon, part = row.id.partition(":")
            self._parts.append(int(part) if colon else -1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            for file in self._files.values():
                with suppress(OSError):  # on a full disk closing fails as writing did, and that was told
                    file.close()

    def _finish(self) -> None:
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        arrays: dict[str, Any] = {
            "examples": np.asarray(self._offsets, np.int64),
            "example_ids": np.asarray(self._ids, "V32"),
            "example_sources": np.asarray(self._sources, np.int32),
            "rows": np.asarray(self._starts, np.int64),
            "row_examples": np.asarray(self._of, np.int32),
            "row_parts": np.asarray(self._parts, np.int32),
        }
        for name, array in arrays.items():
            with (self._folder / f"{name}.npy").open("wb") as file:
                np.save(file, array, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())


def row_keys(ids: npt.NDArray[np.void], parts: npt.NDArray[np.int32]) -> npt.NDArray[np.uint64]:
    """64 bits for each row, of its example's id (32 bytes) and its part's number."""
    first = np.frombuffer(ids.tobytes(), np.uint64).reshape(-1, 4)[:, 0] if len(ids) else np.empty(0, np.uint64)
    return first ^ mixed(parts.astype(np.int64).view(np.uint64) + np.uint64(1))


def mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Numbers made to look like chance, each by itself: splitmix64's finalizer, a bijection.

    Source: Steele, Lea, Flood, Fast splittable pseudorandom number generators, OOPSLA 2014, figure 16.
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _mapped(path: Path, kind: Any) -> Any:
    if not path.stat().st_size:
        return np.empty(0, kind)
    return np.memmap(path, kind, "r")
