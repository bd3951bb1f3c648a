"""Delivers the outbox, message by message, from whichever process has time: an engine's or the scheduler's."""

from __future__ import annotations

import logging
import threading
import time

from pydantic import TypeAdapter

from llmops.core.errors import LlmopsError
from llmops.core.logs import redact_text
from llmops.core.sql import Sql
from llmops.registry.workflow.config import NotifyConfig
from llmops.registry.workflow.notify import channels, outbox

_entries: TypeAdapter[NotifyConfig] = TypeAdapter(NotifyConfig)
_log = logging.getLogger(__name__)


def deliver(sql: Sql) -> int:
    """Send what is due; gives how many were sent. One that fails is tried again later and holds no other up."""
    sent = 0
    while (message := outbox.take(sql)) is not None:
        error = _sent(message)
        outbox.settle(sql, message, error)
        sent += not error
    return sent


def _sent(message: outbox.Message) -> str:
    try:
        channels.send(_entries.validate_python(message.channel), message.body)
    except LlmopsError as error:
        where = f" ({error.where})" if error.where else ""
        _log.warning("a message about run %s was not delivered: %s%s", message.body["run_id"], error.what, where)
        return redact_text(f"{error.what}{where}")
    return ""


class Courier:
    """Delivers in the background, as a block: what is still due at its end gets `last_s` more."""

    def __init__(self, sql: Sql, *, every_s: float = 1.0, last_s: float = 5.0) -> None:
        self._sql = sql
        self._every_s = every_s
        self._last_s = last_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="workflow-courier", daemon=True)

    def __enter__(self) -> Courier:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        deadline = time.monotonic() + self._last_s
        self._thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        while True:
            stopping = self._stop.is_set()
            try:
                deliver(self._sql)
            except LlmopsError as error:
                _log.warning("messages wait: %s", error.what)
            if stopping:
                return
            self._stop.wait(self._every_s)
