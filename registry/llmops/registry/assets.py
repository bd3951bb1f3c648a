"""The registry's door: register, list, resolve and load versions, and move their aliases with evidence.

Knows which room does what. Reading imports no MLflow: it is one SELECT on the own state.
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any

from llmops.core.chain import Chain
from llmops.core.errors import IntegrityError, UserError
from llmops.core.ids import digest
from llmops.core.names import Name, Ref
from llmops.core.sql import Sql, open_sql
from llmops.core.state import StateConfig
from llmops.registry import aliases, evidence, projection, queries
from llmops.registry import load as loading
from llmops.registry.aliases import Move, Moved
from llmops.registry.evidence import Evidence
from llmops.registry.mlflow_adapter import MlflowStore
from llmops.registry.projection import Difference
from llmops.registry.records import Alias, Asset, Candidate, Kind, Version
from llmops.registry.registration import Registrar


class Registry:
    """Everything that changes behaviour, by name and version. Thread-safe; close it, or use it as a context manager."""

    def __init__(self, state: StateConfig, *, actor: str = "local") -> None:
        self._state = state
        self._sql: Sql = open_sql(state)
        self._store = MlflowStore(state)
        self._actor = actor

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._sql.close()

    def register(self, candidate: Candidate) -> Version:
        """Give a candidate its version; the same name and digest again give the version there is, quickly.

        The very first version of an asset becomes its champion; a later one never moves an alias.

        Raises:
            UserError: the name belongs to another kind, or the artefact is unusable.
            ConflictError: another process has been registering this asset for two minutes.
        """
        outcome = Registrar(self._state, self._sql, self._store, actor=self._actor).register(candidate)
        if outcome.crowned is not None:
            projection.write(self._store, outcome.crowned, candidate.kind)
        return outcome.version

    def find(self, name: Name, digest: str) -> Version | None:
        """The version of this content, None where it is not registered."""
        with self._sql.read() as connection:
            return queries.by_digest(connection, name, digest)

    def list(self, kind: Kind | None = None) -> list[Asset]:
        """Every asset, by name."""
        with self._sql.read() as connection:
            return queries.assets(connection, kind=kind)

    def show(self, name: Name | str) -> Asset:
        """One asset.

        Raises:
            NotFoundError: names the nearest.
        """
        with self._sql.read() as connection:
            return queries.require_asset(connection, _name(name))

    def versions(self, name: Name | str | None = None, kind: Kind | None = None) -> builtins.list[Version]:
        """Every version of an asset, newest first; without a name, of every asset.

        Raises:
            NotFoundError: no such asset.
        """
        with self._sql.read() as connection:
            if name is not None:
                queries.require_asset(connection, _name(name))
            return queries.versions(connection, kind=kind, name=None if name is None else _name(name))

    def resolve(self, ref: Ref | str) -> Version:
        """The version that `name/3`, `name@champion` or a bare name (its champion) picks now.

        Raises:
            NotFoundError: no such asset, version or alias; names the nearest.
        """
        with self._sql.read() as connection:
            return queries.resolve(connection, Ref.parse(ref) if isinstance(ref, str) else ref)

    def load_chain(self, ref: Ref | str | Version) -> Chain:
        """Load a chain. Its files are verified before any of it runs; `close` it afterwards.

        Raises:
            NotFoundError: as `resolve`.
            UserError: it is of a kind that does not answer.
            IntegrityError: its files are not what was registered; nothing of them was run.
        """
        version = ref if isinstance(ref, Version) else self.resolve(ref)
        if version.kind not in (Kind.CHAIN, Kind.MODEL, Kind.LLM):
            raise UserError(f"`{version.ref}` is a {version.kind.value}: it does not answer", where=str(version.ref))
        with self._sql.read() as connection:
            recorded = queries.recorded(connection, version)
        return loading.load_chain(version, recorded, self._state)

    def load_model(self, ref: Ref | str | Version) -> Any:
        """Load a classic model as an `mlflow.pyfunc.PyFuncModel`, verified before any of it runs.

        Raises:
            NotFoundError: as `resolve`.
            IntegrityError: its files are not what was registered; nothing of them was run.
        """
        version = ref if isinstance(ref, Version) else self.resolve(ref)
        with self._sql.read() as connection:
            recorded = queries.recorded(connection, version)
        return loading.load_model(version, recorded, self._state)

    def load_prompt(self, ref: Ref | str | Version) -> str:
        """A prompt's text, without MLflow.

        Raises:
            IntegrityError: the text is not what was registered.
        """
        version = ref if isinstance(ref, Version) else self.resolve(ref)
        with self._sql.read() as connection:
            text = queries.content(connection, version)
        if text is None:
            raise UserError(f"`{version.ref}` is a {version.kind.value}, not a prompt", where=str(version.ref))
        if digest(text) != version.digest:
            raise IntegrityError("the prompt's text is not what was registered", where=str(version.ref))
        return text

    def alias(self, name: Name | str, alias: str) -> Alias | None:
        """Who holds an alias now, with the etag that a move must pass back; None where nobody does."""
        with self._sql.read() as connection:
            return aliases.read(connection, _name(name), alias)

    def point(self, alias: str, ref: Ref | str, record: Evidence, *, etag: str | None) -> Alias:
        """Point an alias of the reference's asset to its version, for the reason that the evidence gives.

        Args:
            etag: the alias's as last read; None where it is new.

        Raises:
            ConflictError: somebody moved it first.
            UserError: the evidence does not pass, or speaks of another version.
        """
        version = self.resolve(ref)
        with self._sql.begin() as connection:
            evidence_id = evidence.save(connection, record)
            moves = [Move(version.name, alias, version.version, etag, evidence_id)]
            moved = aliases.move(connection, moves, actor=self._actor)[0]
        projection.write(self._store, moved, version.kind)
        return moved

    def move(self, moves: Sequence[Move]) -> builtins.list[Alias]:
        """Move several aliases in one transaction: all, or none where one was moved first by another.

        Raises:
            ConflictError: somebody moved one of them first.
        """
        with self._sql.begin() as connection:
            moved = aliases.move(connection, moves, actor=self._actor)
        for alias in moved:
            projection.write(self._store, alias, self.show(alias.name).kind)
        return moved

    def history(self, name: Name | str, alias: str | None = None) -> builtins.list[Moved]:
        """Every move of an asset's aliases, newest first."""
        with self._sql.read() as connection:
            return aliases.history(connection, _name(name), alias)

    def add_evidence(self, record: Evidence) -> str:
        """File a record; gives its id."""
        with self._sql.begin() as connection:
            return evidence.save(connection, record)

    def evidence(self, version: Version) -> builtins.list[Evidence]:
        """Every record about a version, oldest first, each checked against its digest."""
        with self._sql.read() as connection:
            return evidence.of_version(connection, version)

    def repair(self, *, plan: bool = False) -> builtins.list[Difference]:
        """Put MLflow's copies of the aliases right, and say what differed; with `plan`, only say it."""
        return projection.repair(self._sql, self._store, plan=plan)


def _name(name: Name | str) -> Name:
    return Name.parse(name) if isinstance(name, str) else name
