"""The registry's door: register versions, and change what is known of them, with evidence and on record.

Knows that nobody changes anything unasked or unseen: each change goes through the principal's authority. Looking things
up is `catalogue`'s part, opening versions `opening`'s, putting right what went wrong `upkeep`'s.
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from pathlib import Path

from llmops.core.names import Name, Ref
from llmops.registry import aliases, evidence, lineage, projection, version_tags
from llmops.registry.access import Privilege
from llmops.registry.aliases import Move
from llmops.registry.evidence import Evidence
from llmops.registry.lineage import Edge, Relation
from llmops.registry.opening import Opening
from llmops.registry.records import Alias, Candidate, Kind, SavedModel, Version
from llmops.registry.registration import Registrar
from llmops.registry.upkeep import Repairs, Upkeep


class Registry(Opening):
    """Everything that changes behaviour, by name and version. Thread-safe; close it, or use it as a context manager.

    Args:
        principal: who reads and acts through it.
        origin: where they come from, for the audit log; default: this process.
    """

    def register(self, candidate: Candidate, *, crown_first: bool = True) -> Version:
        """Give a candidate its version; the same name and digest again give the version there is, quickly.

        The very first version of an asset becomes its champion, unless it is to go through the gates
        (`crown_first=False`); a later one never moves an alias.

        Raises:
            UserError: the name belongs to another kind, or the artefact is unusable.
            DeniedError: the principal lacks CREATE MODEL on the schema, or CREATE MODEL VERSION on the asset.
            ConflictError: another process has been registering this asset for two minutes.
        """
        outcome = self._registrar().register(candidate, crown_first=crown_first)
        if outcome.crowned is not None:
            self.mirror(candidate.name)
        if isinstance(candidate.artifact, SavedModel):
            self._link_run(outcome.version, candidate.artifact.uri)
        return outcome.version

    def point(self, alias: str, ref: Ref | str, record: Evidence, *, etag: str | None) -> Alias:
        """Point an alias of the reference's asset to its version, for the reason that the evidence gives.

        Args:
            etag: the alias's as last read; None where it is new.

        Raises:
            ConflictError: somebody moved it first.
            UserError: the evidence does not pass, or speaks of another version.
        """
        version = self.resolve(ref)
        about = f"{version.name}@{alias}"
        params = {"version": version.version, "evidence_id": record.evidence_id}
        with self.authority.acting("alias", about, params) as acting, self._sql.begin() as connection:
            self.authority.require_alias(connection, version.name, alias)
            evidence_id = evidence.save(connection, record)
            moves = [Move(version.name, alias, version.version, etag, evidence_id)]
            moved = aliases.move(connection, moves, actor=self.actor)[0]
            acting.concluded(connection, result={"etag": moved.etag}, evidence_id=evidence_id)
        self.mirror(version.name)
        return moved

    def move(self, moves: Sequence[Move]) -> builtins.list[Alias]:
        """Move several aliases in one transaction: all, or none where one was moved first by another.

        Raises:
            ConflictError: somebody moved one of them first.
            DeniedError: the principal may not move one of them.
        """
        told = [{"alias": _at(step), "version": step.version, "evidence_id": step.evidence_id} for step in moves]
        with self.authority.acting("alias", _about(moves), {"moves": told}) as acting, self._sql.begin() as connection:
            for step in moves:
                self.authority.require_alias(connection, step.name, step.alias)
            moved = aliases.move(connection, moves, actor=self.actor)
            acting.concluded(connection, evidence_id=moves[-1].evidence_id if moves else None)
        for name in sorted({step.name for step in moves}):
            self.mirror(name)
        return moved

    def tag(self, ref: Ref | str, key: str, value: str) -> Version:
        """Set a tag of a version, beside those it was registered with; gives the version as it is now.

        Raises:
            DeniedError: the principal lacks APPLY TAG on the asset.
            UserError: the tag is set by promotion alone.
        """
        version = self.resolve(ref)
        version_tags.require_free(version.ref, key)
        params = {"key": key, "value": value}
        with self.authority.acting("tag", version.ref, params) as acting, self._sql.begin() as connection:
            self.authority.require_writer(connection, version.name)
            self.authority.require(connection, Privilege.APPLY_TAG, version.name)
            version_tags.put(connection, version.ref, key, value, actor=self.actor)
            acting.concluded(connection)
        self.mirror(version.name)
        return self.resolve(version.ref)

    def link(self, edges: Sequence[Edge]) -> None:
        """Write down what versions were made of; an edge that is known stays as it is.

        Raises:
            DeniedError: the principal may not make versions of the asset that an edge leads into.
        """
        edges = self._unknown(edges)
        if not edges:
            return
        about, params = edges[0].downstream, {"edges": [edge.as_json() for edge in edges]}
        with self.authority.acting("link", about, params) as acting, self._sql.begin() as connection:
            for name in sorted({ref.name for edge in edges if (ref := lineage.version_in(edge.downstream))}):
                self.authority.require(connection, Privilege.CREATE_MODEL_VERSION, name)
            lineage.add(connection, edges, actor=self.actor)
            acting.concluded(connection)

    def attach(self, version: Version, folder: Path, place: str) -> bool:
        """Put a folder's files beside a version in MLflow, where a run made it; otherwise, and for prompts, do nothing.

        Raises:
            DeniedError: the principal lacks APPLY TAG on the asset.
        """
        self.authority.require_to_read(self._sql, Privilege.APPLY_TAG, "attach", version.ref, version.name)
        if version.kind is Kind.PROMPT:
            return False
        return self._store(version.name.catalog).attach(version.name, version.version, folder, place)

    def add_evidence(self, record: Evidence) -> str:
        """File a record; gives its id.

        Raises:
            DeniedError: the principal lacks APPLY TAG on the asset.
        """
        about = f"{record.asset.name}/{record.asset.version}"
        params = {"gate": record.gate, "verdict": record.verdict}
        with self.authority.acting("evidence", about, params) as acting, self._sql.begin() as connection:
            self.authority.require(connection, Privilege.APPLY_TAG, record.asset.name)
            evidence_id = evidence.save(connection, record)
            acting.concluded(connection, evidence_id=evidence_id)
        return evidence_id

    def repair(self, *, plan: bool = False) -> Repairs:
        """Put right what interruptions and others left: MLflow's copies, registrations, actions without an outcome.

        With `plan` it only says what it would do.

        Raises:
            DeniedError: the principal lacks MANAGE on an asset whose copy is to be put right.
        """
        upkeep = Upkeep(self._sql, self._store, self.authority, self._registrar())
        return upkeep.look() if plan else upkeep.mend()

    def mirror(self, name: Name) -> bool:
        """Bring MLflow's copies of an asset's aliases and tags up to the record; gives whether they are."""
        return projection.follow(self._sql, self._store(name.catalog), name)

    def _registrar(self) -> Registrar:
        return Registrar(self._state, self._sql, self._store, self.authority)

    def _link_run(self, version: Version, uri: str) -> None:
        """Note the run a saved model came from, its data sets and its code; once, also after a kill."""
        with self._sql.read() as connection:
            if lineage.has(connection, str(version.ref), Relation.RUN):
                return
        origin = self._store(version.name.catalog).origin(uri)
        if origin is not None:
            self.link(lineage.of_run(version.ref, origin.run_id, origin.datasets, origin.revision))

    def _unknown(self, edges: Sequence[Edge]) -> builtins.list[Edge]:
        with self._sql.read() as connection:
            return [edge for edge in edges if not lineage.known(connection, edge)]


def _at(step: Move) -> str:
    return f"{step.name}@{step.alias}"


def _about(moves: Sequence[Move]) -> str:
    """What moves are about: the alias, or the asset of several; the record finds an action by it."""
    names = sorted({str(step.name) for step in moves})
    return _at(moves[0]) if len(moves) == 1 else ", ".join(names)
