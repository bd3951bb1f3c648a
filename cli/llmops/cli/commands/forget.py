"""`llmops forget`: the right to be forgotten, for a document or for a person."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmops.cli.output import json_option, print_json, print_table, say
from llmops.cli.registry_job import config_option, job_state
from llmops.core.errors import UserError

if TYPE_CHECKING:
    from llmops.core.sql import Sql
    from llmops.core.state import StateConfig
    from llmops.rag.forget import Note, Report

ACTION = "forget"


@click.command("forget")
@click.argument("documents", nargs=-1)
@click.option("--requester", help="Forget this person's exchanges and feedback: `key:...`, `person:...`, as logged.")
@click.option("--resume", is_flag=True, help="Finish what was begun and interrupted.")
@click.option("--plan", "planned", is_flag=True, help="Say what would be removed; change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@config_option
@json_option
def command(  # noqa: PLR0913 - each is an option
    documents: tuple[str, ...], *, requester: str | None, resume: bool, planned: bool, yes: bool,
    config: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Erase DOCUMENTS (URIs), or a person, from every index, copy, table and log of the state folder, for good.

    Nothing brings them back: `llmops ingest delete` is the kind of deleting that can be undone.
    """
    from llmops.rag import forget

    state = job_state(config)
    if resume:
        if documents or requester:
            raise UserError("--resume goes on with what was asked before; name nothing", where="--resume")
        notes = forget.unfinished(state)
    else:
        notes = [forget.request_of(documents, requester)]
    if planned:
        reports = [forget.plan(state, note) for note in notes]
    else:
        _ask(documents, requester, yes=yes or resume)
        reports = [_forget(state, note) for note in notes]
    if as_json:
        print_json([report.as_json() for report in reports] if resume else reports[0].as_json())
        return
    for report in reports:
        _show(report)
    if not reports:
        say("nothing was left unfinished")


def _forget(state: StateConfig, note: Note) -> Report:
    """Forget under the rights of whoever asks, and on record: the record names the subject by a hash only."""
    from llmops.core.keys import REGISTRY_SCOPE, acting_principal
    from llmops.core.sql import open_sql
    from llmops.rag import forget
    from llmops.registry.access import EVERYTHING, Privilege
    from llmops.registry.authority import Authority

    what = "requester" if note.requester is not None else "documents"
    principal = acting_principal(state, REGISTRY_SCOPE)
    with (
        open_sql(state) as sql,
        Authority.over(sql, state, principal) as authority,
        authority.acting(ACTION, f"sha256:{note.subject}", {"kind": what}) as acting,
    ):
        with sql.read() as connection:
            authority.require(connection, Privilege.MANAGE, EVERYTHING)
        answers, conversations = _forget_kept(sql, note.uris, note.requester)
        report = forget.forget(state, note)
        answers += _forget_kept(sql, report.documents, None)[0]  # those of the same bytes under other names
        report.blanked |= {"answers in conversations": answers} if answers else {}
        report.deleted |= {"conversations": conversations} if conversations else {}
        report.out_of_reach += _taught(state, [one.path for one in report.remains])
        _clear_shared_answers(state)
        with sql.begin() as connection:
            acting.concluded(connection, result=report.counts())
    return report


def _forget_kept(sql: Sql, uris: list[str], requester: str | None) -> tuple[int, int]:
    """Erase what people kept, and say how many answers and conversations; before all else, so that the same call does
    it again where this is killed."""
    from llmops.core.people.forgetting import forget_documents, forget_person

    answers = forget_documents(sql, uris) if uris else 0
    return answers, forget_person(sql, requester) if requester is not None else 0


def _taught(state: StateConfig, remains: list[str]) -> list[str]:
    """Which runs of fine-tuning learned from a data set in which the subject was found: weights cannot be searched."""
    from llmops.finetune.runs import list_runs

    told = []
    sets = [path for path in remains if path.startswith("finetune/")]
    for run in list_runs(state) if sets else ():
        job = run.path / "job.json"
        text = job.read_text() if job.exists() else ""
        if named := [path for path in sets if path in text or path.startswith(f"finetune/{run.run_id}/")]:
            version = run.read("run.json").get("version") or "no registered version"
            told.append(f"what the run {run.run_id} ({version}) learned from {named[0]}: train anew without it")
    return told


def _clear_shared_answers(state: StateConfig) -> None:
    """Empty the answers that the gateway's workers of this machine share: which of them quote whom, nothing tells."""
    path = state.root / "gateway" / "cache.db"
    if not path.exists():
        return
    from llmops.gateway.cache.shared import SqliteShared

    async def clear() -> None:
        shared = SqliteShared(path, 0, 0.0)
        await shared.clear()
        await shared.close()

    asyncio.run(clear())


def _ask(documents: tuple[str, ...], requester: str | None, *, yes: bool) -> None:
    if yes:
        return
    what = f"{len(documents):,} documents" if documents else f"all exchanges of {requester}"
    if not sys.stdin.isatty():
        raise UserError("forgetting cannot be undone", hint="look with --plan, then say --yes")
    click.confirm(f"Erase {what} for good?", abort=True, err=True)


def _show(report: Report) -> None:
    rows = [("document", uri) for uri in report.documents]
    rows += [("generation", f"{index} {name}") for index, names in report.generations.items() for name in names]
    rows += [("copy of a source", folder) for folder in report.sources]
    rows += [("rows deleted", f"{table}: {count:,}") for table, count in report.deleted.items()]
    rows += [("rows emptied", f"{table}: {count:,}") for table, count in report.blanked.items()]
    rows += [("still found", f"{one.path}: {one.why}") for one in report.remains]
    rows += [("out of reach", text) for text in report.out_of_reach]
    print_table(("what", "which"), rows, empty="nothing was found")
    say("this would be erased; nothing was changed" if report.planned else "erased, and kept from coming back")
