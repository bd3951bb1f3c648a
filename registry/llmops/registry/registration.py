"""Registering a candidate so that no interruption leaves half a version: intent row, MLflow, then version and champion.

Knows the order of the steps and how a rerun finishes or discards what an earlier process left. Reads no alias but the
first champion's.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select

from llmops.core.errors import ConflictError, IntegrityError, UserError
from llmops.core.ids import digest, new_id
from llmops.core.names import Name
from llmops.core.sql import Sql
from llmops.core.state import StateConfig
from llmops.registry import bootstrap, queries, tables
from llmops.registry.access.privileges import Privilege
from llmops.registry.access.securables import Securable
from llmops.registry.audit.log import Acting
from llmops.registry.authority import Authority
from llmops.registry.digest import Manifest, manifest
from llmops.registry.load import artefact
from llmops.registry.mlflow_adapter import Stored, local_path
from llmops.registry.projection import Stores
from llmops.registry.records import Alias, Candidate, Definition, Pointer, PromptText, SavedModel, Version

WAIT_S = 120.0
_ATTEMPTS = 3


@dataclass(frozen=True)
class Outcome:
    """A version, and the alias it got on the way: only ever the first champion's."""

    version: Version
    crowned: Alias | None


@dataclass(frozen=True)
class Making:
    """A candidate that MLflow holds already and the registry not yet."""

    candidate: Candidate
    identity: str
    registration: str
    stored: Stored
    crown_first: bool


@dataclass(frozen=True)
class Interrupted:
    """A registration whose process ended before its version was there."""

    registration_id: str
    name: str
    started_at: datetime

    def as_json(self) -> dict[str, str]:
        return {
            "registration_id": self.registration_id,
            "name": self.name,
            "started_at": self.started_at.isoformat(),
        }


class Registrar:
    """Takes candidates in; one at a time per asset and state folder, whichever process they come from."""

    def __init__(self, state: StateConfig, sql: Sql, stores: Stores, authority: Authority) -> None:
        self._state = state
        self._sql = sql
        self._stores = stores
        self._authority = authority
        self._actor = authority.actor
        self._place = f"{socket.gethostname()}:{state.root}"

    def register(self, candidate: Candidate, *, crown_first: bool = True) -> Outcome:
        """Give the candidate its version; the same name and digest again give the version there is.

        Args:
            crown_first: whether the asset's very first version becomes champion by that alone.

        Raises:
            UserError: the name belongs to an asset of another kind, or the artefact is unusable.
            DeniedError: the principal may not make this version.
            ConflictError: another process has been registering this asset for too long.
        """
        identity = self._identity(candidate)
        if known := self._known(candidate, identity):
            return Outcome(known, None)
        with self._alone(candidate.name):
            if known := self._known(candidate, identity):
                return Outcome(known, None)
            params = {"kind": candidate.kind.value, "digest": identity, "tags": candidate.tags}
            with self._authority.acting("create", candidate.name, params) as acting:
                with self._sql.read() as connection:
                    self._require(connection, candidate.name)
                return self._register(candidate, identity, acting, crown_first=crown_first)

    def sweep(self, *, plan: bool) -> list[Interrupted]:
        """Discard what interrupted registrations left here, and say which they were; with `plan`, only say it."""
        with self._sql.read() as connection:
            open_here = select(tables.registrations.c.name).where(tables.registrations.c.place == self._place)
            names = sorted(set(connection.execute(open_here).scalars()))
        found: list[Interrupted] = []
        for name in map(Name.parse, names):
            with suppress(ConflictError), self._alone(name, wait_s=0):  # a held lock: it is running, not interrupted
                for row in self._abandoned(name):
                    found.append(Interrupted(row.registration_id, row.name, row.started_at))
                    if not plan:
                        self._discard(row)
        return found

    def _identity(self, candidate: Candidate) -> str:
        """The digest that the version will have."""
        match candidate.artifact:
            case PromptText(text) | Definition(text):
                return _text_digest(candidate, text)
            case SavedModel(uri) if candidate.digest is None:
                catalog = candidate.name.catalog
                with artefact(self._stores(catalog).locate(uri), self._state, catalog) as folder:
                    return manifest(folder).digest
        assert candidate.digest is not None  # the candidate saw to it
        return candidate.digest

    def _require(self, connection: Connection, name: Name) -> None:
        if queries.kind_of(connection, name) is None:
            self._authority.require(connection, Privilege.CREATE_MODEL, Securable((name.catalog, name.schema)))
        else:
            self._authority.require(connection, Privilege.CREATE_MODEL_VERSION, name)

    def _register(self, candidate: Candidate, identity: str, acting: Acting, *, crown_first: bool) -> Outcome:
        registration, stored = new_id(), None
        store = self._stores(candidate.name.catalog)
        for row in self._abandoned(candidate.name):
            found = store.find(candidate.name, row.registration_id) if row.digest == identity else None
            if found is not None and stored is None:
                registration, stored = row.registration_id, found
            else:
                self._discard(row)
        if stored is None:
            self._intend(candidate, identity, registration)
            try:
                stored = store.store(candidate, digest=identity, registration=registration)
            except UserError:
                self._undo(candidate.name, registration, store.find(candidate.name, registration))
                raise
        return self._finish(Making(candidate, identity, registration, stored, crown_first), acting)

    def _finish(self, making: Making, acting: Acting) -> Outcome:
        candidate, files = making.candidate, None
        if not isinstance(candidate.artifact, PromptText | Definition | Pointer):
            with artefact(making.stored.source, self._state, candidate.name.catalog) as folder:
                files = manifest(folder)
        self._require_files(making, files)
        for attempt in range(1, _ATTEMPTS + 1):
            known = self._known(candidate, making.identity)
            try:
                if known is not None:  # registered meanwhile, from another machine
                    self._undo(candidate.name, making.registration, making.stored)
                    return Outcome(known, None)
                return self._commit(making, files, acting)
            except ConflictError:
                if attempt == _ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    def _require_files(self, making: Making, files: Manifest | None) -> None:
        wanted, found = making.candidate.files_digest, files.digest if files else None
        if wanted not in (None, found):
            self._undo(making.candidate.name, making.registration, making.stored)
            raise IntegrityError("the stored artefact is not the one that was meant", where=str(making.candidate.name))

    def _commit(self, making: Making, files: Manifest | None, acting: Acting) -> Outcome:
        """The one transaction that makes the version exist: row, end of the intent, the first champion, the record."""
        candidate, stored, now = making.candidate, making.stored, datetime.now(UTC)
        text = candidate.artifact.text if isinstance(candidate.artifact, PromptText | Definition) else None
        with self._sql.begin() as connection:
            self._require(connection, candidate.name)
            if queries.kind_of(connection, candidate.name) is None:
                connection.execute(
                    insert(tables.assets).values(
                        name=str(candidate.name), kind=candidate.kind.value, created_at=now, created_by=self._actor
                    )
                )
            _require_free(connection, candidate.name, stored.number)
            connection.execute(
                insert(tables.versions).values(
                    name=str(candidate.name),
                    version=stored.number,
                    digest=making.identity,
                    artifact_digest=files.digest if files else None,
                    files=files.as_rows() if files else None,
                    source=_relative(stored.source, self._state.root),
                    content=text,
                    description=candidate.description,
                    tags=candidate.tags,
                    params=candidate.params,
                    created_at=now,
                    created_by=self._actor,
                )
            )
            connection.execute(_without(making.registration))
            version = queries.version(connection, candidate.name, stored.number)
            crowned = None
            if making.crown_first and self._authority.allows(connection, Privilege.MANAGE, candidate.name):
                crowned = bootstrap.crown(connection, version, actor=self._actor)
            made = queries.version(connection, candidate.name, stored.number)
            acting.concluded(
                connection,
                result={"version": made.version, "aliases": list(made.aliases)},
                evidence_id=crowned.evidence_id if crowned else None,
            )
            return Outcome(made, crowned)

    def _known(self, candidate: Candidate, identity: str) -> Version | None:
        with self._sql.read() as connection:
            kind = queries.kind_of(connection, candidate.name)
            if kind is not None and kind is not candidate.kind:
                raise UserError(
                    f"`{candidate.name}` is {kind.noun}, not {candidate.kind.noun}",
                    hint="give the new asset a name of its own",
                )
            return queries.by_digest(connection, candidate.name, identity)

    def _intend(self, candidate: Candidate, identity: str, registration: str) -> None:
        with self._sql.begin() as connection:
            connection.execute(
                insert(tables.registrations).values(
                    registration_id=registration,
                    name=str(candidate.name),
                    kind=candidate.kind.value,
                    digest=identity,
                    place=self._place,
                    started_at=datetime.now(UTC),
                    started_by=self._actor,
                )
            )

    def _abandoned(self, name: Name) -> list[Row[Any]]:
        """Open registrations that this place's lock, which we hold, proves dead; another place's are left to it."""
        with self._sql.read() as connection:
            columns = tables.registrations.c
            query = select(tables.registrations).where(columns.name == str(name), columns.place == self._place)
            return list(connection.execute(query.order_by(columns.registration_id)))

    def _discard(self, row: Row[Any]) -> None:
        name = Name.parse(row.name)
        found = self._stores(name.catalog).find(name, row.registration_id)
        self._undo(name, row.registration_id, found)

    def _undo(self, name: Name, registration: str, stored: Stored | None) -> None:
        store = self._stores(name.catalog)
        if stored is not None:
            store.delete(name, stored)
        store.discard(registration)
        with self._sql.begin() as connection:
            connection.execute(_without(registration))

    @contextmanager
    def _alone(self, name: Name, *, wait_s: float = WAIT_S) -> Iterator[None]:
        """Wait for, then hold, the asset's lock; the kernel frees it when its process dies."""
        path = self._state.root / "registry" / f"{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            deadline = time.monotonic() + wait_s
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise ConflictError(
                            "another process is already registering this asset",
                            where=str(name),
                            hint="wait for it to end, then run again",
                        ) from None
                    time.sleep(0.05)
            yield
        finally:
            os.close(descriptor)


def _text_digest(candidate: Candidate, text: str) -> str:
    found = digest(text)
    if candidate.digest not in (None, found):
        what = f"the digest of {candidate.kind.noun} is the SHA-256 of its text"
        raise UserError(what, where=str(candidate.name), hint="leave it out")
    return found


def _require_free(connection: Connection, name: Name, number: int) -> None:
    taken = select(tables.versions.c.digest).where(
        tables.versions.c.name == str(name), tables.versions.c.version == number
    )
    if connection.execute(taken).first() is not None:
        raise IntegrityError(
            f"MLflow gave the number {number}, which is already registered: its store is not the one it was",
            where=str(name),
            hint="restore MLflow's store from the same backup as the state, or start an empty state folder",
        )


def _without(registration: str) -> Any:
    return delete(tables.registrations).where(tables.registrations.c.registration_id == registration)


def _relative(source: str, root: Path) -> str:
    """A place inside the state folder is written down relative to it, so that the folder may move."""
    path = local_path(source) if source else None
    if path is not None and path.is_relative_to(root):
        return path.relative_to(root).as_posix()
    return source
