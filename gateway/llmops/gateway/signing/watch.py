"""Notices that a file behind a secret was replaced, so that rotated credentials need no reload.

Knows files by their marks, never their content. Looks once a second, outside of any request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from llmops.core.errors import ConfigError

EVERY_S = 1.0

_FILE = "file:"
_log = logging.getLogger(__name__)


class SecretWatch:
    """Calls `changed` when a file of the references is another one; what is no good is logged, the old one stays."""

    def __init__(
        self, references: Iterable[str | None], changed: Callable[[], None], loop: asyncio.AbstractEventLoop
    ) -> None:
        files = [reference for reference in references if reference is not None and reference.startswith(_FILE)]
        self._paths = [Path(reference.removeprefix(_FILE)).expanduser() for reference in files]
        self._changed = changed
        self._loop = loop
        self._marks = self._look()
        self._timer: asyncio.TimerHandle | None = None
        if self._paths:
            self._timer = loop.call_later(EVERY_S, self._turn)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _turn(self) -> None:
        self._timer = self._loop.call_later(EVERY_S, self._turn)
        marks = self._look()
        if marks == self._marks:
            return
        self._marks = marks
        try:
            self._changed()
        except ConfigError as error:
            _log.error("changed credentials cannot be used, the ones before stay in force: %s", error.what)

    def _look(self) -> list[tuple[int, int, int] | None]:
        return [_mark(path) for path in self._paths]


def _mark(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
