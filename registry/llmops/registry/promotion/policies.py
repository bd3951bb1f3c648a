"""Where policies are kept, and which one an asset has: its own, its schema's, its catalog's, or else the default.

Knows rows. A new policy is a new row: who changed the rules, and when, stays readable.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, insert, select

from llmops.core.errors import UserError
from llmops.core.ids import next_id
from llmops.core.names import CATALOGS, Name, current_catalog
from llmops.registry.access.securables import Securable
from llmops.registry.promotion.policy import Policy
from llmops.registry.promotion.tables import policies

DEFAULT = Policy()


@dataclass(frozen=True)
class Ruling:
    """The policy that holds for an asset, and the scope it comes from (None: the default)."""

    policy: Policy
    scope: Securable | None

    @property
    def named(self) -> str | None:
        """The scope as `scope` reads it."""
        return None if self.scope is None else written(self.scope)


def scope(text: Securable | Name | str) -> Securable:
    """Read what a policy is given to: a catalog (`prod`), a schema (`prod.fraud.*`), or an asset.

    As everywhere, an asset of two levels lies in the catalog that this process works in.

    Raises:
        UserError: it is none of these, or could be read as a schema and as an asset.
    """
    if not isinstance(text, str):
        return Securable.of(text)
    parts = text.split(".")
    if parts[0] in {*CATALOGS, current_catalog()} and len(parts) == 2:
        raise UserError(
            f"`{text}` could be a schema of the catalog `{parts[0]}`, or an asset of `{current_catalog()}`",
            hint=f"write {text}.* for the schema, or all three levels of the asset's name",
        )
    try:
        if len(parts) == 1:
            return Securable((Name.parse(f"{text}.any.any").catalog,))
        if len(parts) == 3 and parts[2] == "*":
            name = Name.parse(f"{parts[0]}.{parts[1]}.any")
            return Securable((name.catalog, name.schema))
        return Securable.of(Name.parse(text))
    except UserError:
        raise UserError(
            f"`{text}` is no scope of a policy",
            hint="write a catalog (prod), a schema (prod.fraud.*) or an asset (prod.fraud.fraud_clf)",
        ) from None


def written(place: Securable) -> str:
    """A scope as `scope` reads it."""
    return f"{place}.*" if place.level == "schema" else str(place)


def of(connection: Connection, place: Securable | Name) -> Ruling:
    """The policy that holds for an asset, a schema or a catalog: that of the nearest scope which has one."""
    scopes = {str(near): near for near in Securable.of(place).line() if near.path}
    query = select(policies.c.scope, policies.c.body).where(policies.c.scope.in_(scopes)).order_by(policies.c.policy_id)
    newest = {row.scope: row.body for row in connection.execute(query)}
    for text, near in scopes.items():
        if newest.get(text) is not None:
            return Ruling(Policy.model_validate(newest[text]), near)
    return Ruling(DEFAULT, None)


def put(connection: Connection, place: Securable, policy: Policy | None, *, actor: str) -> None:
    """Give a scope its policy (None: take its own away, so that the wider one holds)."""
    newest = select(policies.c.policy_id).order_by(policies.c.policy_id.desc()).limit(1)
    connection.execute(
        insert(policies).values(
            policy_id=next_id(connection.execute(newest).scalar()),
            scope=str(place),
            body=None if policy is None else policy.as_json(),
            at=datetime.now(UTC),
            by=actor,
        )
    )
