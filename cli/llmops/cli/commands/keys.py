"""`llmops keys`: the keys by which programs are known at every door."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmops.cli.group import Group
from llmops.cli.jobs import serve_job
from llmops.cli.output import json_option, print_json, print_table, say, set_option

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from llmops.core.keys import Key, Keys
    from llmops.core.sql import Sql
    from llmops.registry.authority import Authority

config_option = click.option(
    "--config", type=click.Path(path_type=Path), help="The serve job whose state folder holds the keys."
)


@click.group("keys", cls=Group)
def command() -> None:
    """Create, list and revoke program keys."""


@command.command("create")
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, default=("serving",), show_default=True, help="What it may do.")
@click.option("--group", "groups", multiple=True, help="A group its holder belongs to; may be repeated.")
@click.option("--expires", metavar="DAYS", help="After how long it ends: 90d, 12h. Default: never.")
@config_option
@set_option
@json_option
def create(
    name: str,
    scopes: tuple[str, ...],
    groups: tuple[str, ...],
    expires: str | None,
    as_json: bool,
    **job: Any,
) -> None:
    """Make a key called NAME. Its token is shown this once.

    Scopes: `serving` asks and judges; `request_id` also has its request ids taken over; `registry` acts in the
    registry, as far as that is granted to the key or its groups, where LLMOPS_KEY holds it.
    """
    until = None if expires is None else datetime.now(UTC) + _span(expires)
    from llmops.core.keys import NewKey

    with _changing(**job) as (_, sql, authority):
        new = NewKey.draw(name, scopes=scopes, groups=groups, expires_at=until, created_by=authority.actor)
        token, key = new.token, new.key
        params = {"name": key.name, "scopes": scopes, "groups": groups}
        with authority.acting("create", f"key:{key.key_id}", params) as acting, sql.begin() as connection:
            _require_manager(connection, authority)
            new.add(connection)
            acting.concluded(connection)
    if as_json:
        print_json({"token": token, **_shown(key)})
        return
    click.echo(token)
    say(f"key {key.key_id} for {key.name}; keep the token, it cannot be shown again")
    say(f"send it as `Authorization: Bearer lk_...`; `llmops keys revoke {key.key_id}` ends it")


@command.command("list")
@config_option
@set_option
@json_option
def list_(config: Path | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Every key, newest first; never its token."""
    from llmops.core.keys import Keys
    from llmops.core.sql import open_sql

    state, shown = serve_job(config, overrides).value.state, []
    if state.is_there:
        with open_sql(state) as sql:
            shown = [_shown(key) for key in Keys(sql).list()]
    if as_json:
        print_json(shown)
        return
    columns = ("key_id", "name", "state", "scopes", "groups", "created_at", "expires_at")
    rows = [[", ".join(row[c]) if isinstance(row[c], list) else row[c] for c in columns] for row in shown]
    print_table(columns, rows, empty="no keys yet: `llmops keys create NAME` makes one")


@command.command("revoke")
@click.argument("key_id")
@config_option
@set_option
@json_option
def revoke(key_id: str, config: Path | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """End a key, everywhere within a second."""
    with (
        _changing(config, overrides) as (keys, sql, authority),
        authority.acting("revoke", f"key:{key_id[:40]}") as acting,
        sql.begin() as connection,
    ):
        _require_manager(connection, authority)
        key = keys.end(connection, key_id)
        acting.concluded(connection, result={"name": key.name})
    if as_json:
        print_json(_shown(key))
    else:
        say(f"key {key.key_id} ({key.name}) is revoked")


@contextmanager
def _changing(config: Path | None, overrides: tuple[str, ...]) -> Iterator[tuple[Keys, Sql, Authority]]:
    from llmops.core.keys import REGISTRY_SCOPE, Keys, acting_principal
    from llmops.core.sql import open_sql
    from llmops.registry.authority import Authority

    state = serve_job(config, overrides).value.state
    principal = acting_principal(state, REGISTRY_SCOPE)
    with open_sql(state) as sql, Authority.over(sql, state, principal) as authority:
        yield Keys(sql), sql, authority


def _require_manager(connection: Connection, authority: Authority) -> None:
    """Keys carry groups, and groups carry privileges: once those count, only who manages everything deals in keys."""
    from llmops.registry.access import EVERYTHING, Privilege

    authority.require(connection, Privilege.MANAGE, EVERYTHING)


def _shown(key: Key) -> dict[str, Any]:
    state = "active" if key.active(datetime.now(UTC)) else "revoked" if key.revoked_at else "expired"
    return {
        "key_id": key.key_id,
        "name": key.name,
        "state": state,
        "scopes": sorted(key.scopes),
        "groups": sorted(key.groups),
        "created_at": key.created_at.isoformat(timespec="seconds"),
        "expires_at": key.expires_at.isoformat(timespec="seconds") if key.expires_at else None,
        "revoked_at": key.revoked_at.isoformat(timespec="seconds") if key.revoked_at else None,
    }


def _span(text: str) -> timedelta:
    match = re.fullmatch(r"(\d+)(d|h)", text)
    if match is None or int(match[1]) == 0:
        raise click.BadParameter(f"`{text}` is no span; write 90d or 12h", param_hint="--expires")
    return timedelta(days=int(match[1])) if match[2] == "d" else timedelta(hours=int(match[1]))
