"""The registry's reading room: what is there, who holds which alias, and what is known about each version.

Reads rows, as the principal may see them. Imports no MLflow, but for a run's metrics; opens no artefact.
"""

from __future__ import annotations

import builtins
import re

from sqlalchemy import Connection

from llmops.core.errors import NotFoundError, UserError
from llmops.core.names import Name, Ref
from llmops.registry import aliases, evidence, lineage, queries
from llmops.registry.access import EVERYTHING, Privilege, Securable
from llmops.registry.aliases import Moved
from llmops.registry.audit import Entry, Wanted
from llmops.registry.evidence import Evidence, Filed
from llmops.registry.ground import Ground, parsed
from llmops.registry.lineage import Found
from llmops.registry.records import Alias, Asset, Kind, Version


class Catalogue(Ground):
    """Everything that one can look up."""

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
            self._seen(connection, parsed(name))
            return queries.require_asset(connection, parsed(name))

    def versions(self, name: Name | str | None = None, kind: Kind | None = None) -> builtins.list[Version]:
        """Every version of an asset, newest first; without a name, of every asset that the principal may know of.

        Raises:
            NotFoundError: no such asset.
        """
        with self._sql.read() as connection:
            if name is not None:
                self._seen(connection, parsed(name))
                queries.require_asset(connection, parsed(name))
            found = queries.versions(connection, kind=kind, name=None if name is None else parsed(name))
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

    def alias(self, name: Name | str, alias: str) -> Alias | None:
        """Who holds an alias now, with the etag that a move must pass back; None where nobody does."""
        with self._sql.read() as connection:
            self._seen(connection, parsed(name), missing_ok=True)
            return aliases.read(connection, parsed(name), alias)

    def history(self, name: Name | str, alias: str | None = None) -> builtins.list[Moved]:
        """Every move of an asset's aliases, newest first."""
        with self._sql.read() as connection:
            self._seen(connection, parsed(name), missing_ok=True)
            return aliases.history(connection, parsed(name), alias)

    def lineage(self, node: Ref | str, *, impact: bool = False) -> builtins.list[Found]:
        """What a node was made of, nearest first; with `impact`, what rests on it.

        Raises:
            NotFoundError: no such version, and no edge knows such a node.
        """
        with self._sql.read() as connection:
            start = self._node(connection, str(node))
            return lineage.impact(connection, start) if impact else lineage.sources(connection, start)

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

    def file_digests(self, version: Version) -> dict[str, str]:
        """The digest of each file a version was registered with; empty where it has none."""
        with self._sql.read() as connection:
            self._seen(connection, version.name)
            recorded = queries.recorded(connection, version)
        return {} if recorded is None else {file.path: file.sha256 for file in recorded.files}

    def metrics(self, version: Version) -> dict[str, float]:
        """What the run that made a version measured; empty where no run is known."""
        with self._sql.read() as connection:
            self._seen(connection, version.name)
            run = lineage.run_of(connection, version.ref)
        return {} if run is None else self._store(run.catalog).metrics(run.run_id)

    def read_audit(self, wanted: Wanted) -> builtins.list[Entry]:
        """Rows of the audit log, newest first.

        Raises:
            DeniedError: the principal lacks MANAGE on what they are about.
        """
        place = _place(wanted.about)
        self.authority.require_to_read(self._sql, Privilege.MANAGE, "read_audit", wanted.about or "*", place)
        return self.audit.read(wanted)

    def _node(self, connection: Connection, node: str) -> str:
        """A node's own name: a reference names the version that it picks now."""
        if ":" not in node:
            ref = Ref.parse(node)
            self._seen(connection, ref.name)
            return str(queries.resolve(connection, ref).ref)
        if not lineage.exists(connection, node):
            raise NotFoundError(f"no version was made of `{node}`", hint="see `llmops models lineage REF` for nodes")
        return node


def _place(about: str | None) -> Securable:
    """What one has to manage to read about this; what is no place of the tree is about everything."""
    try:
        return Securable.of(re.split("[/@]", about)[0]) if about else EVERYTHING
    except UserError:
        return EVERYTHING
