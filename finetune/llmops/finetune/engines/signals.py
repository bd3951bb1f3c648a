"""Being asked to end: a checkpoint after the step at hand, then out. A second interrupt ends it at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from llmops.core.errors import LlmopsError

_HEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Stopped(LlmopsError):
    """Somebody asked a training to end; a checkpoint holds all that was done."""

    code = "stopped"
    exit_code = 130
    http_status = 409


class Signals:
    """Listens for SIGINT, SIGTERM and SIGUSR1 (a cluster's warning before its time limit) while a training runs."""

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for one in _HEARD:
                self._before[one] = signal.signal(one, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)

    def stopped(self, step: int) -> Stopped:
        name = self.asked.name if self.asked else "another rank's signal"
        return Stopped(
            f"training was asked to end ({name}) and did, after step {step}: the checkpoint holds it",
            hint="go on with `llmops finetune resume RUN`",
        )

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.asked is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = signal.Signals(number)
