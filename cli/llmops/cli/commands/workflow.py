"""`llmops workflow`: run declared tasks, see how they stand, resume, cancel and schedule them, write templates."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmops.cli.group import Group
from llmops.cli.jobs import any_job
from llmops.cli.output import json_option, print_json, print_table, say, set_option
from llmops.cli.registry_job import exists
from llmops.core.errors import LlmopsError, NotFoundError, UserError
from llmops.core.state import StateConfig

if TYPE_CHECKING:
    from llmops.core.identity import Principal
    from llmops.registry.workflow import Job, Run, Task, Workflows

FOLDER = Path("configs/workflows")
file_argument = click.argument("file", metavar="CONFIG", type=click.Path(path_type=Path))
config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="Job file whose `state:` is meant; default: the first of configs/workflows, else .llmops.",
)


@click.group("workflow", cls=Group)
def command() -> None:
    """Run declared tasks that pass values, survive kills, wait for people, and start by hand, time or alert."""


@command.command("run")
@file_argument
@click.option("--plan", is_flag=True, help="Print the tasks in their order, with parameters; run nothing.")
@click.option("--key", help="A word for this run: the same word again is the same run, also when it is over.")
@click.option("--wait", "waits", is_flag=True, help="Stay until the run is over, also while it waits for people.")
@click.option("--waiting-exit-code", type=click.IntRange(0, 255), default=0, help="Exit code where the run waits.")
@set_option
@json_option
def run(file: Path, overrides: tuple[str, ...], as_json: bool, **how: Any) -> int:
    """Run the workflow of CONFIG; where a run of the same is unfinished, go on with it.

    Exit codes: 0 succeeded (or waits), 1 failed, 3 a gate said no.
    """
    from llmops.registry.workflow import Cause, Workflows, load_job

    job = load_job(file, overrides)
    if how["plan"]:
        _plan(job, as_json)
        return 0
    with Workflows(job.config.state, principal=_principal(job.config.state)) as flows:
        cause = Cause(key=how["key"]) if how["key"] else None
        started = flows.start_or_resume(job, cause=cause)
        if started.status.value == "waiting":
            say(f"going on with {started.run_id}")
        ended = _carry(flows, started, waits=how["waits"])
        return _report(flows, ended, as_json, how["waiting_exit_code"])


@command.command("resume")
@click.argument("run_id", metavar="RUN")
@click.option("--wait", "waits", is_flag=True, help="Stay until the run is over, also while it waits for people.")
@config_option
@json_option
def resume(run_id: str, waits: bool, config: Path | None, as_json: bool) -> int:
    """Go on with RUN (as `show` takes it): interrupted, waiting, failed or cancelled.

    What has succeeded is not run again. A run that a gate refused stays refused.
    """
    with _flows(config) as flows:
        return _report(flows, _carry(flows, flows.repair(_find(flows, run_id)[0].run_id), waits=waits), as_json, 0)


@command.command("cancel")
@click.argument("run_id", metavar="RUN")
@config_option
@json_option
def cancel(run_id: str, config: Path | None, as_json: bool) -> None:
    """End RUN; tasks under way are ended within seconds."""
    with _flows(config) as flows:
        cancelled = flows.cancel(run_id)
        deadline = time.monotonic() + 30
        while not cancelled.status.over and time.monotonic() < deadline:
            time.sleep(0.2)
            cancelled, _ = flows.show(cancelled.run_id)
    if as_json:
        print_json(cancelled.as_json())
    else:
        say(f"{cancelled.run_id} is {cancelled.shown}")


@command.command("list")
@click.argument("workflow", required=False)
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, help="Most runs shown.")
@config_option
@json_option
def list_(workflow: str | None, limit: int, config: Path | None, as_json: bool) -> None:
    """Print the runs, newest first; with WORKFLOW only its own."""
    if not exists(_state(config)):
        runs: list[Run] = []
    else:
        with _flows(config) as flows:
            runs = flows.list(workflow, limit=limit)
    if as_json:
        print_json([one.as_json() for one in runs])
        return
    rows = [
        (
            r.run_id,
            r.workflow,
            r.shown,
            r.cause.means,
            r.requested_by.id,
            f"{r.created_at:%F %T}",
            _seconds(r.active_s),
            _why(r),
        )
        for r in runs
    ]
    columns = ("run", "workflow", "status", "by", "for", "asked for (UTC)", "active", "why")
    print_table(columns, rows, empty="no runs yet; `llmops workflow run CONFIG` starts one")


@command.command("show")
@click.argument("run_id", metavar="RUN")
@click.option("--log", "of", metavar="TASK", help="Print what TASK's last attempt printed.")
@config_option
@json_option
def show(run_id: str, of: str | None, config: Path | None, as_json: bool) -> None:
    """Print RUN (its id, the beginning of it, or a workflow's name for its newest run) and its tasks."""
    with _flows(config) as flows:
        found, tasks = _find(flows, run_id)
        if of is not None:
            _print_log(flows, tasks, of)
        elif as_json:
            print_json(found.as_json() | {"tasks": [one.as_json() for one in tasks]})
        else:
            _print_run(found, tasks)


@command.command("schedule")
@click.argument("files", metavar="CONFIG...", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--listen", metavar="HOST:PORT", help="Take signed triggers over HTTP at this address.")
@click.option("--allow-host", "hosts", multiple=True, help="Further host name by which clients may call it.")
@click.option("--plan", is_flag=True, help="Print when each workflow would start next; run nothing.")
@set_option
@json_option
def schedule(files: tuple[Path, ...], overrides: tuple[str, ...], as_json: bool, **how: Any) -> None:
    """Start each workflow at its times, and resume what was interrupted or waits, until Ctrl-C."""
    from llmops.registry.workflow import load_job
    from llmops.registry.workflow.schedule import upcoming
    from llmops.registry.workflow.scheduler import serve

    jobs = [load_job(file, overrides) for file in files]
    if how["plan"]:
        rows = [(job.config.name, when, job.file) for job in jobs for when in upcoming(job)]
        if as_json:
            print_json([{"workflow": name, "at": when, "file": file} for name, when, file in rows])
        else:
            print_table(("workflow", "at", "file"), rows, empty="no workflow here has a `schedule`")
        return
    principal = _principal(jobs[0].config.state)
    serve(jobs, listen=how["listen"], hosts=how["hosts"], principal=principal, announce=say)


@command.command("triggers")
@click.argument("workflow", required=False)
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, help="Most requests shown.")
@config_option
@json_option
def triggers(workflow: str | None, limit: int, config: Path | None, as_json: bool) -> None:
    """Print the requests to start a workflow that came in signed: who, when, and what came of each."""
    from llmops.registry.workflow.trigger import received

    with _flows(config) as flows:
        found = received(flows.sql, workflow, limit)
    if as_json:
        print_json([one.as_json() for one in found])
        return
    rows = [
        (
            f"{r.received_at:%F %T}",
            r.workflow,
            f"trigger:{r.key_id}",
            r.address,
            r.request_id,
            r.outcome,
            r.run_id,
            r.note,
        )
        for r in found
    ]
    columns = ("received (UTC)", "workflow", "by", "from", "request", "outcome", "run", "note")
    print_table(columns, rows, empty="no signed request has come in yet")


@command.command("template")
@click.argument("kind", type=click.Choice(["cron", "kubernetes", "airflow", "github-actions"]))
@file_argument
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for the files; default: print them."
)
@click.option("--image", default="ghcr.io/your-team/llmops:latest", help="Container image (kubernetes).")
@set_option
def template(kind: str, file: Path, out: Path | None, image: str, overrides: tuple[str, ...]) -> None:
    """Write what starts CONFIG's workflow elsewhere: crontab and systemd, Kubernetes, Airflow, GitHub Actions."""
    from llmops.registry.workflow import load_job
    from llmops.registry.workflow.templates import rendered

    files = rendered(kind, load_job(file, overrides), image=image)
    if out is None:
        for name, text in files.items():
            click.echo(f"# {name}\n{text}" if len(files) > 1 else text, nl=len(files) > 1)
        return
    for name, text in files.items():
        place = out / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
        click.echo(str(place))


def _carry(flows: Workflows, run_: Run, *, waits: bool) -> Run:
    """Take the run as far as it goes, after those that are ahead of it: one that nobody runs is taken along."""
    told = ""
    while not run_.status.over:
        blocker = flows.blocker(run_)
        if blocker is None:
            run_ = _ride(flows, run_)
            if run_.status.value == "waiting" and not waits:
                break
        elif blocker.run_id != told:
            told = blocker.run_id
            say(f"{run_.run_id} is queued behind {told}, which is {blocker.shown}")
            if blocker.interrupted or blocker.status.value == "waiting":
                blocker = _ride(flows, blocker)
            if blocker.status.value == "waiting" and not waits:
                say(f"it starts when {told} is over, by a running `llmops workflow schedule` or this command again")
                break
        time.sleep(5.0 if run_.status.value == "waiting" else 0.5)
        run_, _ = flows.show(run_.run_id)
    return run_


def _ride(flows: Workflows, run_: Run) -> Run:
    from llmops.cli.workflow_progress import watching

    with watching() as watch:
        return flows.engine(watch).carry(run_.run_id)


def _report(flows: Workflows, ended: Run, as_json: bool, waiting_exit_code: int) -> int:
    """The end of a run, and what to do next."""
    _, tasks = flows.show(ended.run_id)
    if as_json:
        print_json(ended.as_json() | {"tasks": [one.as_json() for one in tasks]})
    if ended.error is not None:
        _tell_failure(flows, ended, tasks)
    elif ended.status.value == "waiting":
        say(f"{ended.run_id} waits: {ended.reason}")
        say(f"Next: `llmops workflow resume {ended.run_id}`, or leave it to a running `llmops workflow schedule`")
        return waiting_exit_code
    elif ended.status.value == "queued":
        return waiting_exit_code
    else:
        say(f"{ended.run_id} {ended.shown} in {_seconds(ended.active_s)}")
        if not as_json:
            say(f"Next: `llmops workflow show {ended.run_id}` prints what each task gave")
    return ended.exit_code


def _tell_failure(flows: Workflows, ended: Run, tasks: list[Task]) -> None:
    from llmops.core.errors import render
    from llmops.registry.workflow.logfile import last_lines

    error = ended.error
    assert error is not None
    place = next((flows.log(one) for one in tasks if one.task == error.task), None)
    lines = last_lines(place) if place is not None else []
    if lines and not error.gate:
        say(f"--- the end of {place}")
        say("\n".join(lines))
        say("---")
    what = LlmopsError(f"task `{error.task}`: {error.what}", where=error.where or str(place), hint=error.hint)
    say(render(what))
    if not error.gate:
        say(f"Next: mend it, then `llmops workflow resume {ended.run_id}`: what succeeded is not run again")


def _plan(job: Job, as_json: bool) -> None:
    from llmops.registry.workflow.graph import needs_of
    from llmops.registry.workflow.targets import target

    needs, params = needs_of(job.config.tasks), job.params()
    every = [(one, needs[one.name], "") for one in job.config.tasks]
    every += [(one, (), "after a failure") for one in job.config.on_failure]
    if as_json:
        tasks = [
            {
                "task": one.name,
                "run": target(one.name, one.run),
                "needs": list(before),
                "when": one.when or note or None,
                **one.model_dump(mode="json", include={"settings", "retries", "timeout_s"}),
            }
            for one, before, note in every
        ]
        print_json({"workflow": job.config.name, "env": job.config.env, "params": params, "tasks": tasks})
        return
    rows = [
        (one.name, target(one.name, one.run), ", ".join(before), one.when or note, _settings(one.settings))
        for one, before, note in every
    ]
    print_table(("task", "runs", "after", "when", "with"), rows, empty="")
    say(f"{job.config.name} in {job.config.env}: {_settings(params) or 'no parameters'}")


def _print_run(found: Run, tasks: list[Task]) -> None:
    rows = [
        (
            t.task,
            t.status.value,
            t.attempts,
            _seconds(t.duration_s),
            t.error.what if t.error else t.reason,
            _settings(t.values or {}),
        )
        for t in tasks
        if not t.handler or t.attempts
    ]
    print_table(("task", "status", "attempts", "took", "why", "values"), rows, empty="")
    say(f"{found.workflow} {found.run_id}: {found.shown}, {found.cause.means} by {found.requested_by.id}")
    if found.error is not None:
        say(f"failed at `{found.error.task}`: {found.error.what}")


def _print_log(flows: Workflows, tasks: list[Task], name: str) -> None:
    from llmops.core.errors import did_you_mean

    chosen = next((one for one in tasks if one.task == name), None)
    if chosen is None:
        names = [one.task for one in tasks]
        raise NotFoundError(
            f"the run has no task `{name}`", hint=did_you_mean(name, names) or f"it has {', '.join(names)}"
        )
    place = flows.log(chosen)
    if place is None or not place.exists():
        raise NotFoundError(f"`{name}` has printed nothing here", where=str(place) if place else None)
    sys.stdout.write(place.read_text(encoding="utf-8", errors="replace"))


def _find(flows: Workflows, word: str) -> tuple[Run, list[Task]]:
    try:
        return flows.show(word)
    except NotFoundError:
        newest = flows.list(word, limit=1) if word.isidentifier() and not word[0].isdigit() else []
        if not newest:
            raise
        return flows.show(newest[0].run_id)


def _flows(config: Path | None) -> Workflows:
    state = _state(config)
    if not exists(state):
        raise UserError("no workflow has run here", where=str(state.root), hint="name a job file with --config")
    from llmops.registry.workflow import Workflows

    return Workflows(state, principal=_principal(state))


def _principal(state: StateConfig) -> Principal:
    """The holder of the key in LLMOPS_KEY, else the machine's own account."""
    from llmops.core.keys import REGISTRY_SCOPE, acting_principal

    return acting_principal(state, REGISTRY_SCOPE)


def _state(config: Path | None) -> StateConfig:
    if config is None:
        config = next(iter(sorted(FOLDER.glob("*.yaml"))), None)
    if config is None:
        return StateConfig()
    state: StateConfig = any_job(config).value.state  # type: ignore[attr-defined]
    return state


def _why(run_: Run) -> str:
    if run_.error is not None:
        return f"{run_.error.task}: {run_.error.what}"
    return run_.reason or run_.cause.note


def _settings(values: dict[str, Any]) -> str:
    text = ", ".join(f"{key}={value}" for key, value in values.items())
    return text if len(text) <= 120 else f"{text[:117]}..."


def _seconds(duration_s: float | None) -> str:
    if duration_s is None:
        return ""
    return f"{duration_s:.1f} s" if duration_s < 120 else f"{duration_s / 60:.1f} min"
