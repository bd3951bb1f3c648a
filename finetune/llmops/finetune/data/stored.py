"""Rows that do not lie in files of the user's: tables of the lake, recorded thumbs, datasets, functions that make rows.

A table is read at one version, which is recorded. A thumb counts only where whoever gave it had asked the question, and
only the last one of each person. Who that is goes on as a digest, so that one person's share can be told.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from inspect import isgenerator
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from llmops.core.errors import NotFoundError, UserError
from llmops.core.ids import digest
from llmops.core.lake import Lake
from llmops.core.names import Name
from llmops.core.state import StateConfig
from llmops.finetune.config import SourceConfig
from llmops.finetune.data.sources import BadRowError, Found, Row, SourceRead
from llmops.finetune.named import named

_MAKER = re.compile(r"(?P<module>[\w.]+):(?P<function>\w+)(?:\?(?P<values>.*))?")
_COLUMNS = ("request_id", "requester", "status_code", "request_json", "response_json", "asset_name", "asset_version")


class Table:
    """`table:catalog.schema.name`, at its newest version or at one: `table:dev.support.chats@12`."""

    def __init__(self, text: str, source: SourceConfig, state: StateConfig) -> None:
        name, _, version = text.partition("@")
        if version and not version.isdigit():
            raise UserError(
                f"`{version}` is no version of a table", where=source.uri, hint="write a number after the @"
            )
        self._uri, self._where = source.uri, source.where
        self._name = str(Name.parse(name))
        self._dataset, self._version = Lake(state).dataset(self._name, int(version) if version else None)

    def identity(self) -> SourceRead:
        files = sorted(Path(fragment.path).name for fragment in self._dataset.get_fragments())
        decides = digest([self._name, self._version, self._where, files])
        return SourceRead(self._uri, decides, version=self._version)

    def parts(self) -> int:
        return 1

    def rows(self, part: int, start: int = 0) -> Iterator[Found]:
        rows = (row for batch in self._batches() for row in batch.to_pylist(maps_as_pydicts="strict"))
        for number, row in enumerate(islice(rows, start, None), start):
            yield row, f"{self._name}@{self._version}#{number}"

    def _batches(self) -> Iterator[Any]:
        if self._where is None:
            return iter(self._dataset.to_batches())
        from llmops.core import lakesql

        query = f"SELECT * FROM {self._name} WHERE {self._where}"  # noqa: S608 - the job's own condition, over this table
        return iter(lakesql.select(query, {self._name: (self._dataset, None)}).to_batches())


class Feedback:
    """`feedback:`, or that of a schema: `feedback:dev.serving`."""

    def __init__(self, text: str, source: SourceConfig, state: StateConfig) -> None:
        schema = text or "serving"
        self._uri = source.uri
        self._thumbs = thumbs(
            Lake(state), str(Name.parse(f"{schema}.feedback")), str(Name.parse(f"{schema}.inference_log"))
        )

    def identity(self) -> SourceRead:
        return SourceRead(self._uri, digest(self._thumbs))

    def parts(self) -> int:
        return 1

    def rows(self, part: int, start: int = 0) -> Iterator[Found]:
        for row in self._thumbs[start:]:
            yield row, f"feedback/{row['feedback_id']}"


def thumbs(lake: Lake, feedback: str, inference_log: str, *, since: datetime | None = None) -> list[Row]:
    """Each person's last thumb on each answer of their own, oldest first, with the turns and the answer it judges.

    Rows have prompt, completion, label, rationale, and who and what they are from: feedback_id, request_id, event_time,
    requester, version. Left out are thumbs by others than the requester, on answers that failed or are empty, and on
    exchanges of which the log holds no whole body any more.

    Args:
        since: only given after this moment.
    """
    last: dict[tuple[str, str], Mapping[str, Any]] = {}
    given = lake.rows(feedback, where={"source": "human", "name": "thumb"}) if _exists(lake, feedback) else []
    for row in sorted(given, key=lambda row: (row["event_time"], row["feedback_id"])):
        last[row["request_id"], row["source_id"]] = row
    wanted = [row for row in last.values() if since is None or row["event_time"] > since]
    wanted.sort(key=lambda row: (row["event_time"], row["feedback_id"]))
    ids = sorted({row["request_id"] for row in wanted})
    requests: dict[str, Mapping[str, Any]] = {}
    for start in range(0, len(ids), 500):
        where = {"request_id": ids[start : start + 500], "layer": "serving"}
        requests |= {row["request_id"]: row for row in lake.rows(inference_log, where, list(_COLUMNS))}
    found = (_thumb(row, requests.get(row["request_id"])) for row in wanted)
    return [row for row in found if row is not None]


def _thumb(row: Mapping[str, Any], request: Mapping[str, Any] | None) -> Row | None:
    if request is None or request["requester"] != row["source_id"] or (request["status_code"] or 200) >= 400:
        return None
    turns = [turn for turn in _body(request["request_json"]).get("messages", []) if isinstance(turn, dict)]
    answer = _body(request["response_json"]).get("content")
    if not turns or not isinstance(answer, str) or not answer.strip():
        return None
    return {
        "prompt": [{"role": turn.get("role"), "content": turn.get("content")} for turn in turns],
        "completion": answer,
        "label": row["value_num"] == 1.0,
        "rationale": row["rationale"],
        "feedback_id": row["feedback_id"],
        "request_id": row["request_id"],
        "event_time": row["event_time"].isoformat(),
        "requester": row["source_id"],
        "version": f"{request['asset_name']}/{request['asset_version']}",
    }


def _body(text: str | None) -> dict[str, Any]:
    """A logged body; one that was cut at its limit is no JSON any more and gives nothing."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _exists(lake: Lake, table: str) -> bool:
    try:
        lake.spec(table)
    except NotFoundError:
        return False
    return True


class HubDataset:
    """`hf:folder` of a dataset that was saved to disk, or `hf:owner/name`, of the hub; `@` names a revision."""

    def __init__(self, text: str, source: SourceConfig, base: Path) -> None:
        self._uri, self._name = source.uri, text
        self._dataset = _split(_loaded(text, source, base), source)

    def identity(self) -> SourceRead:
        return SourceRead(self._uri, digest([self._dataset._fingerprint, len(self._dataset)]))

    def parts(self) -> int:
        return 1

    def rows(self, part: int, start: int = 0) -> Iterator[Found]:
        for number in range(start, len(self._dataset)):
            yield self._dataset[number], f"{self._name}#{number}"


def _loaded(text: str, source: SourceConfig, base: Path) -> Any:
    import datasets

    folder = base / Path(text).expanduser()
    if folder.is_dir():
        try:
            return datasets.load_from_disk(str(folder))
        except (FileNotFoundError, ValueError) as error:
            hint = "it is one that `Dataset.save_to_disk` wrote; for files of rows leave the `hf:` out"
            raise UserError(f"the folder holds no dataset: {error}", where=source.uri, hint=hint) from error
    name, _, revision = text.partition("@")
    try:
        return datasets.load_dataset(name, split=source.split, revision=revision or None)
    except (OSError, ValueError) as error:
        raise NotFoundError(f"the dataset cannot be had: {error}", where=source.uri) from error


def _split(found: Any, source: SourceConfig) -> Any:
    if not isinstance(found, dict):
        return found
    if source.split not in found:
        hint = f"it has {', '.join(sorted(found))}; set `split`"
        raise NotFoundError(f"the dataset has no split `{source.split}`", where=source.uri, hint=hint)
    return found[source.split]


class Made:
    """`make:module:function`, with values: `make:shop.data:orders?rows=2000&seed=7`. The function gives rows."""

    def __init__(self, text: str, source: SourceConfig, base: Path) -> None:
        match = _MAKER.fullmatch(text)
        if match is None:
            hint = "write make:module:function, or make:module:function?rows=2000&seed=7"
            raise UserError(f"`{source.uri}` names no function", where=source.uri, hint=hint)
        self._uri, self._name = source.uri, f"{match['module']}:{match['function']}"
        values = dict(pair.partition("=")[::2] for pair in (match["values"] or "").split("&") if pair)
        self._rows = _made(match, {name: yaml.safe_load(value) for name, value in values.items()}, source)

    def identity(self) -> SourceRead:
        return SourceRead(self._uri, digest(self._rows))

    def parts(self) -> int:
        return 1

    def rows(self, part: int, start: int = 0) -> Iterator[Found]:
        for number, row in enumerate(self._rows[start:], start):
            where = f"{self._name}#{number}"
            yield (
                (row if isinstance(row, dict) else BadRowError(f"a row is a dict, and this is {row!r}", where=where)),
                where,
            )


def _made(match: re.Match[str], values: Mapping[str, Any], source: SourceConfig) -> list[Any]:
    try:
        function = named(f"{match['module']}:{match['function']}")
    except (ImportError, AttributeError) as error:
        raise NotFoundError(f"there is no such function: {error}", where=source.uri) from error
    try:
        made = function(**values)
    except TypeError as error:
        raise UserError(f"the function does not take these values: {error}", where=source.uri) from error
    if not isinstance(made, list | tuple) and not isgenerator(made):
        raise UserError(f"the function gave {type(made).__name__}, and rows are wanted", where=source.uri)
    return list(made)
