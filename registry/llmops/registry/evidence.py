"""Why an alias may move: immutable records, filed under the SHA-256 of their own canonical JSON.

Any part may write one; only the registry reads them to decide. Knows the record's shape and its storage, and no gate.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from sqlalchemy import Connection, Row, insert, select

from llmops.core.errors import IntegrityError, NotFoundError
from llmops.core.ids import canonical_json, digest
from llmops.registry import tables
from llmops.registry.records import Kind, Version


@lru_cache(maxsize=1)
def _host() -> str:
    return socket.gethostname()


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Subject(_Part):
    """The version a record speaks of, pinned by its digest."""

    kind: Kind
    name: str
    version: int = Field(ge=1)
    digest: str

    @classmethod
    def of(cls, version: Version) -> Subject:
        return cls(kind=version.kind, name=str(version.name), version=version.version, digest=version.digest)


class Method(_Part):
    """How the verdict was reached, so that another can repeat it."""

    name: str
    version: str
    params: dict[str, Any] = Field(default_factory=dict)
    seed: int | None = None


class Counts(_Part):
    champion: int = Field(ge=0)
    challenger: int = Field(ge=0)


class Data(_Part):
    """Which rows were looked at."""

    table: str
    version: str
    filter: str | None = None
    rows: int = Field(ge=0)
    digest: str


class Judge(_Part):
    """The LLM that scored, and how well it agrees with people."""

    name: str
    version: str
    prompt_digest: str
    kappa: float | None = None
    alpha_kripp: float | None = None
    sens: float | None = None
    spec: float | None = None
    n_human: int | None = None


class Env(_Part):
    git: str | None = None
    lock_digest: str | None = None
    host: str = Field(default_factory=_host)


class Evidence(_Part):
    """One finding about one version. Equal content has an equal id; nothing about it can be changed later."""

    asset: Subject
    baseline: Subject | None = None
    gate: str = Field(min_length=1, max_length=64)
    verdict: Literal["pass", "fail", "inconclusive"]
    method: Method
    alpha: float | None = None
    effect: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    n: Counts | None = None
    srm_p: float | None = None
    looks: int | None = None
    data: Data | None = None
    judge: Judge | None = None
    env: Env = Field(default_factory=Env)
    actor: str
    started: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))
    ended: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))
    parents: tuple[str, ...] = ()

    @property
    def body(self) -> bytes:
        """The canonical JSON that is stored and hashed; times are UTC."""
        return canonical_json(self.model_dump(mode="json"))

    @property
    def evidence_id(self) -> str:
        return digest(self.body)


@dataclass(frozen=True)
class Filed:
    """A record as it lies in its row, which may have been changed since it was filed."""

    evidence_id: str
    name: str
    version: int
    gate: str
    verdict: str
    actor: str
    ended: datetime
    body: str

    @property
    def intact(self) -> bool:
        """Whether its text has the digest that it is filed under."""
        return digest(self.body) == self.evidence_id

    @property
    def record(self) -> Evidence | None:
        """The record; None where it was changed after it was filed."""
        return Evidence.model_validate_json(self.body) if self.intact else None

    def as_json(self) -> dict[str, Any]:
        record = self.record
        told: dict[str, Any] = {
            "evidence_id": self.evidence_id,
            "intact": record is not None,
            "asset": {"name": self.name, "version": self.version},
            "gate": self.gate,
            "verdict": self.verdict,
            "actor": self.actor,
            "ended": self.ended.isoformat(),
        }
        return told if record is None else told | record.model_dump(mode="json", exclude_none=True)


def save(connection: Connection, record: Evidence) -> str:
    """File a record, once; saving it again changes nothing.

    Raises:
        ConflictError: the version it speaks of is not registered.
    """
    identifier = record.evidence_id
    known = select(tables.evidence.c.evidence_id).where(tables.evidence.c.evidence_id == identifier)
    if connection.execute(known).first() is None:
        connection.execute(
            insert(tables.evidence).values(
                evidence_id=identifier,
                name=record.asset.name,
                version=record.asset.version,
                gate=record.gate,
                verdict=record.verdict,
                actor=record.actor,
                ended=record.ended,
                body=record.body.decode(),
            )
        )
    return identifier


def load(connection: Connection, evidence_id: str) -> Evidence:
    """Read a record back.

    Raises:
        NotFoundError: no such record.
        IntegrityError: its text does not have the digest it is filed under.
    """
    body = connection.execute(
        select(tables.evidence.c.body).where(tables.evidence.c.evidence_id == evidence_id)
    ).scalar()
    if body is None:
        raise NotFoundError(f"no evidence `{evidence_id}`")
    return _checked(evidence_id, body)


def of_version(connection: Connection, version: Version) -> list[Evidence]:
    """Every record about a version, oldest first, each checked as `load` does."""
    return [_checked(row.evidence_id, row.body) for row in _rows(connection, version)]


def told_of(connection: Connection, version: Version) -> list[tuple[Row[Any], Evidence | None]]:
    """The rows about a version, oldest first, with their records; None where one was changed after it was filed."""
    found: list[tuple[Row[Any], Evidence | None]] = []
    for row in _rows(connection, version):
        try:
            found.append((row, _checked(row.evidence_id, row.body)))
        except IntegrityError:
            found.append((row, None))
    return found


def gate_of(connection: Connection, evidence_id: str) -> str | None:
    """The gate that a record is of, without reading the whole of it."""
    gate: str | None = connection.execute(
        select(tables.evidence.c.gate).where(tables.evidence.c.evidence_id == evidence_id)
    ).scalar()
    return gate


def _rows(connection: Connection, version: Version) -> Sequence[Row[Any]]:
    columns = tables.evidence.c
    query = select(tables.evidence).where(columns.name == str(version.name), columns.version == version.version)
    return connection.execute(query.order_by(columns.ended, columns.evidence_id)).all()


def _checked(evidence_id: str, body: str) -> Evidence:
    if digest(body) != evidence_id:
        raise IntegrityError("an evidence record was changed after it was filed", where=evidence_id)
    return Evidence.model_validate_json(body)


def find(connection: Connection, beginning: str) -> Filed:
    """The record whose id begins so; at least 8 hex digits.

    Raises:
        NotFoundError: there is none, or more than one.
    """
    found: Sequence[Row[Any]] = ()
    if _BEGINNING.fullmatch(beginning):
        query = _FILED.where(tables.evidence.c.evidence_id.startswith(beginning)).limit(2)
        found = connection.execute(query).all()
    if len(found) != 1:
        raise NotFoundError(f"no evidence `{beginning[:64]}`", hint="see `llmops models history NAME` for their ids")
    return Filed(**found[0]._asdict())


def filed_about(connection: Connection, version: Version) -> list[Filed]:
    """Every record about a version as it lies there, oldest first, changed ones too."""
    column = tables.evidence.c
    query = _FILED.where(column.name == str(version.name), column.version == version.version)
    return [Filed(**row._asdict()) for row in connection.execute(query.order_by(column.ended, column.evidence_id))]


_BEGINNING = re.compile(r"[0-9a-f]{8,64}")
_COLUMNS = ("evidence_id", "name", "version", "gate", "verdict", "actor", "ended", "body")
_FILED = select(*(tables.evidence.c[name] for name in _COLUMNS))
