"""Virtual keys: core's keys with what each may use at the gateway beside them, under the scope `gateway`.

Knows the tables, and puts each change of them on record; what a worker may spend of a limit is the allowance's
matter. A key of that scope without a row of its own here (made by `llmops keys create --scope gateway`) opens every
route and has no limit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, get_args

from sqlalchemy import Connection, Row, insert, select

from llmops.core.errors import UserError, did_you_mean
from llmops.core.keys import KEYS, Key, Keys, NewKey
from llmops.core.sql import Sql
from llmops.gateway.calls import KeyPolicy
from llmops.gateway.config import WORD, BudgetConfig, GatewayConfig, LimitsConfig, Period
from llmops.gateway.control.acts import require_operator
from llmops.gateway.control.tables import KEY_POLICIES
from llmops.registry.authority import Authority

SCOPE = "gateway"
ADMIN = "gateway:admin"
IDS = "gateway:ids"
NANO = 1_000_000_000
_ID_CHARS = 40
"""A key's id is shorter; what somebody sends in its place is no longer than this in the log."""


@dataclass(frozen=True)
class Wish:
    """What a new key shall be."""

    name: str
    team: str | None = None
    routes: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()  # beside `gateway`
    tags: Mapping[str, str] = field(default_factory=dict)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    budgets: tuple[BudgetConfig, ...] = ()
    expires_at: datetime | None = None


@dataclass(frozen=True)
class VirtualKey:
    """What may be shown of a virtual key."""

    key: Key
    policy: KeyPolicy

    @property
    def state(self) -> str:
        if self.key.revoked_at is not None:
            return "revoked"
        return "active" if self.key.active(datetime.now(UTC)) else "expired"

    def as_json(self) -> dict[str, Any]:
        return {
            "key_id": self.key.key_id,
            "name": self.key.name,
            "state": self.state,
            "team": self.policy.team,
            "routes": sorted(self.policy.routes),
            "scopes": sorted(self.key.scopes),
            "groups": sorted(self.key.groups),
            "tags": dict(self.policy.tags),
            "limits": dict(self.policy.limits),
            "budgets": [{"usd": str(usd(nano)), "period": period} for nano, period in self.policy.budgets],
            "created_at": self.key.created_at.isoformat(timespec="seconds"),
            "created_by": self.key.created_by,
            "expires_at": self.key.expires_at.isoformat(timespec="seconds") if self.key.expires_at else None,
            "revoked_at": self.key.revoked_at.isoformat(timespec="seconds") if self.key.revoked_at else None,
        }


class VirtualKeys:
    """The table of virtual keys."""

    def __init__(self, sql: Sql) -> None:
        self._sql = sql
        self._keys = Keys(sql)

    def create(self, wish: Wish, config: GatewayConfig, by: Authority) -> tuple[str, VirtualKey]:
        """Make a key; gives its token, which is shown this once.

        Raises:
            UserError: a route or team that the configuration lacks, or something malformed.
            DeniedError: they may not make keys.
            StorageError, UnavailableError: it cannot go on record; there is no key.
        """
        row = _checked(wish, config)
        new = NewKey.draw(
            wish.name,
            scopes={SCOPE, *wish.scopes},
            groups=wish.groups,
            expires_at=wish.expires_at,
            created_by=by.actor,
        )
        with (
            by.acting("create", f"key:{new.key.key_id}", _told(new.key, row)) as acting,
            self._sql.begin() as connection,
        ):
            require_operator(connection, by)
            new.add(connection)
            connection.execute(insert(KEY_POLICIES).values(key_id=new.key.key_id, **row))
            made = self._one(connection, new.key.key_id)
            acting.concluded(connection)
        return new.token, made

    def list(self) -> list[VirtualKey]:
        """Every virtual key, newest first, revoked ones too."""
        with self._sql.read() as connection:
            rows = connection.execute(
                select(KEYS, *_policy_columns())
                .outerjoin(KEY_POLICIES, KEYS.c.key_id == KEY_POLICIES.c.key_id)
                .order_by(KEYS.c.created_at.desc(), KEYS.c.key_id)
            ).all()
        return [_virtual(row) for row in rows if SCOPE in row.scopes]

    def revoke(self, key_id: str, by: Authority) -> VirtualKey:
        """End a key, everywhere within about a second.

        Raises:
            NotFoundError: there is no such key.
            DeniedError: they may not end keys.
            StorageError, UnavailableError: it cannot go on record; the key works as before.
        """
        with by.acting("revoke", f"key:{key_id[:_ID_CHARS]}") as acting, self._sql.begin() as connection:
            require_operator(connection, by)
            self._keys.end(connection, key_id)
            ended = self._one(connection, key_id)
            acting.concluded(connection, result={"name": ended.key.name})
        return ended

    def policies(self) -> Sequence[KeyPolicy]:
        """What the workers shall know: the keys that work now."""
        return [virtual.policy for virtual in self.list() if virtual.state == "active"]

    def _one(self, connection: Connection, key_id: str) -> VirtualKey:
        return _virtual(
            connection.execute(
                select(KEYS, *_policy_columns())
                .outerjoin(KEY_POLICIES, KEYS.c.key_id == KEY_POLICIES.c.key_id)
                .where(KEYS.c.key_id == key_id)
            ).one()
        )


def usd(nano_usd: int) -> Decimal:
    return Decimal(nano_usd) / NANO


def _told(key: Key, policy: Mapping[str, Any]) -> dict[str, Any]:
    """A new key as the log tells of it: all but what proves that one has it."""
    expires = None if key.expires_at is None else key.expires_at.isoformat(timespec="seconds")
    shown = {"name": key.name, "scopes": sorted(key.scopes), "groups": sorted(key.groups), "expires_at": expires}
    return {name: value for name, value in {**shown, **policy}.items() if value}


def _policy_columns() -> list[Any]:
    return [column for column in KEY_POLICIES.c if column.name != "key_id"]


def _virtual(row: Row[Any]) -> VirtualKey:
    key = Key(
        key_id=row.key_id,
        name=row.name,
        scopes=frozenset(row.scopes),
        groups=frozenset(row.groups),
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )
    policy = KeyPolicy(
        key_id=key.key_id,
        secret_sha256=row.secret_sha256,
        name=key.name,
        groups=key.groups,
        scopes=key.scopes,
        expires_at=key.expires_at.timestamp() if key.expires_at else None,
        team=row.team,
        routes=frozenset(row.routes or ()),
        tags=row.tags or {},
        limits=row.limits or {},
        budgets=tuple((int(nano), period) for nano, period in row.budgets or ()),
    )
    return VirtualKey(key, policy)


def _checked(wish: Wish, config: GatewayConfig) -> dict[str, Any]:
    routes = [route.name for route in config.routes]
    for route in wish.routes:
        if route not in routes:
            raise UserError(f"there is no route `{route}`", hint=did_you_mean(route, routes) or ", ".join(routes))
    if wish.team is not None and wish.team not in config.teams:
        teams = list(config.teams)
        hint = did_you_mean(wish.team, teams) or "add it to `teams` of the gateway configuration"
        raise UserError(f"there is no team `{wish.team}`", hint=hint)
    for name, value in wish.tags.items():
        if not re.fullmatch(WORD, name) or not 1 <= len(value) <= 200:
            raise UserError(f"`{name[:100]}` is no tag", hint="write NAME=VALUE, the value of at most 200 characters")
    periods = [budget.period for budget in wish.budgets]
    if len(set(periods)) != len(periods):
        raise UserError("a key has one budget a period", hint=f"periods: {', '.join(get_args(Period))}")
    return {
        "team": wish.team,
        "routes": sorted(set(wish.routes)),
        "tags": dict(wish.tags),
        "limits": wish.limits.model_dump(exclude_none=True),
        "budgets": [[int(budget.usd * NANO), budget.period] for budget in wish.budgets],
    }
