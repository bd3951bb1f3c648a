"""`llmops feedback`: what readers thought of the answers, with the question and the answer they judged."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmops.cli.group import Group
from llmops.cli.jobs import serve_job
from llmops.cli.output import json_option, print_json, print_table, say, set_option

if TYPE_CHECKING:
    from llmops.serving.judgements import Judgement

_NONE = "no feedback yet: readers give it by the thumbs under an answer; `llmops up` opens the page"


def filters(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options by which both subcommands choose judgements."""
    for option in (
        click.option("--config", type=click.Path(path_type=Path), help="The serve job; default: configs/serve.yaml."),
        click.option("--since", metavar="WHEN", help="Given after this: 7d, 12h, or 2026-01-31."),
        click.option("--value", type=click.Choice(["up", "down"]), help="Only thumbs up, or only down."),
        click.option("--reason", help="Only with this reason, such as wrong_source."),
        click.option("--endpoint", help="Only about this endpoint."),
        click.option("--talk", is_flag=True, help="Only where the reader wants to talk to a person."),
        click.option("--all", "every", is_flag=True, help="Also what its giver has superseded."),
        click.option("--limit", type=click.IntRange(min=1), help="Most to show, newest first."),
        set_option,
    ):
        function = option(function)
    return function


@click.group("feedback", cls=Group)
def command() -> None:
    """List and export what readers thought of the answers."""


@command.command("list")
@filters
@json_option
def list_(as_json: bool, **chosen: Any) -> None:
    """Thumbs with reason, comment, question and answer, newest first; rows not yet drained included."""
    judgements = _read(chosen)
    if as_json:
        print_json([judgement.as_json() for judgement in judgements])
        return
    rows = [
        (
            judgement.time.astimezone().strftime("%Y-%m-%d %H:%M"),
            judgement.value,
            judgement.reason,
            judgement.comment,
            "yes" if judgement.talk_to_a_person else "",
            _short(judgement.question),
            f"{judgement.asset}/{judgement.version}" if judgement.asset else None,
            judgement.request_id,
        )
        for judgement in judgements
    ]
    columns = ("time", "value", "reason", "comment", "talk", "question", "version", "request_id")
    print_table(columns, rows, empty=_NONE)


@command.command("export")
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False), required=False)
@filters
@json_option
def export(path: Path | None, as_json: bool, **chosen: Any) -> None:
    """Write one JSON object a line, to PATH or stdout: question, answer, citations, thumb, reason and version."""
    import orjson

    from llmops.core.files import write_atomic

    judgements = _read(chosen)
    lines = b"".join(orjson.dumps(judgement.as_json()) + b"\n" for judgement in judgements)
    if path is None:
        click.echo(lines, nl=False)
        if not judgements:
            say(_NONE)
        return
    write_atomic(path, lines)
    if as_json:
        print_json({"path": str(path), "rows": len(judgements)})
    say(f"{len(judgements)} judgement{'s' * (len(judgements) != 1)} in {path}")


def _read(chosen: dict[str, Any]) -> list[Judgement]:
    from llmops.core.lake import Lake
    from llmops.serving.judgements import Wanted, read_judgements

    job = serve_job(chosen.pop("config"), chosen.pop("overrides")).value
    wanted = Wanted(**{**chosen, "since": _moment(chosen["since"])})
    return read_judgements(Lake(job.state), job.feedback, job.inference_log, wanted)


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    if match := re.fullmatch(r"(\d+)([dh])", text):
        unit = "days" if match[2] == "d" else "hours"
        return datetime.now(UTC) - timedelta(**{unit: int(match[1])})
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"`{text}` is no time; write 7d, 12h or 2026-01-31", param_hint="--since") from None
    return moment if moment.tzinfo else moment.astimezone()


def _short(text: str | None) -> str | None:
    if text is None or len(text) <= 80:
        return text
    return f"{text[:77]}..."
