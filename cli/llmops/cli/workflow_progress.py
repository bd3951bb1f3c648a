"""Draws how a workflow's run stands: a live table on a terminal, a line a change elsewhere. On stderr."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from llmops.cli.output import say

if TYPE_CHECKING:
    from llmops.registry.workflow import Progress, Task

_STYLES = {
    "pending": "dim", "running": "cyan", "waiting": "yellow", "succeeded": "green", "skipped": "dim",
    "failed": "bold red", "cancelled": "red",
}  # fmt: skip


@contextmanager
def watching() -> Iterator[Callable[[Progress], None]]:
    """Give what an engine tells its changes to."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True, no_color=bool(os.environ.get("NO_COLOR")))
    table = _Table()
    with Live(table, console=console, refresh_per_second=4):
        yield table.take


class _Lines:
    """One line a change of a task."""

    def __init__(self) -> None:
        self._told: dict[str, str] = {}

    def __call__(self, progress: Progress) -> None:
        for task in progress.tasks:
            line = _line(task)
            if line and self._told.get(task.task) != line:
                self._told[task.task] = line
                say(line)


class _Table:
    """A rich renderable that counts the seconds of what runs."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._since: dict[tuple[str, int], float] = {}

    def take(self, progress: Progress) -> None:
        for task in progress.tasks:
            self._since.setdefault((task.task, task.attempts), time.monotonic())
        self._progress = progress

    def __rich__(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, show_header=False)
        for task in self._progress.tasks if self._progress else ():
            if task.handler and not task.attempts:
                continue
            status = task.status.value
            running = time.monotonic() - self._since[task.task, task.attempts]
            took = running if status == "running" else task.duration_s
            attempt = f"attempt {task.attempts}" if task.attempts > 1 else ""
            why = task.error.what if task.error else task.reason or ""
            cells = (task.task, status, f"{took:.0f} s" if took else "", attempt, why)
            table.add_row(
                *(Text(cell, style=_STYLES[status] if index == 1 else "") for index, cell in enumerate(cells))
            )
        return table


def _line(task: Task) -> str:
    match task.status.value:
        case "running":
            return f"{task.task}: running" + (f", attempt {task.attempts}" if task.attempts > 1 else "")
        case "pending":
            return f"{task.task}: will be tried again" if task.failures else ""
        case "succeeded":
            return f"{task.task}: succeeded in {task.duration_s or 0:.1f} s"
        case status:
            why = task.error.what if task.error else task.reason
            return f"{task.task}: {status}" + (f": {why}" if why else "")
