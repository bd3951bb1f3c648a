"""The registry's door: register, list, resolve and load versions, and move their aliases with evidence.

Knows which room does what, and that nobody changes anything unasked or unseen: each change goes through the principal's
authority. Reading imports no MLflow: it is a few SELECTs on the own state.
"""

from __future__ import annotations

import builtins
import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from llmops.core.chain import Chain
from llmops.core.errors import IntegrityError, NotFoundError, UserError
from llmops.core.identity import LOCAL, Principal
from llmops.core.ids import digest
from llmops.core.names import Name, Ref
from llmops.core.sql import Sql, open_sql
from llmops.core.state import StateConfig
from llmops.registry import aliases, evidence, lineage, projection, queries, version_tags
from llmops.registry import load as loading
from llmops.registry.access import EVERYTHING, Access, Grants, Privilege, Securable
from llmops.registry.aliases import Move, Moved
from llmops.registry.audit import Audit, Entry, Origin, Wanted
from llmops.registry.authority import Authority
from llmops.registry.evidence import Evidence, Filed
from llmops.registry.lineage import Edge, Found, Relation
from llmops.registry.mlflow_adapter import MlflowStore
from llmops.registry.projection import Difference
from llmops.registry.records import Alias, Asset, Candidate, Kind, SavedModel, Version
from llmops.registry.registration import Interrupted, Registrar


@dataclass(frozen=True)
class Repairs:
    """What was found wrong beside the record."""

    aliases: builtins.list[Difference]
    registrations: builtins.list[Interrupted]
    actions: builtins.list[Entry]

    def as_json(self) -> dict[str, Any]:
        return {
            "aliases": [difference.as_json() for difference in self.aliases],
            "registrations": [interrupted.as_json() for interrupted in self.registrations],
            "actions": [intent.as_json() for intent in self.actions],
        }


class Registry:
    """Everything that changes behaviour, by name and version. Thread-safe; close it, or use it as a context manager.

    Args:
        principal: who reads and acts through it.
        origin: where they come from, for the audit log; default: this process.
    """

    def __init__(self, state: StateConfig, *, principal: Principal = LOCAL, origin: Origin | None = None) -> None:
        self._state = state
        self._sql: Sql = open_sql(state)
        self.authority = Authority(principal, Access(state), Audit(self._sql, state, origin=origin))

    @property
    def state(self) -> StateConfig:
        """Where it keeps things."""
        return self._state

    @property
    def actor(self) -> str:
        """The principal as rows name it."""
        return self.authority.actor

    @property
    def sql(self) -> Sql:
        """The own state, for the rooms of the registry that keep tables of their own."""
        return self._sql

    @property
    def audit(self) -> Audit:
        return self.authority.audit

    @property
    def grants(self) -> Grants:
        """Who may do what, as this principal may change it."""
        return Grants(self._sql, self.authority)

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.audit.close()
        self._sql.close()

    def in_name_of(self, principal: Principal, origin: Origin) -> Registry:
        """The same registry as another may read and change it, on this one's connections; only this one is closed."""
        other = copy.copy(self)
        other.authority = Authority(principal, self.authority.access, self.authority.audit, origin)
        return other

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

    def find(self, name: Name, digest: str) -> Version | None:
        """The version of this content, None where it is not registered."""
        with self._sql.read() as connection:
            seen = self.authority.rights(connection, near=name).sees(Securable.of(name))
            return queries.by_digest(connection, name, digest) if seen else None

    def list(self, kind: Kind | None = None) -> list[Asset]:
        """Every asset that the principal may know of, by name."""
        with self._sql.read() as connection:
            rights = self.authority.rights(connection)
            found = queries.assets(connection, kind=kind)
            return [asset for asset in found if rights.sees(Securable.of(asset.name))] if rights.enforced else found

    def show(self, name: Name | str) -> Asset:
        """One asset.

        Raises:
            NotFoundError: names the nearest.
        """
        with self._sql.read() as connection:
            self._seen(connection, _name(name))
            return queries.require_asset(connection, _name(name))

    def versions(self, name: Name | str | None = None, kind: Kind | None = None) -> builtins.list[Version]:
        """Every version of an asset, newest first; without a name, of every asset that the principal may know of.

        Raises:
            NotFoundError: no such asset.
        """
        with self._sql.read() as connection:
            if name is not None:
                self._seen(connection, _name(name))
                queries.require_asset(connection, _name(name))
            found = queries.versions(connection, kind=kind, name=None if name is None else _name(name))
            rights = self.authority.rights(connection)
            if not rights.enforced or name is not None:
                return found
            seen = {each: rights.sees(Securable.of(each)) for each in {version.name for version in found}}
            return [version for version in found if seen[version.name]]

    def resolve(self, ref: Ref | str) -> Version:
        """The version that `name/3`, `name@champion` or a bare name (its champion) picks now.

        Raises:
            NotFoundError: no such asset, version or alias; names the nearest.
        """
        wanted = Ref.parse(ref) if isinstance(ref, str) else ref
        with self._sql.read() as connection:
            self._seen(connection, wanted.name)
            return queries.resolve(connection, wanted)

    def load_chain(self, ref: Ref | str | Version) -> Chain:
        """Load a chain. Its files are verified before any of it runs; `close` it afterwards.

        Raises:
            NotFoundError: as `resolve`.
            DeniedError: the principal lacks EXECUTE.
            UserError: it is of a kind that does not answer.
            IntegrityError: its files are not what was registered; nothing of them was run.
        """
        version = ref if isinstance(ref, Version) else self.resolve(ref)
        if not version.kind.answers and version.kind is not Kind.MODEL:
            raise UserError(f"`{version.ref}` is {version.kind.noun}: it does not answer", where=str(version.ref))
        self._require_execute(version)
        with self._sql.read() as connection:
            recorded = queries.recorded(connection, version)
        return loading.load_chain(version, recorded, self._state)

    def load_model(self, ref: Ref | str | Version) -> Any:
        """Load a classic model as an `mlflow.pyfunc.PyFuncModel`, verified before any of it runs.

        Raises:
            NotFoundError: as `resolve`.
            DeniedError: the principal lacks EXECUTE.
            IntegrityError: its files are not what was registered; nothing of them was run.
        """
        version = ref if isinstance(ref, Version) else self.resolve(ref)
        self._require_execute(version)
        with self._sql.read() as connection:
            recorded = queries.recorded(connection, version)
        return loading.load_model(version, recorded, self._state)

    def files(self, ref: Ref | str | Version) -> Path:
        """A private copy of a version's files, equal to the record to the byte; nothing of them is run.

        Raises:
            NotFoundError: as `resolve`, or the artefact is gone.
            DeniedError: the principal lacks EXECUTE.
            IntegrityError: its files are not what was registered.
            UserError: it has no files of its own (a prompt, an index).
        """
        version = ref if isinstance(ref, Version) else self.resolve(ref)
        self._require_execute(version)
        with self._sql.read() as connection:
            recorded = queries.recorded(connection, version)
        return loading.verified(version, recorded, self._state)

    def file_digests(self, version: Version) -> dict[str, str]:
        """The digest of each file a version was registered with; empty where it has none."""
        with self._sql.read() as connection:
            self._seen(connection, version.name)
            recorded = queries.recorded(connection, version)
        return {} if recorded is None else {file.path: file.sha256 for file in recorded.files}

    def load_prompt(self, ref: Ref | str | Version) -> str:
        """A prompt's text, without MLflow.

        Raises:
            DeniedError: the principal lacks EXECUTE.
            IntegrityError: the text is not what was registered.
        """
        return self._text(ref, Kind.PROMPT)

    def load_definition(self, ref: Ref | str | Version, kind: Kind) -> str:
        """The JSON that a route or a judge is, without MLflow.

        Raises:
            DeniedError: the principal lacks EXECUTE.
            UserError: it is of another kind.
            IntegrityError: the text is not what was registered.
        """
        return self._text(ref, kind)

    def _text(self, ref: Ref | str | Version, kind: Kind) -> str:
        version = ref if isinstance(ref, Version) else self.resolve(ref)
        self._require_execute(version)
        with self._sql.read() as connection:
            text = queries.content(connection, version)
        if text is None or version.kind is not kind:
            raise UserError(f"`{version.ref}` is {version.kind.noun}, not {kind.noun}", where=str(version.ref))
        if digest(text) != version.digest:
            raise IntegrityError(f"the {kind.value}'s text is not what was registered", where=str(version.ref))
        return text

    def alias(self, name: Name | str, alias: str) -> Alias | None:
        """Who holds an alias now, with the etag that a move must pass back; None where nobody does."""
        with self._sql.read() as connection:
            self._seen(connection, _name(name), missing_ok=True)
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

    def history(self, name: Name | str, alias: str | None = None) -> builtins.list[Moved]:
        """Every move of an asset's aliases, newest first."""
        with self._sql.read() as connection:
            self._seen(connection, _name(name), missing_ok=True)
            return aliases.history(connection, _name(name), alias)

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

    def lineage(self, node: Ref | str, *, impact: bool = False) -> builtins.list[Found]:
        """What a node was made of, nearest first; with `impact`, what rests on it.

        Raises:
            NotFoundError: no such version, and no edge knows such a node.
        """
        with self._sql.read() as connection:
            start = self._node(connection, str(node))
            return lineage.impact(connection, start) if impact else lineage.sources(connection, start)

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

    def evidence(self, version: Version) -> builtins.list[Evidence]:
        """Every record about a version, oldest first, each checked against its digest."""
        with self._sql.read() as connection:
            self._seen(connection, version.name)
            return evidence.of_version(connection, version)

    def filed_about(self, version: Version) -> builtins.list[Filed]:
        """Every record about a version as it lies there, oldest first: changed since or not."""
        with self._sql.read() as connection:
            self._seen(connection, version.name)
            return evidence.filed_about(connection, version)

    def filed_evidence(self, beginning: str) -> Filed:
        """The record whose id begins so, as it lies there: changed since or not.

        Raises:
            NotFoundError: there is none that the principal may know of, or more than one.
        """
        with self._sql.read() as connection:
            found = evidence.find(connection, beginning)
            self._seen(connection, Name.parse(found.name))
            return found

    def read_audit(self, wanted: Wanted) -> builtins.list[Entry]:
        """Rows of the audit log, newest first.

        Raises:
            DeniedError: the principal lacks MANAGE on what they are about.
        """
        place = _place(wanted.about)
        self.authority.require_to_read(self._sql, Privilege.MANAGE, "read_audit", wanted.about or "*", place)
        return self.audit.read(wanted)

    def repair(self, *, plan: bool = False) -> Repairs:
        """Put right what interruptions and others left: MLflow's aliases, registrations, actions without an outcome.

        With `plan` it only says what it would do.

        Raises:
            DeniedError: the principal lacks MANAGE on an asset whose copy is to be put right.
        """
        found = projection.differences(self._sql, self._store)
        if found and not plan:
            with self.authority.acting("repair", "*", {"aliases": [each.as_json() for each in found]}):
                with self._sql.read() as connection:
                    for name in sorted({difference.name for difference in found}):
                        self.authority.require(connection, Privilege.MANAGE, name)
                for difference in found:
                    projection.mend(self._store, difference)
        if not plan:
            with self._sql.read() as connection:
                behind = projection.lagging(connection)
            for lagging in behind:
                self.mirror(lagging)
        left = self.audit.left_open() if plan else self.audit.recover()
        return Repairs(found, self._registrar().sweep(plan=plan), left)

    def mirror(self, name: Name) -> bool:
        """Bring MLflow's copies of an asset's aliases and tags up to the record; gives whether they are."""
        return projection.follow(self._sql, self._store(name.catalog), name)

    def _link_run(self, version: Version, uri: str) -> None:
        """Note the run a saved model came from, its data sets and its code; once, also after a kill."""
        with self._sql.read() as connection:
            if lineage.has(connection, str(version.ref), Relation.RUN):
                return
        origin = self._store(version.name.catalog).origin(uri)
        if origin is not None:
            self.link(lineage.of_run(version.ref, origin.run_id, origin.datasets, origin.revision))

    def metrics(self, version: Version) -> dict[str, float]:
        """What the run that made a version measured; empty where no run is known."""
        with self._sql.read() as connection:
            self._seen(connection, version.name)
            run = lineage.run_of(connection, version.ref)
        return {} if run is None else self._store(run.catalog).metrics(run.run_id)

    def _unknown(self, edges: Sequence[Edge]) -> builtins.list[Edge]:
        with self._sql.read() as connection:
            return [edge for edge in edges if not lineage.known(connection, edge)]

    def _node(self, connection: Connection, node: str) -> str:
        """A node's own name: a reference names the version that it picks now."""
        if ":" not in node:
            ref = Ref.parse(node)
            self._seen(connection, ref.name)
            return str(queries.resolve(connection, ref).ref)
        if not lineage.exists(connection, node):
            raise NotFoundError(f"no version was made of `{node}`", hint="see `llmops models lineage REF` for nodes")
        return node

    def _store(self, catalog: str) -> MlflowStore:
        return MlflowStore(self._state, catalog)

    def _registrar(self) -> Registrar:
        return Registrar(self._state, self._sql, self._store, self.authority)

    def _require_execute(self, version: Version) -> None:
        self.authority.require_to_read(self._sql, Privilege.EXECUTE, "load", version.ref, version.name)

    def _seen(self, connection: Connection, name: Name, *, missing_ok: bool = False) -> None:
        """Speak of an asset that the principal may not know of as of one that is not there."""
        rights = self.authority.rights(connection, near=name)
        if not rights.enforced or (missing_ok and rights.sees(Securable.of(name))):
            return
        if not rights.sees(Securable.of(name)) or queries.kind_of(connection, name) is None:
            everywhere = self.authority.rights(connection)
            known = [str(each.name) for each in queries.assets(connection) if everywhere.sees(Securable.of(each.name))]
            raise queries.unknown_asset(name, known)


def _at(step: Move) -> str:
    return f"{step.name}@{step.alias}"


def _about(moves: Sequence[Move]) -> str:
    """What moves are about: the alias, or the asset of several; the record finds an action by it."""
    names = sorted({str(step.name) for step in moves})
    return _at(moves[0]) if len(moves) == 1 else ", ".join(names)


def _place(about: str | None) -> Securable:
    """What one has to manage to read about this; what is no place of the tree is about everything."""
    try:
        return Securable.of(re.split("[/@]", about)[0]) if about else EVERYTHING
    except UserError:
        return EVERYTHING


def _name(name: Name | str) -> Name:
    return Name.parse(name) if isinstance(name, str) else name
