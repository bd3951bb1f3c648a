"""`llmops accounts`: people who sign in to the chat and the registry's pages, with a password of ours or elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmops.cli.group import Group
from llmops.cli.jobs import serve_job
from llmops.cli.output import json_option, print_json, print_table, say, set_option
from llmops.core.errors import UserError

if TYPE_CHECKING:
    from llmops.core.people.accounts import Accounts, Person
    from llmops.core.sql import Sql
    from llmops.registry.authority import Authority

config_option = click.option(
    "--config", type=click.Path(path_type=Path), help="The serve job whose state folder holds the accounts."
)
password_option = click.option(
    "--password", "reference", metavar="REF", help="Where the password is: env:NAME or file:PATH. Default: asked for."
)
generate_option = click.option("--generate", is_flag=True, help="Make a password up and print it, this once.")


@click.group("accounts", cls=Group)
def command() -> None:
    """Add, list and shut the accounts of people. NAME is an account's name, or person:ID for anybody."""


@command.command("add")
@click.argument("name")
@click.option("--group", "groups", multiple=True, help="A group the person belongs to; may be repeated.")
@password_option
@generate_option
@config_option
@set_option
@json_option
def add(
    name: str, groups: tuple[str, ...], reference: str | None, generate: bool, as_json: bool, **job: Any
) -> None:  # fmt: skip
    """Make an account called NAME."""
    password = _password(reference, generate)
    with _acting("create", name, {"groups": groups}, **job) as (accounts, by):
        person = accounts.add(name, password, groups=groups, by=by)
    _tell(person, as_json, f"{person.name} can sign in", password if generate else None)


@command.command("list")
@config_option
@set_option
@json_option
def list_(config: Path | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Everybody who has an account or has signed in, by name; never a password."""
    from llmops.core.people.accounts import Accounts
    from llmops.core.sql import open_sql

    state, shown = serve_job(config, overrides).value.state, []
    if state.is_there:
        with open_sql(state) as sql:
            shown = [_shown(person) for person in Accounts(sql).list()]
    if as_json:
        print_json(shown)
        return
    columns = ("name", "id", "state", "groups", "signs_in", "seen_at")
    rows = [[", ".join(row[c]) if isinstance(row[c], list) else row[c] for c in columns] for row in shown]
    print_table(columns, rows, empty="nobody yet: `llmops accounts add NAME` makes an account")


@command.command("password")
@click.argument("name")
@password_option
@generate_option
@config_option
@set_option
@json_option
def password(name: str, reference: str | None, generate: bool, as_json: bool, **job: Any) -> None:
    """Give NAME another password; every browser of theirs is signed out."""
    word = _password(reference, generate)
    with _acting("tag", name, {"password": "changed"}, **job) as (accounts, _):
        person = accounts.named(name)
        accounts.set_password(person.person_id, word)
    _tell(person, as_json, f"{person.name} has another password", word if generate else None)


@command.command("groups")
@click.argument("name")
@click.argument("groups", nargs=-1)
@config_option
@set_option
@json_option
def groups_(name: str, groups: tuple[str, ...], as_json: bool, **job: Any) -> None:
    """Put NAME into these GROUPS and no others, from the next request on."""
    with _acting("tag", name, {"groups": groups}, **job) as (accounts, _):
        person = accounts.set_groups(accounts.named(name).person_id, groups)
    _tell(person, as_json, f"{person.name} is in {', '.join(sorted(person.groups)) or 'no group'}")


@command.command("sign-out")
@click.argument("name")
@config_option
@set_option
@json_option
def sign_out(name: str, as_json: bool, **job: Any) -> None:
    """Sign NAME out everywhere, at once; they may sign in again."""
    with _acting("revoke", name, {"sign_ins": "all"}, **job) as (accounts, _):
        person = accounts.named(name)
        browsers = accounts.sign_out(person.person_id)
    _tell(person, as_json, f"{person.name} is signed out of {browsers} browsers")


@command.command("disable")
@click.argument("name")
@config_option
@set_option
@json_option
def disable(name: str, as_json: bool, **job: Any) -> None:
    """Shut NAME out at once, in every browser; conversations are kept."""
    with _acting("revoke", name, {}, **job) as (accounts, _):
        person = accounts.set_disabled(accounts.named(name).person_id, True)
    _tell(person, as_json, f"{person.name} is shut out")


@command.command("enable")
@click.argument("name")
@config_option
@set_option
@json_option
def enable(name: str, as_json: bool, **job: Any) -> None:
    """Let NAME in again."""
    with _acting("grant", name, {}, **job) as (accounts, _):
        person = accounts.set_disabled(accounts.named(name).person_id, False)
    _tell(person, as_json, f"{person.name} may sign in again")


@contextmanager
def _acting(
    action: str, name: str, params: dict[str, Any], config: Path | None, overrides: tuple[str, ...]
) -> Iterator[tuple[Accounts, str]]:
    """An act on an account, on record; groups carry privileges, so only who manages everything may do it."""
    from llmops.core.keys import REGISTRY_SCOPE, acting_principal
    from llmops.core.people.accounts import Accounts
    from llmops.core.sql import open_sql
    from llmops.registry.authority import Authority

    state = serve_job(config, overrides).value.state
    principal = acting_principal(state, REGISTRY_SCOPE)
    with open_sql(state) as sql, Authority.over(sql, state, principal) as authority:
        accounts = Accounts(sql)
        with authority.acting(action, f"account:{name if action == 'create' else _known(accounts, name)}", params):
            _require_manager(sql, authority)
            yield accounts, authority.actor


def _known(accounts: Accounts, name: str) -> str:
    """By what the record knows somebody: an account of ours by its name, others by their id, since names change."""
    person = accounts.named(name)
    return person.principal_id if person.issuer else person.name


def _require_manager(sql: Sql, authority: Authority) -> None:
    from llmops.registry.access import EVERYTHING, Privilege

    with sql.read() as connection:
        authority.require(connection, Privilege.MANAGE, EVERYTHING)


def _password(reference: str | None, generate: bool) -> str:
    from llmops.core.people.passwords import made_up
    from llmops.core.secret import resolve_document

    if generate:
        return made_up()
    if reference is not None:
        return resolve_document(reference)
    if not sys.stdin.isatty():
        raise UserError("nobody is here to ask for a password", hint="add --password env:NAME or --generate")
    word: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    return word


def _tell(person: Person, as_json: bool, done: str, generated: str | None = None) -> None:
    if as_json:
        print_json({**_shown(person), **({"password": generated} if generated else {})})
        return
    if generated:
        click.echo(generated)
        say("this is the password; it cannot be shown again")
    say(done)


def _shown(person: Person) -> dict[str, Any]:
    return {
        "name": person.name,
        "id": person.principal_id,
        "state": "disabled" if person.disabled_at else "active",
        "groups": sorted(person.groups),
        "signs_in": person.issuer or "with a password",
        "created_at": person.created_at.isoformat(timespec="seconds"),
        "created_by": person.created_by,
        "seen_at": person.seen_at.isoformat(timespec="seconds") if person.seen_at else None,
    }
