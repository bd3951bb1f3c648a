"""Why an alias may move: immutable records, filed under the SHA-256 of their own canonical JSON.

Any part may write one; only the registry reads them to decide. Knows the record's shape and its storage, and no gate.
"""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from sqlalchemy import Connection, insert, select

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
    if digest(body) != evidence_id:
        raise IntegrityError("an evidence record was changed after it was filed", where=evidence_id)
    return Evidence.model_validate_json(body)


def of_version(connection: Connection, version: Version) -> list[Evidence]:
    """Every record about a version, oldest first, each checked as `load` does."""
    found = connection.execute(
        select(tables.evidence.c.evidence_id)
        .where(tables.evidence.c.name == str(version.name), tables.evidence.c.version == version.version)
        .order_by(tables.evidence.c.ended, tables.evidence.c.evidence_id)
    )
    return [load(connection, identifier) for identifier in found.scalars().all()]


def gate_of(connection: Connection, evidence_id: str) -> str | None:
    """The gate that a record is of, without reading the whole of it."""
    gate: str | None = connection.execute(
        select(tables.evidence.c.gate).where(tables.evidence.c.evidence_id == evidence_id)
    ).scalar()
    return gate


def listed(connection: Connection, version: Version) -> list[tuple[str, str, str, datetime]]:
    """Id, gate, actor and time of every record about a version, oldest first, unchecked."""
    columns = tables.evidence.c
    query = (
        select(columns.evidence_id, columns.gate, columns.actor, columns.ended)
        .where(columns.name == str(version.name), columns.version == version.version)
        .order_by(columns.ended, columns.evidence_id)
    )
    return [(row.evidence_id, row.gate, row.actor, row.ended) for row in connection.execute(query)]
