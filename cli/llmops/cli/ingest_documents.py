"""`llmops ingest list | delete | restore`: the documents of an index, one by one."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmops.cli.jobs import rag_job
from llmops.cli.output import amount, json_option, print_json, print_table, say, set_option, visible

if TYPE_CHECKING:
    from llmops.core.state import StateConfig
    from llmops.rag.curation import Curator

config_option = click.option(
    "--config", "file", type=click.Path(path_type=Path), help="The rag job; default configs/rag.yaml."
)
plan_option = click.option("--plan", is_flag=True, help="Say what would be done; change nothing.")


@click.command("list")
@click.argument("match", default="")
@click.option("--state", "wanted", type=click.Choice(["indexed", "quarantined", "deleted"]), help="Only these.")
@click.option("--group", help="Only what this group may read by name.")
@click.option("--after", default="", help="Begin behind this document: the last one of the page before.")
@click.option("--limit", default=100, show_default=True, help="Documents of a page, at most 1,000.")
@config_option
@set_option
@json_option
def list_command(  # noqa: PLR0913 - each is an option
    match: str, *, wanted: Any, group: str | None, after: str, limit: int,
    file: Path | None, overrides: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """List the documents of the index; MATCH is a part of their URI, or a pattern such as `docs/*.md`."""
    from llmops.rag.ingest.documents import Query, listing

    job = rag_job(file, overrides).value
    page = listing(job.state, job.index.name, Query(match, wanted, group, after, limit))
    if as_json:
        print_json(page.as_json())
        return
    columns = ("document", "state", "chunks", "groups", "source", "changed", "note")
    rows = [
        (d.uri, d.state, d.chunks or "", ", ".join(d.groups), d.source, _day(d.changed_at), d.note or "")
        for d in page.documents
    ]
    print_table(columns, rows, empty="no such documents")
    if page.next is not None:
        say(f"there are more: `--after {page.next}`")


@click.command("delete")
@click.argument("documents", nargs=-1, required=True)
@click.option("--reason", required=True, help="Why; kept with the document's tombstone and in the audit log.")
@plan_option
@config_option
@set_option
@json_option
def delete_command(
    documents: tuple[str, ...], *, reason: str, plan: bool,
    file: Path | None, overrides: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Take DOCUMENTS out of the index now; they stay out, whatever their source holds, until they are restored."""
    job = rag_job(file, overrides).value
    done = curator(job.state).delete(job.index.name, documents, reason=reason, plan=plan)
    if as_json:
        print_json(done.as_json())
        return
    for uri in done.deleted:
        click.echo(visible(uri))
    says = "would be deleted" if plan else "deleted"
    say(
        f"{len(done.deleted):,} {says}: {amount(done.chunks, 'chunk')} in {amount(len(done.generations), 'generation')}"
    )
    if not plan:
        say("`llmops ingest restore` takes them back; `llmops forget` erases them everywhere")


@click.command("restore")
@click.argument("documents", nargs=-1, required=True)
@plan_option
@config_option
@set_option
@json_option
def restore_command(
    documents: tuple[str, ...], *, plan: bool, file: Path | None, overrides: tuple[str, ...], as_json: bool
) -> None:
    """Take deleted DOCUMENTS into the index again: a refresh, which embeds only what is not cached any more."""
    from llmops.cli.commands.ingest import refresh_and_register

    job = rag_job(file, overrides).value
    uris = curator(job.state).restore(job.index.name, documents, plan=plan)
    done = None if plan else refresh_and_register(job)[0]
    if as_json:
        print_json({"index": job.index.name, "restored": uris, "refresh": done and done.as_json()})
        return
    for uri in uris:
        click.echo(visible(uri))
    if done is None:
        say(f"{len(uris):,} would be restored")
    else:
        say(f"{len(uris):,} restored; {done.added:,} documents added, {done.embedded:,} chunks embedded")


@click.command("move")
@click.option("--from", "origin", metavar="REFERENCE", help="Database it lies in: env:NAME or file:PATH of its URL.")
@plan_option
@config_option
@set_option
@json_option
def move_command(
    origin: str | None, *, plan: bool, file: Path | None, overrides: tuple[str, ...], as_json: bool
) -> None:
    """Move the index to where `state.sql_url` says, from its folder or another database; nothing is embedded.

    Both places are compared row by row before the old one is emptied. After a crash the same command does the rest.
    """
    from llmops.core.secret import resolve_secret

    job = rag_job(file, overrides).value
    done = curator(job.state).move(job.index.name, origin and resolve_secret(origin), plan=plan)
    if as_json:
        print_json(done.as_json())
        return
    rows = ", ".join(f"{count:,} {name}" for name, count in done.rows.items())
    say(f"{done.index}: {rows} {'would move' if plan else 'moved'} from {done.source} to {done.target}")
    for generation, digest in done.digests.items():
        say(f"  generation {generation}: digest {digest[:16]} in {'the old place' if plan else 'both'}")


def curator(state: StateConfig) -> Curator:
    """Acts for the holder of the key in LLMOPS_KEY, else for the machine's own account."""
    from llmops.core.keys import REGISTRY_SCOPE, acting_principal
    from llmops.rag.curation import Curator

    return Curator(state, acting_principal(state, REGISTRY_SCOPE))


def _day(at: float | None) -> str:
    return "" if at is None else datetime.fromtimestamp(at, tz=UTC).strftime("%Y-%m-%d %H:%M")
