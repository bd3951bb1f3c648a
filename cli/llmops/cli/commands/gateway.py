"""`llmops gateway`: one door to every model: run it, see its routes, give out keys, see who used how much."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmops.cli.gateway_job import gateway_job, gateway_source
from llmops.cli.group import Group
from llmops.cli.output import json_option, print_json, print_table, say, set_option
from llmops.core.errors import NotFoundError, did_you_mean

if TYPE_CHECKING:
    from llmops.core.sql import Sql
    from llmops.gateway.config import GatewayConfig
    from llmops.gateway.control.usage import Sums
    from llmops.registry.authority import Authority

config_option = click.option(
    "--config", type=click.Path(path_type=Path), help="The gateway job; default: configs/gateway.yaml."
)
DIMENSIONS = ("team", "key", "model", "route", "day", "hour", "status", "error")


@click.group("gateway", cls=Group, invoke_without_command=True)
@config_option
@set_option
@click.pass_context
def command(context: click.Context, config: Path | None, overrides: tuple[str, ...]) -> None:
    """Open one door to every model, with keys, limits, budgets and a row for every call.

    Without a subcommand it runs, like `llmops gateway run`.
    """
    if context.invoked_subcommand is None:
        _run(config, overrides)
    elif config is not None or overrides:
        raise click.UsageError("put --config and --set behind the subcommand", context)


@command.command("run")
@config_option
@click.option("--host", help="Address to listen on; a public one needs `require_keys`.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 takes a free one.")
@click.option("--workers", type=click.IntRange(1, 256), help="Data-plane processes.")
@set_option
def run(
    config: Path | None, host: str | None, port: int | None, workers: int | None, overrides: tuple[str, ...]
) -> None:
    """Open the gateway, until Ctrl-C. SIGHUP, or a changed file, makes it read its configuration again."""
    given = {"host": host, "port": port, "workers": workers}
    _run(config, (*overrides, *(f"{name}={value}" for name, value in given.items() if value is not None)))


@command.command("routes")
@config_option
@set_option
@json_option
def routes(config: Path | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """The routes and their targets, as configured."""
    job = gateway_job(config, overrides).value
    rows = [
        {
            "route": route.name,
            "version": route.version,
            "target": f"{target.provider}/{target.model}",
            "kind": job.providers[target.provider].kind,
            "tier": target.tier,
            "weight": target.weight,
            "variant": target.variant,
            "region": job.providers[target.provider].region,
            "fallbacks": list(route.fallbacks),
        }
        for route in job.routes
        for target in route.targets
    ]
    if as_json:
        print_json(rows)
        return
    shown = [[", ".join(cell) if isinstance(cell, list) else cell for cell in row.values()] for row in rows]
    print_table(tuple(rows[0]), shown, empty="no routes")


@command.command("register")
@click.argument("names", metavar="[ROUTE]...", nargs=-1)
@config_option
@set_option
@json_option
def register(names: tuple[str, ...], config: Path | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Make routes of the configuration versions in the registry: all, or those named.

    The first version of a route is its champion; later ones go the way of every version. `registered:
    [gateway.ROUTE@champion]` in the configuration then takes the definition from there, and follows the alias.
    """
    from llmops.cli.registry_job import open_registry
    from llmops.gateway.registered import register_routes

    job = gateway_job(config, overrides).value
    known = {route.name: route for route in job.routes}
    if unknown := [name for name in names if name not in known]:
        hint = did_you_mean(unknown[0], known) or f"there are {', '.join(known)}"
        raise NotFoundError(f"no route `{unknown[0]}`", hint=hint)
    with open_registry(job.state) as registry:
        found = register_routes(job, [known[name] for name in names or known], registry)
        versions = [registry.resolve(version.ref) for version in found]
    if as_json:
        print_json([version.as_json() for version in versions])
        return
    rows = [(version.name.asset, version.ref, ", ".join(version.aliases), version.digest[:12]) for version in versions]
    print_table(("route", "version", "aliases", "digest"), rows, empty="")
    say(f"`registered: [{versions[0].name}@champion]` serves it from the registry")


@command.group("keys")
def keys() -> None:
    """Create, list and revoke virtual keys."""


@keys.command("create")
@click.argument("name")
@click.option("--team", help="A team of the configuration, whose limits and budgets it shares.")
@click.option("--route", "routes", multiple=True, help="A route it opens; may be repeated. Default: all.")
@click.option("--group", "groups", multiple=True, help="A group its holder belongs to; may be repeated.")
@click.option("--scope", "scopes", multiple=True, help="Beside `gateway`: gateway:ids, gateway:admin.")
@click.option("--tag", "tags", multiple=True, metavar="NAME=VALUE", help="Logged with every call; may be repeated.")
@click.option("--budget", "budgets", multiple=True, metavar="USD/PERIOD", help="30/month, 0.50/day; may be repeated.")
@click.option("--requests-per-minute", metavar="N", help="Requests in any 60 seconds.")
@click.option("--tokens-per-minute", metavar="N", help="Input and output tokens in any 60 seconds.")
@click.option("--concurrent", metavar="N", help="Requests under way at once.")
@click.option("--expires", metavar="WHEN", help="90d, 12h, or 2027-01-31. Default: never.")
@config_option
@set_option
@json_option
def create(config: Path | None, overrides: tuple[str, ...], as_json: bool, **wanted: Any) -> None:
    """Make a virtual key called NAME. Its token is shown this once."""
    from llmops.gateway.control.keys import VirtualKeys
    from llmops.gateway.control.snapshot import Publisher
    from llmops.gateway.control.wishes import read_wish

    given = {name: list(value) if isinstance(value, tuple) else value for name, value in wanted.items() if value}
    job = gateway_job(config, overrides).value
    with _acting_on(job) as (sql, authority):
        token, key = VirtualKeys(sql).create(read_wish(given), job, authority)
        Publisher(sql, job.folder).attempt()  # workers of this machine know of it at once
    if as_json:
        print_json({"token": token, **key.as_json()})
        return
    click.echo(token)
    say(f"key {key.key.key_id} for {key.key.name}; keep the token, it cannot be shown again")
    say(f"send it as `Authorization: Bearer lk_...`; `llmops gateway keys revoke {key.key.key_id}` ends it")


@keys.command("list")
@config_option
@set_option
@json_option
def list_(config: Path | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Every virtual key, newest first; never its token."""
    from llmops.core.sql import open_sql
    from llmops.gateway.control.keys import VirtualKeys

    state, shown = gateway_job(config, overrides).value.state, []
    if state.is_there:
        with open_sql(state) as sql:
            shown = [key.as_json() for key in VirtualKeys(sql).list()]
    if as_json:
        print_json(shown)
        return
    columns = ("key_id", "name", "state", "team", "routes", "budgets", "limits", "expires_at")
    rows = [[_cell(row[column]) for column in columns] for row in shown]
    print_table(columns, rows, empty="no keys yet: `llmops gateway keys create NAME` makes one")


@keys.command("revoke")
@click.argument("key_id")
@config_option
@set_option
@json_option
def revoke(key_id: str, config: Path | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """End a key, everywhere within about a second."""
    from llmops.gateway.control.keys import VirtualKeys
    from llmops.gateway.control.snapshot import Publisher

    job = gateway_job(config, overrides).value
    with _acting_on(job) as (sql, authority):
        key = VirtualKeys(sql).revoke(key_id, authority)
        Publisher(sql, job.folder).publish()
    if as_json:
        print_json(key.as_json())
    else:
        say(f"key {key.key.key_id} ({key.key.name}) is revoked")


@command.command("usage")
@click.option("--by", type=click.Choice(DIMENSIONS), default="team", show_default=True, help="What to add up by.")
@click.option("--since", default="7d", show_default=True, metavar="WHEN", help="7d, 12h, 30m, or 2026-01-31 (UTC).")
@click.option("--until", metavar="WHEN", help="Only before this.")
@click.option("--team", help="Only of this team.")
@click.option("--key", metavar="KEY_ID", help="Only of this key.")
@click.option("--model", metavar="PROVIDER/MODEL", help="Only of this target.")
@click.option("--route", help="Only of this route.")
@config_option
@set_option
@json_option
def usage(config: Path | None, overrides: tuple[str, ...], as_json: bool, by: str, **filters: str | None) -> None:
    """Requests, tokens and cost, added up; rows appear a few seconds after their request ended."""
    from llmops.core.lake import Lake
    from llmops.gateway.control.usage import UsageTable, Wanted, days

    given = {name: value for name, value in filters.items() if value is not None}
    if (key := given.get("key")) and ":" not in key:
        given["key"] = f"key:{key}"
    job = gateway_job(config, overrides).value
    table, wanted = UsageTable(Lake(job.state), job.inference_log), Wanted.read(given)
    lines = table.sums(by, wanted)
    if as_json:
        print_json([line.as_json() for line in lines])
        return
    if by == "day" and lines:
        lines = days(wanted, lines)
    print_table(
        (by, "cost_usd", "requests", "errors", "input_tokens", "output_tokens", "p50_ms", "p95_ms", ""),
        _usage_rows(lines), empty="no requests in this time",
    )  # fmt: skip


@command.command("forgive")
@click.option("--plan", is_flag=True, help="Only say which machines are waited for.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@config_option
@set_option
@json_option
def forgive(config: Path | None, overrides: tuple[str, ...], plan: bool, yes: bool, as_json: bool) -> None:
    """Let budgets go on without machines that are gone for good, after the shared Redis lost its data.

    A restarted Redis grants no money before every machine has told what it spent. What only a forgiven machine knew
    counts as not spent.
    """
    import asyncio

    from llmops.gateway.allowance import forgive_machines
    from llmops.gateway.control.acts import SERVICE, require_operator

    job = gateway_job(config, overrides).value
    waiting = asyncio.run(forgive_machines(job, plan=True))
    if not plan and waiting:
        if not yes:
            click.confirm(f"count what only {', '.join(waiting)} knew as not spent?", abort=True, err=True)
        with _acting_on(job) as (sql, authority), authority.acting("forgive", SERVICE, {"machines": waiting}):
            with sql.read() as connection:
                require_operator(connection, authority)
            asyncio.run(forgive_machines(job, plan=False))
    if as_json:
        print_json({"machines": waiting, "forgiven": bool(waiting) and not plan})
    elif not waiting:
        say("no machine is waited for")
    else:
        say(f"{'waiting for' if plan else 'going on without'} {', '.join(waiting)}")


@command.command("compile")
@click.option("--remove", is_flag=True, help="Go back to plain Python.")
def compile_(remove: bool) -> None:
    """Compile the modules that every request goes through: a third less CPU. Needs a C compiler and two minutes.

    The next start uses it, as long as the sources are the same; otherwise they run as plain Python, as they do without.
    """
    from llmops.gateway import compiling

    if remove:
        compiling.remove()
        say("the gateway runs as plain Python from its next start")
        return
    compiling.compile_modules(say)
    say("the gateway runs compiled from its next start; `llmops gateway compile --remove` goes back")


def _run(config: Path | None, overrides: tuple[str, ...]) -> None:
    job, source = gateway_source(config, overrides)
    from llmops.gateway.compiled import running
    from llmops.gateway.supervisor import run_gateway

    run_gateway(
        job,
        source=source,
        announce=lambda url, control: say(f"gateway at {url}/v1 (control at {control}, {running()}, Ctrl-C stops)"),
    )


@contextmanager
def _acting_on(job: GatewayConfig) -> Iterator[tuple[Sql, Authority]]:
    """The state, and the authority of the key in LLMOPS_KEY, which is an operator's, or else of this machine."""
    from llmops.core.keys import acting_principal
    from llmops.core.sql import open_sql
    from llmops.gateway.control.acts import SERVICE
    from llmops.gateway.control.keys import ADMIN
    from llmops.registry.authority import Authority

    principal = acting_principal(job.state, ADMIN)
    with open_sql(job.state) as sql, Authority.over(sql, job.state, principal, SERVICE) as authority:
        yield sql, authority


def _usage_rows(lines: list[Sums]) -> list[list[Any]]:
    """With a bar of the cost (of the requests, where all is free) on a terminal."""
    most = max((float(line.cost_usd) for line in lines), default=0.0)
    by_cost = most > 0
    most = most or max((float(line.requests) for line in lines), default=0.0)
    rows = []
    for line in lines:
        value = float(line.cost_usd) if by_cost else float(line.requests)
        bar = _bar(value / most if most else 0.0) if sys.stdout.isatty() else None
        times = [None if time is None else round(time) for time in (line.p50_ms, line.p95_ms)]
        tokens = (line.input_tokens, line.output_tokens)
        rows.append([line.group or "none", f"{line.cost_usd:.6f}", line.requests, line.errors, *tokens, *times, bar])
    return rows


def _bar(share: float, width: int = 24) -> str:
    eighths = round(share * width * 8)
    return "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]


def _cell(value: Any) -> Any:
    if isinstance(value, dict):
        return ", ".join(f"{name}={item}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(f"{one['usd']}/{one['period']}" if isinstance(one, dict) else one for one in value)
    return value
