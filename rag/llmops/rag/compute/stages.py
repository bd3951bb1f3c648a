"""What runs on a cluster's machines: tables of documents to their texts, tables of texts to their vectors.

A worker process keeps its parser process and its embedder between tables. Documents stay data: a table holds their
text and JSON, and they are parsed behind the same fences as here. What goes wrong is told in the table, so that no
engine has to carry our exceptions.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from llmops.core.errors import LlmopsError
from llmops.rag.document import Parsed, Place, SourceItem
from llmops.rag.parse import wire
from llmops.rag.parse.pool import ParserPool

if TYPE_CHECKING:
    from llmops.rag.config import ParsingConfig
    from llmops.rag.ingest.pipeline import Embedder

DOCUMENTS = pa.schema(
    [("n", pa.int64()), *((name, pa.large_string()) for name in ("path", "root", "inside")), ("size", pa.int64())]
)
TEXTS = pa.schema([("n", pa.int64()), ("text", pa.large_string())])
RESULTS = pa.schema([("n", pa.int64()), ("told", pa.large_string()), ("body", pa.large_binary())])
"""`told`: JSON; of a document its header, of a vector nothing, or `error` and `where`. `body`: UTF-8, or float32."""

_ALIKE = 0.999
"""Least cosine to what the refreshing machine makes of the same text: bf16 against f32 gives .9999."""


@dataclass(frozen=True)
class Parse:
    """Documents to texts. The files are read where this runs, so they must lie on storage that all machines share."""

    parsing: ParsingConfig

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        seen = [row for row in rows if Path(row["root"], row["inside"]).exists()]
        answers = [_row(row["n"], {"unseen": True}) for row in rows if row not in seen]
        items = [
            SourceItem(str(row["n"]), row["path"], Place(row["root"], row["inside"]), row["size"], 0) for row in seen
        ]
        for item, outcome in _parser(self.parsing).parse(items):
            if isinstance(outcome, Parsed):
                answers.append(_row(int(item.uri), wire.header_of(outcome), outcome.text.encode()))
            else:
                answers.append(_row(int(item.uri), {"refused": outcome.code, "reason": outcome.reason}))
        return pa.Table.from_pylist(answers, RESULTS)


@dataclass(frozen=True)
class Embed:
    """Texts to vectors, by an embedder that must make of `probe` what the refreshing machine makes of it."""

    open_embedder: Callable[[], Embedder]
    fingerprint: str
    probe: str
    expected: bytes

    def __call__(self, table: pa.Table) -> pa.Table:
        numbers, texts = table["n"].to_pylist(), table["text"].to_pylist()
        try:
            vectors = _opened(self).embed(texts)
        except LlmopsError as error:
            return pa.Table.from_pylist([_row(number, {"error": str(error)}) for number in numbers], RESULTS)
        rows = [_row(number, {}, vector.tobytes()) for number, vector in zip(numbers, vectors, strict=True)]
        return pa.Table.from_pylist(rows, RESULTS)


def _row(number: int, told: dict[str, Any], body: bytes = b"") -> dict[str, Any]:
    return {"n": number, "told": json.dumps({**told, "where": socket.gethostname()}), "body": body}


# What a worker process keeps between tables.
_parsers: dict[str, ParserPool] = {}
_embedders: dict[str, Embedder] = {}


def _parser(parsing: ParsingConfig) -> ParserPool:
    """One parser process a worker: the cluster decides how many run at once."""
    key = parsing.model_dump_json()
    if key not in _parsers:
        _parsers[key] = ParserPool(parsing.model_copy(update={"workers": 1}))
    return _parsers[key]


def _opened(stage: Embed) -> Embedder:
    """The worker's embedder, tried once against the refreshing machine's.

    Raises:
        LlmopsError: it cannot be opened here, or it is another one.
    """
    if stage.fingerprint not in _embedders:
        embedder = stage.open_embedder()
        likeness = float(embedder.embed([stage.probe])[0] @ np.frombuffer(stage.expected, dtype=np.float32))
        if not likeness > _ALIKE:
            raise LlmopsError(
                f"this machine's vectors are not those of the one that refreshes (cosine {likeness:.4f})",
                hint="give all machines the same kind of processor, or set embedding.backend to torch",
            )
        _embedders[stage.fingerprint] = embedder
    return _embedders[stage.fingerprint]
