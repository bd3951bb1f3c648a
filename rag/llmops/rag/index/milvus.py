"""The store on a Milvus server (Standalone, Distributed, Zilliz Cloud, milvus-lite): one collection a generation.

The only module that imports pymilvus. A file of milvus-lite opened within this process is not offered: it locks out
every other process, so that nobody could answer while one refreshes. A collection is made by the first vectors, which
tell its dimension; until then a missing one is an empty one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeVar

from llmops.core.errors import ConfigError, IntegrityError, LlmopsError, UnavailableError
from llmops.core.secret import resolve_secret
from llmops.rag.config import StoreConfig
from llmops.rag.index.patience import persist
from llmops.rag.index.server import AWAY, REBUILT, ServerPlace, stamp

if TYPE_CHECKING:
    from llmops.rag.arena import Vectors

_MISSING, _RELEASED = 100, 101
_DOWN = {2}
_DENIED = {1400, 1800, 1801, 1802, 1803}
_BODY_BYTES = 16_000_000
_MOST = 5_000
T = TypeVar("T")


class MilvusServer(ServerPlace["MilvusStore"]):
    """A collection of one database."""

    @property
    def where(self) -> str:
        return f"Milvus at {self.config.url} ({self.config.database or 'default'})"

    def connect(self) -> MilvusStore:
        return MilvusStore(self)

    def create(self) -> MilvusStore:
        store = MilvusStore(self)
        try:
            store.drop()
        except BaseException:
            store.close()
            raise
        return store

    def drop(self) -> None:
        with closing(MilvusStore(self)) as store:
            store.drop()


class MilvusStore:
    """Implements `Store`; safe to share between threads."""

    def __init__(self, place: MilvusServer) -> None:
        self._place = place
        self._name = place.collection
        self._timeout_s = place.config.timeout_s
        self._client = persist(lambda: self._translated(_connect, place.config), place.patience_s)
        self._is_there = bool(self._name and self._ask(self._client.has_collection, self._name))

    def add(self, ids: Sequence[str], vectors: Vectors) -> None:
        if not len(ids):
            return
        if not self._is_there:
            self._make(vectors.shape[1])
        batch = max(1, min(_MOST, _BODY_BYTES // (vectors.shape[1] * 4)))
        for start in range(0, len(ids), batch):
            pairs = zip(ids[start : start + batch], vectors[start : start + batch], strict=True)
            self._ask(self._client.upsert, self._name, [{"id": i, "vector": vector} for i, vector in pairs])

    def delete(self, ids: Sequence[str]) -> None:
        for start in range(0, len(ids) if self._is_there else 0, _MOST):
            self._ask(self._client.delete, self._name, ids=list(ids[start : start + _MOST]))

    def count(self) -> int:
        if not self._is_there:
            return 0
        return int(self._ask(self._client.query, self._name, filter="", output_fields=["count(*)"])[0]["count(*)"])

    def ids(self) -> list[str]:
        return persist(lambda: self._translated(self._all_ids), self._place.patience_s) if self._is_there else []

    def vectors(self, ids: Sequence[str]) -> dict[str, Vectors]:
        import numpy as np

        found: dict[str, Vectors] = {}
        for start in range(0, len(ids) if self._is_there else 0, 1_000):
            some = list(ids[start : start + 1_000])
            for row in self._ask(self._client.get, self._name, ids=some, output_fields=["id", "vector"]):
                found[row["id"]] = np.asarray(row["vector"], dtype=np.float32)
        return found

    def nearest(self, vector: Vectors, k: int) -> list[str]:
        if not self._is_there:
            return []
        found = self._ask(self._client.search, self._name, [vector], limit=k, output_fields=["id"])
        return [hit["id"] for hit in found[0]]

    def sync(self) -> str:
        return stamp(self)

    def close(self) -> None:
        self._client.close()

    def drop(self) -> None:
        self._ask(self._client.drop_collection, self._name)
        self._is_there = False

    def _make(self, dimension: int) -> None:
        from pymilvus import DataType, MilvusClient

        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.VARCHAR, max_length=64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
        index = MilvusClient.prepare_index_params()
        index.add_index("vector", index_type="AUTOINDEX", metric_type="COSINE")
        about = {"schema": schema, "index_params": index, "consistency_level": "Strong"}
        self._ask(self._client.create_collection, self._name, **about)
        self._is_there = True

    def _all_ids(self) -> list[str]:
        pages = self._client.query_iterator(self._name, batch_size=1_000, output_fields=["id"], timeout=self._timeout_s)
        found: list[str] = []
        try:
            while page := pages.next():
                found += [row["id"] for row in page]
        finally:
            pages.close()
        return found

    def _ask(self, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call the server; repeats the call while it is away, for as long as the place is patient."""
        asked = {**options, "timeout": self._timeout_s}
        return persist(lambda: self._translated(call, *args, **asked), self._place.patience_s)

    def _translated(self, call: Callable[..., T], *args: Any, **options: Any) -> T:
        from grpc import RpcError
        from pymilvus.exceptions import MilvusException

        try:
            try:
                return call(*args, **options)
            except MilvusException as error:
                if error.code != _RELEASED:
                    raise
            self._client.load_collection(self._name, timeout=self._timeout_s)  # a restart released it
            return call(*args, **options)
        except (MilvusException, RpcError) as error:
            raise self._meaning(error) from error

    def _meaning(self, error: Any) -> LlmopsError:
        where = self._place.where
        said = str(error.message if hasattr(error, "message") else error.details())[:300]
        code = getattr(error, "code", None)
        if code in _DENIED or "auth check failure" in said.lower() or "unauthenticated" in said.lower():
            hint = "check index.store.token"
            return ConfigError("the vector store refuses these credentials", where=where, hint=hint)
        if code in _DOWN or "unavailable" in said.lower() or "deadline" in said.lower():
            return UnavailableError(f"the vector store does not answer: {said}", where=where, hint=AWAY)
        return IntegrityError(f"the vector store cannot be used: {said}", where=where, hint=REBUILT)


def version(config: StoreConfig) -> str:
    """The server's version, asked once, with the configured credentials."""
    with closing(MilvusStore(MilvusServer(config, "", 0.0))) as store:
        return str(store._ask(store._client.get_server_version))


def _connect(config: StoreConfig) -> Any:
    try:
        from pymilvus import MilvusClient
    except ModuleNotFoundError as error:
        hint = "pip install -c constraints.txt 'llmops[milvus]'"
        raise ConfigError("the client of Milvus is not installed", where="index.store.engine", hint=hint) from error
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs each error that it raises, with a traceback
    about: dict[str, Any] = {"timeout": config.timeout_s}
    if config.token is not None:
        about["token"] = resolve_secret(config.token)
    if config.database is not None:
        about["db_name"] = config.database
    if config.ca_file is not None:
        about["server_pem_path"] = config.ca_file
    return MilvusClient(config.url, **about)
