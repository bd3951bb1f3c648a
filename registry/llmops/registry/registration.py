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
from contextlib import contextmanager
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
from llmops.registry.digest import Manifest, manifest
from llmops.registry.load import artefact
from llmops.registry.mlflow_adapter import MlflowStore, Stored, local_path
from llmops.registry.records import Alias, Candidate, Pointer, PromptText, Version

WAIT_S = 120.0
_ATTEMPTS = 3


@dataclass(frozen=True)
class Outcome:
    """A version, and the alias it got on the way: only ever the first champion's."""

    version: Version
    crowned: Alias | None


class Registrar:
    """Takes candidates in; one at a time per asset and state folder, whichever process they come from."""

    def __init__(self, state: StateConfig, sql: Sql, store: MlflowStore, *, actor: str) -> None:
        self._state = state
        self._sql = sql
        self._store = store
        self._actor = actor
        self._place = f"{socket.gethostname()}:{state.root}"

    def register(self, candidate: Candidate) -> Outcome:
        """Give the candidate its version; the same name and digest again give the version there is.

        Raises:
            UserError: the name belongs to an asset of another kind, or the artefact is unusable.
            ConflictError: another process has been registering this asset for too long.
        """
        identity = candidate.digest
        if isinstance(candidate.artifact, PromptText):
            identity = _prompt_digest(candidate, candidate.artifact)
        if identity and (known := self._known(candidate, identity)):
            return Outcome(known, None)
        with self._alone(candidate.name):
            if identity and (known := self._known(candidate, identity)):
                return Outcome(known, None)
            return self._register(candidate, identity)

    def sweep(self, name: Name) -> list[str]:
        """Discard what interrupted registrations of this asset left; gives their ids."""
        with self._alone(name):
            return [row.registration_id for row in self._abandoned(name) if self._discard(row)]

    def _register(self, candidate: Candidate, identity: str | None) -> Outcome:
        registration, stored = new_id(), None
        for row in self._abandoned(candidate.name):
            found = self._store.find(candidate.name, row.registration_id) if row.digest == identity else None
            if found is not None and stored is None:
                registration, stored = row.registration_id, found
            else:
                self._discard(row)
        if stored is None:
            self._intend(candidate, identity or "", registration)
            try:
                stored = self._store.store(candidate, digest=identity, registration=registration)
            except UserError:
                self._undo(candidate.name, registration, self._store.find(candidate.name, registration))
                raise
        return self._finish(candidate, identity, registration, stored)

    def _finish(self, candidate: Candidate, identity: str | None, registration: str, stored: Stored) -> Outcome:
        files = None
        if not isinstance(candidate.artifact, PromptText | Pointer):
            with artefact(stored.source, self._state) as folder:
                files = manifest(folder)
        identity = identity or (files.digest if files else "")
        for attempt in range(1, _ATTEMPTS + 1):
            known = self._known(candidate, identity)
            try:
                if known is not None:  # registered meanwhile, from another machine or under its files' digest
                    self._undo(candidate.name, registration, stored)
                    return Outcome(known, None)
                return self._commit(candidate, identity, registration, stored, files)
            except ConflictError:
                if attempt == _ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    def _commit(
        self, candidate: Candidate, identity: str, registration: str, stored: Stored, files: Manifest | None
    ) -> Outcome:
        """The one transaction that makes the version exist: row, end of the intent, and the first champion."""
        now, text = datetime.now(UTC), candidate.artifact.text if isinstance(candidate.artifact, PromptText) else None
        with self._sql.begin() as connection:
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
                    digest=identity,
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
            connection.execute(_without(registration))
            version = queries.version(connection, candidate.name, stored.number)
            crowned = bootstrap.crown(connection, version, actor=self._actor)
            return Outcome(queries.version(connection, candidate.name, stored.number), crowned)

    def _known(self, candidate: Candidate, identity: str) -> Version | None:
        with self._sql.read() as connection:
            kind = queries.kind_of(connection, candidate.name)
            if kind not in (None, candidate.kind):
                raise UserError(
                    f"`{candidate.name}` is a {kind.value if kind else ''}, not a {candidate.kind.value}",
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

    def _discard(self, row: Row[Any]) -> bool:
        name = Name.parse(row.name)
        stored = self._store.find(name, row.registration_id)
        self._undo(name, row.registration_id, stored)
        return True

    def _undo(self, name: Name, registration: str, stored: Stored | None) -> None:
        if stored is not None:
            self._store.delete(name, stored.number)
        self._store.discard(registration)
        with self._sql.begin() as connection:
            connection.execute(_without(registration))

    @contextmanager
    def _alone(self, name: Name) -> Iterator[None]:
        """Wait for, then hold, the asset's lock; the kernel frees it when its process dies."""
        path = self._state.root / "registry" / f"{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            deadline = time.monotonic() + WAIT_S
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


def _prompt_digest(candidate: Candidate, prompt: PromptText) -> str:
    found = digest(prompt.text)
    if candidate.digest not in (None, found):
        raise UserError("a prompt's digest is the SHA-256 of its text", where=str(candidate.name), hint="leave it out")
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
