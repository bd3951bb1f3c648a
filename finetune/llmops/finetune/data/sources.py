"""Where rows come from: files, tables of the lake, datasets of the hub, recorded thumbs, a function that makes them.

Each source says what it is before it is read (`identity`: a digest of every file, the version of a table), so that the
same data is prepared once, and a file that changed under a run is named. Rows are plain dicts with the place where they
stand; what they mean is `formats`' matter. Heavy libraries are imported where they read.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import orjson

from llmops.core.errors import ConflictError, NotFoundError, UserError, did_you_mean
from llmops.core.ids import digest
from llmops.core.state import StateConfig
from llmops.finetune.config import SourceConfig

Row = dict[str, Any]


class BadRowError(UserError):
    """One row cannot be read; `data.on_bad: skip` goes on without it."""

    code = "bad_row"


Found = tuple[Row | BadRowError, str]
"""A row with the place where it stands, or what is wrong with it: those behind it can still be read."""
_GLOB = frozenset("*?[")


@dataclass(frozen=True)
class SourceRead:
    """What was read of a source.

    Args:
        digest: SHA-256 of what decides its rows.
        version: of a table.
        files: path -> SHA-256, for files.
    """

    uri: str
    digest: str
    version: int | None = None
    files: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> SourceRead:
        return cls(**found)


class Source(Protocol):
    """Rows of one place, which can be read from any of them on."""

    def identity(self) -> SourceRead:
        """What the rows are, found without parsing them."""
        ...

    def parts(self) -> int:
        """How many parts it has: files, or 1."""
        ...

    def rows(self, part: int, start: int = 0) -> Iterator[Found]:
        """The rows of one part with where each stands, from the one numbered `start` on."""
        ...


def open_source(source: SourceConfig, state: StateConfig, base: Path = Path()) -> Source:
    """The source that a URI names; paths are relative to `base`.

    Raises:
        NotFoundError: there is nothing at the URI.
        UserError: it is of a kind that is not read.
    """
    from llmops.finetune.data import stored

    scheme, colon, rest = source.uri.partition(":")
    if colon and scheme in ("http", "https", "s3", "gs"):
        raise UserError("files are read from folders only", where=source.uri, hint="fetch it first, then name the file")
    kinds: dict[str, Callable[[], Source]] = {
        "table": lambda: stored.Table(rest, source, state),
        "feedback": lambda: stored.Feedback(rest, source, state),
        "hf": lambda: stored.HubDataset(rest, source, base),
        "make": lambda: stored.Made(rest, source, base),
    }
    return kinds[scheme]() if colon and scheme in kinds else Files(source, base)


def read(source: SourceConfig, state: StateConfig, base: Path = Path()) -> Iterator[tuple[Row, str]]:
    """All rows of a source, at most `limit`, each with where it stands.

    Raises:
        BadRowError: one cannot be read.
    """
    opened = open_source(source, state, base)
    for row, where in islice((found for part in range(opened.parts()) for found in opened.rows(part)), source.limit):
        if isinstance(row, BadRowError):
            raise row
        yield row, where


def require_unchanged(before: list[SourceRead], now: list[SourceRead]) -> None:
    """Go on only with the data that a run began with.

    Raises:
        ConflictError: names the file, the table or the source that is another now.
    """
    for was, found in zip(before, now, strict=False):
        if was.digest != found.digest:
            raise ConflictError(
                f"the data changed since this run began: {_difference(was, found)}",
                where=found.uri,
                hint="put the old data back, or start a new run: `llmops finetune CONFIG`",
                code="data_changed",
            )
    if len(before) != len(now):
        raise ConflictError(f"the run began with {len(before)} sources, and there are {len(now)}", code="data_changed")


def _difference(was: SourceRead, found: SourceRead) -> str:
    for path, known in was.files.items():
        if path not in found.files:
            return f"{path} is gone"
        if found.files[path] != known:
            return f"{path} has other contents"
    new = sorted(set(found.files) - set(was.files))
    if new:
        return f"{new[0]} is new"
    if was.version != found.version:
        return f"version {was.version} became {found.version}"
    return "it gives other rows"


class Files:
    """A file, all files of a folder, or those of a glob, in the order of their names."""

    def __init__(self, source: SourceConfig, base: Path) -> None:
        self._uri = source.uri
        self._paths = _paths(source.uri.removeprefix("file:"), base)

    def identity(self) -> SourceRead:
        files = {str(path): file_digest(path) for path in self._paths}
        return SourceRead(self._uri, digest([self._uri, list(files.values())]), files=files)

    def parts(self) -> int:
        return len(self._paths)

    def rows(self, part: int, start: int = 0) -> Iterator[Found]:
        path = self._paths[part]
        return READERS[path.suffix.lower()](path, start)


def _paths(text: str, base: Path) -> list[Path]:
    place = base / Path(text).expanduser()
    if place.is_file():
        if place.suffix.lower() not in READERS:
            hint = f"write one of {', '.join(READERS)}"
            raise UserError(f"files of the kind `{place.suffix}` are not read", where=str(place), hint=hint)
        return [place]
    if place.is_dir():
        inside = (one for one in place.rglob("*") if not any(p.startswith(".") for p in one.relative_to(place).parts))
        candidates: Iterable[Path] = inside  # the product's own state may lie in the folder, hidden
    elif _GLOB & set(text):
        anchor = Path(place.anchor) if place.is_absolute() else Path()
        candidates = anchor.glob(str(place.relative_to(place.anchor)))
    else:
        names = [one.name for one in place.parent.iterdir()] if place.parent.is_dir() else []
        raise NotFoundError("no such file or folder", where=str(place), hint=did_you_mean(place.name, names))
    found = sorted(one for one in candidates if one.is_file() and one.suffix.lower() in READERS)
    if not found:
        hint = f"files are read that end in {', '.join(READERS)}"
        raise NotFoundError("no file of data is there", where=str(place), hint=hint)
    return found


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json_lines(path: Path, start: int) -> Iterator[Found]:
    with path.open("rb") as file:
        filled = ((number, line) for number, line in enumerate(file, 1) if not line.isspace())
        for number, line in islice(filled, start, None):
            where = f"{path}:{number}"
            yield _object(line, where), where


def _object(text: bytes, where: str) -> Row | BadRowError:
    try:
        return _checked(orjson.loads(text), where)
    except orjson.JSONDecodeError as error:
        return BadRowError(f"this is no JSON: {error}", where=where)


def _checked(value: Any, where: str) -> Row | BadRowError:
    if isinstance(value, dict):
        return value
    return BadRowError(f"a row is a JSON object, and this is {type(value).__name__}", where=where)


def _json(path: Path, start: int) -> Iterator[Found]:
    try:
        value = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise UserError(f"this is no JSON: {error}", where=str(path)) from error
    if isinstance(value, dict):
        lists = [one for one in value.values() if isinstance(one, list)]
        value = lists[0] if len(value) == 1 and lists else [value]
    rows = value if isinstance(value, list) else [value]
    for number, row in enumerate(rows[start:], start):
        yield _checked(row, f"{path}[{number}]"), f"{path}[{number}]"


def _parquet(path: Path, start: int) -> Iterator[Found]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            number = 0
            for group in range(file.num_row_groups):
                size = file.metadata.row_group(group).num_rows
                if number + size > start:
                    rows = (row for batch in file.iter_batches(row_groups=[group]) for row in batch.to_pylist())
                    for place, row in enumerate(rows, number):
                        if place >= start:
                            yield row, f"{path}#{place}"
                number += size
    except pa.ArrowInvalid as error:
        raise UserError(f"this is no Parquet file: {error}", where=str(path)) from error


def _csv(path: Path, start: int) -> Iterator[Found]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        try:
            for row in islice(reader, start, None):
                yield dict(row), f"{path}:{reader.line_num}"
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(f"this is no CSV file: {error}", where=f"{path}:{reader.line_num}") from error


def _text(path: Path, start: int) -> Iterator[Found]:
    """A file is one document."""
    if start:
        return
    try:
        yield {"text": path.read_text(encoding="utf-8")}, f"{path}:1"
    except UnicodeDecodeError as error:
        raise UserError(f"this is no UTF-8 text: {error.reason} at byte {error.start}", where=str(path)) from error


READERS: dict[str, Callable[[Path, int], Iterator[Found]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".parquet": _parquet,
    ".csv": _csv,
    ".tsv": _csv,
    ".txt": _text,
    ".md": _text,
}
