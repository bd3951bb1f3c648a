"""How commands speak: data on stdout, progress on stderr, one JSON document where `--json` is asked for."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import click
import orjson

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
set_option = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a configuration value; may be repeated."
)


_PICTURES = {
    **{code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\t\n"},
    0x7F: "\u2421",
    **dict.fromkeys((*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)), "\ufffd"),
}


def visible(text: str) -> str:
    """Words of a document, of its name or of a model, as a terminal may have them.

    Characters that command a terminal, or turn the order of what is read round, are shown as pictures: a name could set
    the clipboard, an answer could rewrite the lines above it.
    """
    return text.replace("\r\n", "\n").translate(_PICTURES)


def print_json(value: Any) -> None:
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str).decode())


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, empty: str) -> None:
    """A table on a terminal; tab-separated lines, ready for `cut`, elsewhere."""
    if not rows:
        click.echo(empty, err=True)
        return
    if not sys.stdout.isatty():
        click.echo("\t".join(columns))
        for row in rows:
            click.echo("\t".join("" if cell is None else _in_a_line(str(cell)) for cell in row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if cell is None else visible(str(cell))) for cell in row))
    Console(no_color=bool(os.environ.get("NO_COLOR"))).print(table)


def _in_a_line(cell: str) -> str:
    return visible(cell.replace("\n", " ").replace("\t", " "))


def say(text: str) -> None:
    """Progress and advice: stderr, so that stdout stays data."""
    click.echo(visible(text), err=True)


def amount(number: int, noun: str) -> str:
    """`1 chunk`, `5,600 chunks`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


class Bars(Protocol):
    """Draws how far each phase of a job is; `rate` is in units a second."""

    def __call__(self, phase: str, done: int, total: int | None, rate: float) -> None: ...


@contextmanager
def progress() -> Iterator[Bars]:
    """A bar a phase with rate and remaining time on a terminal; a plain line every few seconds elsewhere."""
    if sys.stderr.isatty():
        with _rich_bars() as bars:
            yield bars
    else:
        yield _PlainLines()


@contextmanager
def _rich_bars() -> Iterator[Bars]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, no_color=bool(os.environ.get("NO_COLOR")))
    columns = (
        TextColumn("{task.description:<8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:,.0f}/s"),
        TimeRemainingColumn(),
    )
    lock = threading.Lock()
    with Progress(*columns, console=console, transient=True) as drawn:
        tasks: dict[str, Any] = {}

        def update(phase: str, done: int, total: int | None, rate: float) -> None:
            with lock:
                if phase not in tasks:
                    tasks[phase] = drawn.add_task(phase, total=total, rate=rate)
            drawn.update(tasks[phase], completed=done, total=total, rate=rate)

        yield update


class _PlainLines:
    """At most one line in three seconds a phase; phases that are quicker stay silent."""

    def __init__(self, every_s: float = 3.0) -> None:
        self._every_s = every_s
        self._next: dict[str, float] = {}

    def __call__(self, phase: str, done: int, total: int | None, rate: float) -> None:
        now = time.monotonic()
        if now < self._next.setdefault(phase, now + self._every_s):
            return
        self._next[phase] = now + self._every_s
        of = f" of {total:,}" if total is not None else ""
        say(f"{phase}: {done:,}{of}, {rate:,.0f}/s")
