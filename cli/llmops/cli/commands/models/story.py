"""`llmops models history` and `lineage`: what happened to an asset, and what rests on what."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmops.cli.output import json_option, print_json, print_table, say
from llmops.cli.registry_job import config_option, existing_registry, job_state
from llmops.core.errors import UserError
from llmops.core.names import Name

if TYPE_CHECKING:
    from llmops.registry.promotion import Entry, Reign


@click.command("history")
@click.argument("name")
@click.option("--at", "moment", metavar="TIME", help="Say who was champion then, and why: 2026-11-29T10:00 (UTC).")
@click.option("--alias", help="Only the moves of this alias.")
@config_option
@json_option
def history(name: str, moment: str | None, alias: str | None, config: Path | None, as_json: bool) -> None:
    """Tell an asset's story, newest first: every change of state, evidence, approval, alias move and rollback."""
    from llmops.registry.promotion import Promoter

    asset = Name.parse(name)
    with existing_registry(job_state(config), name) as registry:
        promoter = Promoter(registry)
        if moment is not None:
            _tell_reign(promoter.champion_at(asset, _time(moment)), asset, moment, as_json)
            return
        entries = promoter.history(asset)
    if alias is not None:
        entries = [entry for entry in entries if entry.detail.get("alias") == alias]
    if as_json:
        print_json([entry.as_json() for entry in entries])
        return
    if not entries:
        say("nothing of this kind happened")
    for entry in entries:
        for line in told(asset, entry):
            click.echo(line)


@click.command("lineage")
@click.argument("ref")
@click.option("--impact", is_flag=True, help="What rests on it, instead of what it was made of.")
@config_option
@json_option
def lineage(ref: str, impact: bool, config: Path | None, as_json: bool) -> None:
    """Print what a version was made of, nearest first; with --impact what a change of it would reach.

    REF is a version (dev.docs.chat/3, dev.docs.chat@champion) or a node that lineage shows, such as
    dataset:dev.fraud.payments@7.
    """
    with existing_registry(job_state(config), ref) as registry:
        found = registry.lineage(ref, impact=impact)
    if as_json:
        print_json([item.as_json() for item in found])
        return
    rows = [(item.depth, item.edge.relation.value, item.node, ", ".join(item.aliases)) for item in found]
    empty = "nothing rests on it" if impact else "nothing is known of what it was made of"
    print_table(("steps", "as", "node", "aliases"), rows, empty=empty)


def told(asset: Name, entry: Entry) -> list[str]:
    """One entry of the story as lines for people: what, when, who; below it why, and the evidence."""
    version = f"{asset.asset}/{entry.version}" if entry.version is not None else asset.asset
    lines = [f"{entry.at:%F %T}  {version}  {entry.what}, by {entry.by}"]
    if entry.why:
        lines.append(f"                     because: {entry.why}")
    lines += [f"                     on: {proof}" for proof in entry.proofs]
    return lines


def _tell_reign(reign: Reign | None, asset: Name, moment: str, as_json: bool) -> None:
    if as_json:
        print_json(None if reign is None else reign.as_json())
        return
    if reign is None:
        say(f"nobody was champion of {asset} at {moment}")
        return
    until = f"until {reign.until:%F %T}" if reign.until else "still"
    click.echo(f"{asset}/{reign.version} was champion, from {reign.since:%F %T} {until}, by {reign.by}")
    for proof in reign.proofs:
        reason = f": {proof.reason}" if proof.reason else ""
        click.echo(f"  on: {proof}{reason}")


def _time(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise UserError(f"`{text}` is no time", hint="write 2026-11-29T10:00, in UTC, or with an offset") from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)
