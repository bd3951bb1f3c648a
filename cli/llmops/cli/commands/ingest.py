"""`llmops ingest`: refresh the index, plan it, verify it, and look inside."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from llmops.cli.group import Group
from llmops.cli.ingest_documents import (
    config_option,
    delete_command,
    list_command,
    move_command,
    restore_command,
)
from llmops.cli.jobs import rag_job
from llmops.cli.output import amount, json_option, print_json, print_table, progress, say, set_option
from llmops.cli.registry_job import open_registry
from llmops.core.errors import UserError
from llmops.rag.config import FolderSource, IndexConfig, RagConfig

if TYPE_CHECKING:
    from llmops.rag.facts.derive import Tally
    from llmops.rag.ingest.forecast import Forecast
    from llmops.rag.ingest.refresh import Refresh


class _PathsOrCommand(Group):
    """A word that is no subcommand is a path: `llmops ingest handbook` refreshes from that folder."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not any(word in self.commands for word in args[:1]) and "--help" not in args and "-h" not in args:
            args = ["refresh", *args]
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(
            "llmops ingest", "[PATH... | CONFIG] [OPTIONS] | status | list | inspect DOC | delete DOC... | move"
        )


@click.group("ingest", cls=_PathsOrCommand)
def command() -> None:
    """Refresh the vector index from its documents.

    Without arguments the sources of configs/rag.yaml are read; CONFIG names another job file. PATHs stand in place of
    the configured sources: the index then holds what is there, and nothing else. `llmops ingest refresh --help` lists
    the options.
    """


@command.command("refresh")
@click.argument("paths", nargs=-1)
@click.option("--plan", "planned", is_flag=True, help="Show what a refresh would do; change nothing.")
@click.option("--full", is_flag=True, help="Parse every document again (known texts keep their vectors).")
@click.option("--verify", "checked", is_flag=True, help="Compare all parts of the index, and mend what differs.")
@click.option("--strict", is_flag=True, help="Exit with 1 where a document could not be read.")
@click.option("--allow-mass-delete", is_flag=True, help="Remove documents, however many are gone from the sources.")
@click.option("--every", metavar="TIME", help="Refresh again and again, every 30s, 15m, 6h or 1d, until Ctrl-C.")
@click.option("--yes", is_flag=True, help="Let PATHs remove documents of other sources from the index.")
@set_option
@json_option
def refresh_command(
    paths: tuple[str, ...], every: str | None, overrides: tuple[str, ...], as_json: bool, **flags: bool
) -> int:
    """Refresh the index (the word `refresh` may be left out)."""
    job = _job(paths, overrides)
    if flags["planned"]:
        return _plan(job, full=flags["full"], as_json=as_json)
    if flags["checked"]:
        return _verify(job, as_json=as_json)
    if any(not _is_config(path) for path in paths) and not flags["yes"]:
        _guard_other_sources(job)
    removing = flags["allow_mass_delete"] or flags["yes"]
    if every is not None:
        _repeat(paths, overrides, every, full=flags["full"], allow_mass_delete=removing, as_json=as_json)
    done, registered = refresh_and_register(job, full=flags["full"], allow_mass_delete=removing)
    if as_json:
        print_json({**done.as_json(), "chain": registered})
    else:
        show(done, registered)
    return 1 if flags["strict"] and done.quarantined else 0


@command.command("status")
@config_option
@set_option
@json_option
def status_command(file: Path | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show the heads of the index, its counts and its quarantine."""
    from llmops.rag.ingest.status import status

    job = rag_job(file, overrides).value
    found = status(job.state, job.index.name)
    if as_json:
        print_json(found.as_json())
        return
    rows: list[tuple[Any, ...]] = []
    for generation in found.generations:
        head = generation.head
        state = "interrupted" if generation.interrupted else "current" if generation.current else "kept"
        counts = (head.seq, head.documents, head.chunks, head.digest[:12]) if head else ("-", 0, 0, "-")
        rows.append((generation.name, state, *counts))
    print_table(("generation", "state", "refresh", "documents", "chunks", "digest"), rows, empty="no generation yet")
    quarantine = [(q.uri, q.code, q.reason) for g in found.generations if g.current for q in g.quarantined]
    if quarantine:
        click.echo()
        print_table(("in quarantine", "code", "reason"), quarantine, empty="")
    for generation in found.generations:
        problem = generation.store_problem or ("" if generation.store_whole else "the next refresh mends it")
        say(f"{generation.name}: vectors in {generation.store}{f' ({problem})' if problem else ''}")
    say(f"{found.index}: {found.vectors:,} cached vectors, {found.size_bytes / 1e6:,.1f} MB in {found.folder}")


@command.command("inspect")
@click.argument("document")
@config_option
@set_option
@json_option
def inspect_command(document: str, file: Path | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show how DOCUMENT (a URI such as docs/ingest.md) was cut, or why it was refused."""
    from llmops.rag.ingest.status import inspect

    job = rag_job(file, overrides).value
    view = inspect(job.state, job.index.name, document)
    if as_json:
        print_json(view.as_json())
        return
    if view.quarantined:
        say(f"in quarantine ({view.quarantined.code}): {view.quarantined.reason}")
    rows = [(c["ordinal"], c["page"], c["start"], c["end"], _excerpt(c["text"])) for c in view.chunks]
    print_table(("chunk", "page", "start", "end", "text"), rows, empty="no chunks")
    say(f"{view.uri}: {view.title or 'untitled'}, {view.characters:,} characters, read by {', '.join(view.acl)}")


for document_command in (list_command, delete_command, restore_command, move_command):
    command.add_command(document_command)


def refresh_and_register(
    job: RagConfig, *, full: bool = False, allow_mass_delete: bool = False
) -> tuple[Refresh, dict[str, Any]]:
    """Refresh the index, then register what answers from it; what is unchanged keeps its version."""
    from llmops.rag.ingest.refresh import Options, refresh
    from llmops.rag.packaging import register_chain
    from llmops.rag.retention import retain

    with progress() as bars:
        options = Options(full=full, allow_mass_delete=allow_mass_delete, progress=bars)
        done = refresh(job.index, job.state, options)
    with open_registry(job.state) as registry:
        chain = register_chain(job, registry).chain
        champion = registry.alias(chain.name, "champion")
        cleaned = retain(job, registry)
    for generation in cleaned.generations:
        say(f"generation {generation} is in nobody's use: removed")
    return done, {
        "name": str(chain.name),
        "version": chain.version,
        "champion": champion.version if champion else None,
    }


def show(done: Refresh, registered: dict[str, Any], *, then: str = '`llmops chat "..."` or `llmops serve`') -> None:
    """A refresh in three lines; `then` is what to do next, empty where that is done anyway."""
    names = ("added", "changed", "renamed", "removed", "unchanged")
    counts = [f"{getattr(done, name):,} {name}" for name in names if getattr(done, name)]
    say(f"{done.index}: {', '.join(counts) or 'no documents'} in {done.seconds['total']:.2f} s")
    say(
        f"  {amount(done.chunks, 'chunk')}, {done.embedded:,} embedded, {done.reused:,} vectors reused, "
        f"refresh {done.head.seq}"
    )
    if done.facts.asked or done.facts.left or done.facts.failed:
        say(f"  {_facts(done.facts)}")
    for held in done.quarantined:
        say(f"  not read: {held.uri}: {held.reason}")
    name, version, champion = registered["name"], registered["version"], registered["champion"]
    if version == champion:
        say(f"{name}/{version} is champion.{f' Next: {then}' if then else ''}")
    else:
        say(f"{name}/{version} is registered; the champion stays {champion}.")
        say(f"Try it: `llmops chat --asset {name}/{version}`")


def _job(paths: tuple[str, ...], overrides: tuple[str, ...]) -> RagConfig:
    """The job of the arguments: one CONFIG, or PATHs over this folder's job (or over the defaults)."""
    configs = [path for path in paths if _is_config(path)]
    if configs and len(paths) > 1:
        raise UserError("name one job file, or paths, not both", where=" ".join(paths))
    if configs:
        return rag_job(Path(configs[0]), overrides).value
    if not paths:
        return rag_job(None, overrides).value
    standard = Path("configs/rag.yaml")
    job = rag_job(standard, overrides).value if standard.exists() else RagConfig()
    sources = tuple(FolderSource(path=path) for path in paths)
    return job.model_copy(update={"index": job.index.model_copy(update={"sources": sources})})


def _repeat(paths: tuple[str, ...], overrides: tuple[str, ...], every: str, *, as_json: bool, **how: bool) -> NoReturn:
    """Refresh on a schedule; the job file is read anew each time."""
    from llmops.cli.schedule import repeat, seconds_of

    def once() -> str:
        done, registered = refresh_and_register(_job(paths, overrides), **how)
        if as_json:
            print_json({**done.as_json(), "chain": registered})
        return one_line(done)

    repeat(once, seconds_of(every))


def one_line(done: Refresh) -> str:
    names = ("added", "changed", "renamed", "removed", "unchanged", "embedded")
    counts = [f"{getattr(done, name):,} {name}" for name in names if getattr(done, name)]
    refused = [f"{len(done.quarantined):,} not read"] if done.quarantined else []
    return f"refresh {done.head.seq}: {', '.join(counts + refused) or 'no documents'} in {done.seconds['total']:.1f} s"


def _is_config(path: str) -> bool:
    return Path(path).suffix in {".yaml", ".yml"} and Path(path).is_file()


def _guard_other_sources(job: RagConfig) -> None:
    """Refuse to drop, by the way, what other sources have brought into the index."""
    from llmops.core.errors import NotFoundError
    from llmops.rag.ingest.look import look, side_by_side
    from llmops.rag.manifest import Manifest
    from llmops.rag.records import document_stats

    try:
        manifest = Manifest.open(job.state, job.index.name)
    except NotFoundError:
        return
    paths = [source.path for source in job.index.sources if isinstance(source, FolderSource)]
    outside = set()
    with closing(manifest), look(job.index.sources, job.state) as found:
        for number, _ in manifest.generations():
            for listed, stat in side_by_side(found.documents(), document_stats(manifest, number)):
                if listed is None and stat is not None and not any(_lies_in(stat.uri, path) for path in paths):
                    outside.add(stat.uri)
    if outside:
        raise UserError(
            f"the index would lose {amount(len(outside), 'document')} of other sources",
            where=min(outside),
            hint="give the paths an index of their own with --set index.name=..., or let them go with --yes",
        )


def _lies_in(uri: str, path: str) -> bool:
    return Path(uri).resolve().is_relative_to(Path(path).resolve())


def _plan(job: RagConfig, *, full: bool, as_json: bool) -> int:
    from llmops.rag.ingest.forecast import forecast
    from llmops.rag.ingest.refresh import Options

    with progress() as bars:
        found = forecast(job.index, job.state, Options(full=full, progress=bars))
    if as_json:
        print_json(found.as_json())
        return 0
    print_table(("change", "document"), _changes(found), empty="nothing to do")
    if found.new_generation:
        say(f"generation {found.generation} is new: everything is built beside the index in use")
    for generation, count in found.elsewhere.items():
        say(f"generation {generation}: {amount(count, 'document')} taken out, or shown to others")
    lasts = "time unknown: nothing was embedded here yet" if found.seconds is None else f"about {found.seconds:.1f} s"
    say(
        f"{found.unchanged:,} unchanged; {amount(found.chunks, 'chunk')} to write, {found.to_embed:,} to embed; {lasts}"
    )
    if found.to_ask:
        asked = f"{found.calls:,} of them in this refresh"
        say(f"the facts of {amount(found.to_ask, 'document')} are to be asked of the model, {asked}")
    return 0


def _facts(tally: Tally) -> str:
    """What a model was asked of the documents, in a line."""
    parts = [f"facts: {tally.asked:,} asked ({tally.tokens:,} tokens)"]
    parts += [f"{tally.dropped:,} values dropped"] if tally.dropped else []
    parts += [f"{tally.failed:,} failed ({tally.reason}), tried again later"] if tally.failed else []
    return ", ".join(parts + ([f"{tally.left:,} left for the next refresh"] if tally.left else []))


def _changes(found: Forecast) -> list[tuple[str, str]]:
    rows = [("add", uri) for uri in found.added] + [("change", uri) for uri in found.changed]
    rows += [("rename", f"{old} -> {new}") for new, old in found.renamed.items()]
    rows += [("remove", uri) for uri in found.removed]
    return rows + [("cannot read", f"{uri}: {reason}") for uri, reason in found.quarantined.items()]


def _verify(job: RagConfig, *, as_json: bool) -> int:
    from llmops.rag.ingest.refresh import Options
    from llmops.rag.ingest.verify import repair, verify

    index: IndexConfig = job.index
    with progress() as bars:
        found = verify(index, job.state, Options(progress=bars))
        after = found if found.ok else repair(index, job.state, Options(progress=bars))
    if as_json:
        print_json({**after.as_json(), "found": found.as_json()["problems"]})
        return 0 if after.ok else 1
    rows = [(problem.part, problem.uri, problem.what) for problem in found.problems]
    print_table(("part", "document", "problem"), rows, empty="the index is whole")
    say(f"{amount(after.documents, 'document')} and {amount(after.chunks, 'chunk')} compared in {found.seconds:.1f} s")
    if not found.ok:
        say("mended: the index is whole again" if after.ok else "some of it could not be mended; run --full")
    return 0 if after.ok else 1


def _excerpt(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 90 else f"{line[:87]}..."
