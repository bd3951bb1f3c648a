"""The store on a Chroma server: one collection a generation, spoken to by Chroma's HTTP API (version 2).

Knows the API's paths and what its refusals mean. Chroma's own client is not used: it waits for ever for an answer,
gives refusals without their status, and takes a second to import, which an unchanged refresh would pay.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import orjson

from llmops.core.addresses import is_loopback
from llmops.core.errors import ConfigError, IntegrityError, NotFoundError, UnavailableError
from llmops.core.secret import resolve_secret
from llmops.rag.config import StoreConfig
from llmops.rag.index.patience import persist
from llmops.rag.index.server import AWAY, REBUILT, ServerPlace, stamp

if TYPE_CHECKING:
    from llmops.rag.arena import Vectors

_BODY_BYTES = 8_000_000
_PAGE = 50_000
_BUSY = {408, 425, 429, 500, 502, 503, 504}


class ChromaServer(ServerPlace["ChromaServerStore"]):
    """A collection of one database of one tenant."""

    @property
    def where(self) -> str:
        return f"Chroma at {self.config.url} ({self._tenant}/{self._database})"

    def connect(self) -> ChromaServerStore:
        with _closed_on_error(_Api(self)) as api:
            return ChromaServerStore(api, api.call("GET", f"/collections/{quote(self.collection)}")["id"])

    def create(self) -> ChromaServerStore:
        with _closed_on_error(_Api(self)) as api:
            api.forget_collection(self.collection)
            body = {"name": self.collection, "configuration": {"hnsw": {"space": "cosine"}}, "get_or_create": True}
            return ChromaServerStore(api, api.call("POST", "/collections", body)["id"])

    def drop(self) -> None:
        with closing(_Api(self)) as api:
            api.forget_collection(self.collection)

    @property
    def _tenant(self) -> str:
        return self.config.tenant

    @property
    def _database(self) -> str:
        return self.config.database or "default_database"


class ChromaServerStore:
    """Implements `Store`; safe to share between threads."""

    def __init__(self, api: _Api, identifier: str) -> None:
        self._api = api
        self._path = f"/collections/{identifier}"

    def add(self, ids: Sequence[str], vectors: Vectors) -> None:
        batch = self._batch(vectors.shape[1]) if len(ids) else 1
        for start in range(0, len(ids), batch):
            body = {"ids": ids[start : start + batch], "embeddings": list(vectors[start : start + batch])}
            self._api.call("POST", f"{self._path}/upsert", body)

    def delete(self, ids: Sequence[str]) -> None:
        for start in range(0, len(ids), self._api.most):
            self._api.call("POST", f"{self._path}/delete", {"ids": ids[start : start + self._api.most]})

    def count(self) -> int:
        return int(self._api.call("GET", f"{self._path}/count"))

    def ids(self) -> list[str]:
        found: list[str] = []
        while True:
            body = {"include": [], "limit": _PAGE, "offset": len(found)}
            page = self._api.call("POST", f"{self._path}/get", body)["ids"]
            found += page
            if len(page) < _PAGE:
                return found

    def vectors(self, ids: Sequence[str]) -> dict[str, Vectors]:
        import numpy as np

        found: dict[str, Vectors] = {}
        most = min(self._api.most, 1_000)
        for start in range(0, len(ids), most):
            body = {"ids": ids[start : start + most], "include": ["embeddings"]}
            got = self._api.call("POST", f"{self._path}/get", body)
            found.update(zip(got["ids"], np.asarray(got["embeddings"] or [], dtype=np.float32), strict=True))
        return found

    def nearest(self, vector: Vectors, k: int) -> list[str]:
        body = {"query_embeddings": [vector], "n_results": k, "include": []}
        return list(self._api.call("POST", f"{self._path}/query", body)["ids"][0])

    def sync(self) -> str:
        return stamp(self)

    def close(self) -> None:
        self._api.close()

    def _batch(self, dimension: int) -> int:
        return max(1, min(self._api.most, _BODY_BYTES // (dimension * 20)))


class _Gone(IntegrityError):
    """There is no such collection."""


class _Api:
    """One pool of connections to one database of a server."""

    def __init__(self, place: ChromaServer) -> None:
        config = place.config
        self._where, self._patience_s = place.where, place.patience_s
        self._root = f"{config.url}/api/v2"
        self._base = f"{self._root}/tenants/{quote(place._tenant, safe='')}/databases/{quote(place._database, safe='')}"
        headers = {name: resolve_secret(value) for name, value in config.headers.items()}
        if config.token is not None:
            token = resolve_secret(config.token)
            headers |= {"authorization": f"Bearer {token}", "x-chroma-token": token}
        self._http = httpx.Client(
            headers={**headers, "content-type": "application/json"},
            timeout=config.timeout_s,
            verify=_trusting(config.ca_file),
            trust_env=not is_loopback(httpx.URL(config.url or "").host),
        )

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the database; repeats the call while the server is away, for as long as the place is patient."""
        return persist(lambda: self._ask(method, self._base + path, body), self._patience_s)

    @cached_property
    def most(self) -> int:
        """Ids that one call may name."""
        found = persist(lambda: self._ask("GET", f"{self._root}/pre-flight-checks", None), self._patience_s)
        return int(found["max_batch_size"])

    def forget_collection(self, name: str) -> None:
        try:
            self.call("DELETE", f"/collections/{quote(name)}")
        except _Gone:
            return

    def close(self) -> None:
        self._http.close()

    def _ask(self, method: str, url: str, body: Any) -> Any:
        content = None if body is None else orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
        with self._transport():
            answer = self._http.request(method, url, content=content)
        if answer.is_success:
            return orjson.loads(answer.content) if answer.content else None
        raise self._refusal(answer)

    @contextmanager
    def _transport(self) -> Iterator[None]:
        try:
            yield
        except httpx.TransportError as error:
            what = f"the vector store does not answer: {error or type(error).__name__}"
            raise UnavailableError(what, where=self._where, hint=AWAY) from error

    def _refusal(self, answer: httpx.Response) -> Exception:
        """What a status means. Only Chroma's own words are shown, and nothing that was sent."""
        status, said = answer.status_code, _said(answer)
        if status in (401, 403):
            hint = "check index.store.token and index.store.headers"
            return ConfigError(f"the vector store refuses these credentials ({status})", where=self._where, hint=hint)
        if status in _BUSY:
            return UnavailableError(f"the vector store does not answer: {said}", where=self._where, hint=AWAY)
        if status in (400, 404) and said.startswith(("Database [", "Tenant [")):
            hint = "make the tenant and the database, or mend index.store"
            return NotFoundError(f"the vector store has no such database: {said}", where=self._where, hint=hint)
        kind = _Gone if status == 404 else IntegrityError
        return kind(f"the vector store cannot be used: {said}", where=self._where, hint=REBUILT)


def version(config: StoreConfig) -> str:
    """The server's version, asked once, with the configured credentials."""
    with closing(_Api(ChromaServer(config, "", 0.0))) as api:
        api.call("GET", "")
        return str(api._ask("GET", f"{api._root}/version", None))


@contextmanager
def _closed_on_error(api: _Api) -> Iterator[_Api]:
    try:
        yield api
    except BaseException:
        api.close()
        raise


def _trusting(ca_file: str | None) -> ssl.SSLContext | bool:
    if ca_file is None:
        return True
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"cannot read these certificates: {error}", where=ca_file) from error
    return context


def _said(answer: httpx.Response) -> str:
    try:
        found = orjson.loads(answer.content)
        return str(found.get("message") or found.get("error"))[:300]
    except (orjson.JSONDecodeError, AttributeError):
        return f"HTTP {answer.status_code}"
