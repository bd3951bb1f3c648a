"""Waits for a server that is away: a restart in the middle of a refresh costs its time and nothing else."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from llmops.core.errors import UnavailableError

_log = logging.getLogger("llmops.rag.index")
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 0.5
T = TypeVar("T")


def persist(call: Callable[[], T], patience_s: float) -> T:
    """Repeat a call that may be repeated without harm while its server does not answer.

    Raises:
        UnavailableError: it did not come back in time.
    """
    deadline = time.monotonic() + patience_s
    pause = _FIRST_PAUSE_S
    while True:
        try:
            return call()
        except UnavailableError as error:
            if time.monotonic() + pause > deadline:
                raise
            if pause == _FIRST_PAUSE_S:
                _log.warning("%s; waiting up to %.0f s", error.what, patience_s)
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)
