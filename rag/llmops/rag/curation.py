"""Deletes and restores documents of an index in somebody's name: under their rights, and on record.

It takes MANAGE on the index. Knows the registry's authority; what becomes of the documents is `ingest.documents`'.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llmops.core.errors import UserError
from llmops.core.names import Name

if TYPE_CHECKING:
    from llmops.core.identity import Principal
    from llmops.core.state import StateConfig
    from llmops.rag.ingest.documents import Deletion
    from llmops.rag.ingest.moving import Moved
    from llmops.registry.audit.entries import Origin
    from llmops.registry.authority import Authority

MOST = 1000
_REASON_CHARS = 500


@dataclass(frozen=True)
class Curator:
    """One principal over the indexes of a state folder.

    Args:
        origin: where the principal comes from; None: from where this process is.
    """

    state: StateConfig
    principal: Principal
    origin: Origin | None = None

    def delete(self, index: str, uris: Sequence[str], *, reason: str, plan: bool = False) -> Deletion:
        """See `ingest.documents.delete`.

        Raises:
            DeniedError: the principal lacks MANAGE on the index.
        """
        from llmops.rag.ingest import documents

        _check(uris, reason)
        with self._acting("delete_documents", index, {"documents": list(uris), "reason": reason}, plan) as result:
            actor = self.principal.id
            done = documents.delete(self.state, index, uris, actor=actor, reason=reason, plan=plan)
            result.update(deleted=len(done.deleted), chunks=done.chunks, generations=list(done.generations))
        return done

    def restore(self, index: str, uris: Sequence[str], *, plan: bool = False) -> tuple[str, ...]:
        """See `ingest.documents.restore`.

        Raises:
            DeniedError: the principal lacks MANAGE on the index.
        """
        from llmops.rag.ingest import documents

        _check(uris, "restored")
        with self._acting("restore_documents", index, {"documents": list(uris)}, plan) as result:
            done = documents.restore(self.state, index, uris, plan=plan)
            result.update(restored=len(done))
        return done

    def move(self, index: str, origin: str | None, *, plan: bool = False) -> Moved:
        """See `ingest.moving.move`.

        Raises:
            DeniedError: the principal lacks MANAGE on the index.
        """
        from llmops.rag.ingest import moving

        with self._acting("move_index", index, {"from": "folder" if origin is None else "database"}, plan) as result:
            done = moving.move(self.state, index, origin, plan=plan)
            result.update(digests=done.digests, rows=done.rows)
        return done

    @contextmanager
    def _acting(self, action: str, index: str, params: dict[str, Any], plan: bool) -> Iterator[dict[str, Any]]:
        """Put an action on record around its effect, with what the block says of its result; a plan leaves no trace."""
        from llmops.core.sql import open_sql
        from llmops.registry.access import Privilege
        from llmops.registry.authority import Authority

        result: dict[str, Any] = {}
        place = Name.parse(index)
        if plan and not (self.state.is_there or self.state.enforce_access):
            yield result  # nothing was granted to anybody, and a plan makes no folder to look for it in
            return

        def require(authority: Authority) -> None:
            with sql.read() as connection:
                authority.require(connection, Privilege.MANAGE, place)

        with open_sql(self.state) as sql, Authority.over(sql, self.state, self.principal) as opened:
            authority = replace(opened, origin=self.origin)
            if plan:
                require(authority)
                yield result
                return
            with authority.acting(action, index, params) as acting:
                require(authority)
                yield result
                with sql.begin() as connection:
                    acting.concluded(connection, result=result)


@dataclass(frozen=True)
class Desk:
    """The documents of indexes for whoever asks at a server's door: plain JSON in and out."""

    state: StateConfig

    def listing(self, index: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """See `ingest.documents.listing`."""
        from llmops.rag.ingest import documents

        return documents.listing(self.state, _known(index), documents.Query(**wanted)).as_json()

    def inspect(self, index: str, uri: str) -> dict[str, Any]:
        """See `ingest.status.inspect`."""
        from llmops.rag.ingest.status import inspect

        return inspect(self.state, _known(index), uri).as_json()

    def delete(
        self, index: str, uris: Sequence[str], *, reason: str, plan: bool, by: tuple[Principal, Origin | None]
    ) -> dict[str, Any]:
        """See `Curator.delete`."""
        return Curator(self.state, *by).delete(_known(index), uris, reason=reason, plan=plan).as_json()

    def restore(
        self, index: str, uris: Sequence[str], *, plan: bool, by: tuple[Principal, Origin | None]
    ) -> dict[str, Any]:
        """See `Curator.restore`."""
        return {"index": index, "restored": Curator(self.state, *by).restore(_known(index), uris, plan=plan)}


def _known(index: str) -> str:
    """A name of three levels, which is never a path out of the folder of indexes.

    Raises:
        UserError: it is none.
    """
    return str(Name.parse(index))


def _check(uris: Sequence[str], reason: str) -> None:
    if not 1 <= len(uris) <= MOST:
        raise UserError(f"name 1 to {MOST:,} documents", where="uris")
    if not reason.strip() or len(reason) > _REASON_CHARS:
        raise UserError(f"give a reason of 1 to {_REASON_CHARS} characters", where="reason")
