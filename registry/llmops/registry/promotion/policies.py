"""Where policies are kept, and which one an asset has: its own, its schema's, its catalog's, or else the default.

Knows rows. A new policy is a new row: who changed the rules, and when, stays readable.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, insert, select

from llmops.core.errors import UserError
from llmops.core.ids import next_id
from llmops.core.names import Name
from llmops.registry.promotion.policy import Policy
from llmops.registry.promotion.tables import policies

DEFAULT = Policy()
_SCOPE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*){0,2}")


@dataclass(frozen=True)
class Ruling:
    """The policy that holds for an asset, and the scope it comes from (None: the default)."""

    policy: Policy
    scope: str | None


def of(connection: Connection, scope: Name | str) -> Ruling:
    """The policy that holds for an asset, a schema or a catalog: that of the nearest scope which has one."""
    parts = str(scope).split(".")
    scopes = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    query = select(policies.c.scope, policies.c.body).where(policies.c.scope.in_(scopes)).order_by(policies.c.policy_id)
    newest = {row.scope: row.body for row in connection.execute(query)}
    for near in scopes:
        if newest.get(near) is not None:
            return Ruling(Policy.model_validate(newest[near]), near)
    return Ruling(DEFAULT, None)


def check_scope(scope: str) -> None:
    """Pass only what a policy can be given to.

    Raises:
        UserError: the scope is no catalog, schema or asset.
    """
    if not _SCOPE.fullmatch(scope):
        raise UserError(
            f"`{scope}` is no scope of a policy", hint="write a catalog, catalog.schema or catalog.schema.asset"
        )


def put(connection: Connection, scope: str, policy: Policy | None, *, actor: str) -> None:
    """Give a scope its policy (None: take its own away, so that the wider one holds)."""
    newest = select(policies.c.policy_id).order_by(policies.c.policy_id.desc()).limit(1)
    connection.execute(
        insert(policies).values(
            policy_id=next_id(connection.execute(newest).scalar()),
            scope=scope,
            body=None if policy is None else policy.as_json(),
            at=datetime.now(UTC),
            by=actor,
        )
    )
