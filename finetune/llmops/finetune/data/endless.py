"""A chat template is a program of the model's maker, run in a sandbox: one that does not come to an end is ended.

The sandbox limits each range, and not loops within loops. What counts here is the processor time of the thread that
renders, so that a slow machine ends nothing that a quick one would not. The thread that watches is there while there is
something to watch, and looks a few times a second: a rendering costs under a microsecond more. A single operation (a
power of huge numbers) is not cut short.

Knows CPython's threads; no template.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable
from threading import get_ident
from typing import TypeVar

from llmops.core.errors import LlmopsError

CPU_S = 5.0
"""Thousands of times what templates take."""
_LOOK_EVERY_S = 0.25
Value = TypeVar("Value")


class EndlessTemplateError(LlmopsError):
    """The template is at fault, and not the row: no row is skipped for it, no restart mends it."""

    code = "template_endless"
    exit_code = 1


class _Expired(BaseException):
    """Raised in the thread that renders, wherever it is; what catches every `Exception` lets it pass."""


class _Rendering:
    since: float | None = None
    """The thread's processor time when it was first seen at this."""
    expired = False


class _Watch:
    """The renderings of this process, one a thread."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.running: dict[int, _Rendering] = {}
        self.on = False
        self.idle = True
        """Whether nothing was begun since the last look."""

    def start(self) -> None:
        with self.lock:
            if not self.on:
                self.on = True
                threading.Thread(target=self._look_on, name="chat templates", daemon=True).start()

    def _look_on(self) -> None:
        while True:
            time.sleep(_LOOK_EVERY_S)
            with self.lock:
                for thread, one in list(self.running.items()):
                    self._look_at(thread, one)
                self.on = not self.idle
                self.idle = True
                if not self.on and not self.running:  # in this order: who begins writes `running`, then reads `on`
                    return
                self.on = True

    @staticmethod
    def _look_at(thread: int, one: _Rendering) -> None:
        now = _processor_s(thread)
        if one.since is None:
            one.since = now
        elif not one.expired and now - one.since > CPU_S:
            one.expired = True
            _raise_in(thread, _Expired)


def ended(render: Callable[[], Value], where: str | None = None) -> Value:
    """What a rendering gives.

    Raises:
        EndlessTemplateError: it took more than `CPU_S` of processor time.
    """
    watch, thread, one = _watch, get_ident(), _Rendering()
    try:
        try:
            watch.running[thread] = one
            watch.idle = False
            if not watch.on:
                watch.start()
            return render()
        finally:
            with watch.lock:
                watch.running.pop(thread, None)
            if one.expired:
                _raise_in(thread, None)  # it came to its end with the exception on its way
    except _Expired:
        with watch.lock:
            watch.running.pop(thread, None)  # the end above may have been cut short
    raise EndlessTemplateError(
        f"the chat template does not come to an end: it ran for more than {CPU_S:g} s",
        where=where,
        hint="name another template as model.chat_template; look at who made this one",
    )


def _processor_s(thread: int) -> float:
    """The processor time of a living thread."""
    return time.clock_gettime(time.pthread_getcpuclockid(thread))


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Have a thread raise it before its next step; None takes back what it has not raised yet."""
    raised = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)


def _anew() -> None:
    """A forked process has no thread that watches, and may have its lock held for ever."""
    global _watch  # noqa: PLW0603 - the one of this process
    _watch = _Watch()


_watch = _Watch()
os.register_at_fork(after_in_child=_anew)
