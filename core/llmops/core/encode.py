"""What a record is before it touches the disk: bodies cut, secrets gone, JSON, framed.

Knows tables and text; of files and the backlog it knows nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson

from llmops.core.errors import TooLargeError, UserError
from llmops.core.frames import MAX_PAYLOAD, Framer
from llmops.core.redact import PersonalData, redact_secrets
from llmops.core.tables import TABLES

_LARGEST = MAX_PAYLOAD - 1024  # leaves the table's name its place


@dataclass
class EncodeCounters:
    """What had to be done to records."""

    cut_bodies: int = 0
    redacted: int = 0
    mended: int = 0


class Encoder:
    """Turns records into frames. A body over `body_bytes` is cut, and an error code in the record tells."""

    def __init__(self, body_bytes: int, personal_data: Mapping[str, str], counters: EncodeCounters) -> None:
        self.counters = counters
        self._body_bytes = body_bytes
        self._personal = PersonalData(personal_data) if personal_data else None
        self._tables: dict[str, tuple[Framer, Mapping[str, str]]] = {}

    def encode(self, table: str, record: Mapping[str, Any]) -> tuple[bytes, bytes]:
        """The two pieces of the record's frame: its head, and the JSON.

        Raises:
            UserError, TooLargeError: the record is not JSON, or over 64 MB.
        """
        try:
            framer, bodies = self._tables[table]
        except KeyError:
            framer, bodies = self._tables[table] = _table(table)
        try:
            if self._personal is not None:
                record = self._personal.redact({**record, **_texts(record, bodies)})
            encoded = orjson.dumps(record, _plain)
        except TypeError as error:
            encoded = self._mend(record, error)
        if len(encoded) > self._body_bytes:  # no body is longer than the whole
            encoded = self._cut(record, bodies, encoded)
        clean = redact_secrets(encoded)
        if clean is not encoded:
            self.counters.redacted += 1
        if len(clean) > _LARGEST:
            raise TooLargeError(f"a record of {len(clean)} bytes is too large for the spool", where=table)
        return framer.head(clean), clean

    def _mend(self, record: Mapping[str, Any], error: TypeError) -> bytes:
        """Encode a record that holds half a surrogate pair (LLMs can stop inside an emoji), as U+FFFD."""
        try:
            encoded = orjson.dumps(_without_surrogates(record), _plain)
        except TypeError:
            raise UserError(f"the record is not JSON: {error}", hint="keys are texts; values are plain") from error
        self.counters.mended += 1
        return encoded

    def _cut(self, record: Mapping[str, Any], bodies: Mapping[str, str], encoded: bytes) -> bytes:
        """The record's JSON once its bodies are cut, each between two characters; `encoded` where none is too long."""
        changes: dict[str, Any] = {}
        codes = [*(record.get("logging_error_codes") or ())]
        for column, text in _texts(record, bodies).items():
            body = text.encode("utf-8", "surrogatepass")
            if len(body) > self._body_bytes:
                self.counters.cut_bodies += 1
                changes[column] = body[: self._body_bytes].decode("utf-8", "ignore")
                codes.append(bodies[column])
        if not changes:
            return encoded
        return orjson.dumps(_without_surrogates({**record, **changes, "logging_error_codes": codes}), _plain)


def _texts(record: Mapping[str, Any], bodies: Mapping[str, str]) -> dict[str, str]:
    """The bodies as texts; one that is an object or a list as its JSON."""
    texts = {}
    for column in bodies:
        body = record.get(column)
        if body is not None:
            texts[column] = body if isinstance(body, str) else orjson.dumps(_without_surrogates(body), _plain).decode()
    return texts


def _table(table: str) -> tuple[Framer, Mapping[str, str]]:
    if "\n" in table:
        raise UserError("a table's name has one line", where=repr(table))
    spec = TABLES.get(table.rpartition(".")[2])
    return Framer(table), spec.bodies if spec else {}


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal | Path):
        return str(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"a {type(value).__name__} is not JSON")


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, Mapping):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_surrogates(item) for item in value]
    return value
