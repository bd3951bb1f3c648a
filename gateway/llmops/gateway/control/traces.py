"""Reads what came into the inference log and sends it as spans: a thread that no call and no other duty waits for.

The log is the source, so that it makes no difference who drained a row. What a collector does not take is sent again
with the next look, for ten minutes; after that it is dropped, and the log still has the row. Up to where the log was
read is kept in a file, so that a control process that was killed goes on there; ids follow from the row, so that what
is sent twice is the same span. What a span says is `spans`'.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Final

import orjson

from llmops.core.errors import LlmopsError, NotFoundError
from llmops.core.files import write_atomic
from llmops.core.lake import Lake
from llmops.core.tracing import Sender, TracingConfig, open_sender
from llmops.gateway.config import GatewayConfig
from llmops.gateway.control.spans import BODIES, COLUMNS, ended_at, is_traced, steps_of

LOOK_S: Final = 2.0
LATE: Final = timedelta(minutes=10)
"""A call that ended longer ago is not sent any more."""
POSITION: Final = "traced.json"
_CALLS_AT_ONCE: Final = 200
_ROWS_AT_ONCE: Final = 4096
_log = logging.getLogger(__name__)


class Traces:
    """Looks in a thread of its own between `start` and `stop`. `sent` and `lost` count calls."""

    def __init__(self, lake: Lake, config: Callable[[], GatewayConfig], every_s: float = LOOK_S) -> None:
        self._lake = lake
        self._config = config
        self._every_s = every_s
        self._files: frozenset[str] | None = None
        self._version = -1
        self._done: dict[str, datetime] = {}
        """Calls that were sent, until they are too old to be: a table that is compacted shows its rows anew."""
        self._sender: Sender | None = None
        self._sends_by = TracingConfig()
        self._problem = ""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self.sent = 0
        self.lost = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Look once more, then end the thread."""
        self._stopping.set()
        self._thread.join()
        self._close_sender()

    def look(self) -> None:
        """Send what came since the last look.

        Raises:
            LlmopsError: the log or the place of the file can't be used now.
        """
        config = self._config()
        self._renew_sender(config)
        if self._sender is None:
            self._files = None
            self._place(config).unlink(missing_ok=True)
            return
        known = self._begin(config) if self._files is None else self._files
        version = self._lake.version(config.inference_log)
        if version is None or version == self._version:
            return
        dataset, files, version = self._lake.changed(config.inference_log, known)
        if not self._send(dataset, config, self._sender):
            return
        self._files, self._version = frozenset(files), version
        write_atomic(self._place(config), orjson.dumps({"version": version}))

    def _begin(self, config: GatewayConfig) -> frozenset[str]:
        """The files that the last process came through; none where that is not known: what is late is left out."""
        self._files, self._version = frozenset(), -1
        try:
            version = int(orjson.loads(self._place(config).read_bytes())["version"])
            dataset, self._version = self._lake.dataset(config.inference_log, version)
        except (OSError, ValueError, KeyError, TypeError, NotFoundError):
            return self._files
        self._files = frozenset(fragment.path for fragment in dataset.get_fragments())
        return self._files

    def _send(self, dataset: Any, config: GatewayConfig, sender: Sender) -> bool:
        """Whether everything was taken; what was, is not sent again."""
        now = datetime.now(UTC)
        self._done = {call: ended for call, ended in self._done.items() if now - ended < LATE}
        fresh = self._fresh(dataset, config, now)
        while rows := list(islice(fresh, _CALLS_AT_ONCE)):
            if not sender.send([step for row in rows for step in steps_of(row, config)]):
                self._complain("the collector does not take spans; they are sent again for ten minutes")
                return False
            self._done |= {row["invocation_id"]: ended_at(row) for row in rows}
            self.sent += len(rows)
        self._problem = ""
        return True

    def _fresh(self, dataset: Any, config: GatewayConfig, now: datetime) -> Iterator[dict[str, Any]]:
        import pyarrow.dataset as ds

        columns = [*COLUMNS, *(BODIES if config.tracing.content else ())]
        traced = ds.field("trace_id").is_valid() & (ds.field("layer") == "gateway")
        traced &= ds.field("request_date") >= (now - LATE - timedelta(days=1)).date()  # no older folder is opened
        for batch in dataset.to_batches(columns=columns, filter=traced, batch_size=_ROWS_AT_ONCE):
            for row in batch.to_pylist(maps_as_pydicts="strict"):
                if not is_traced(row) or row["invocation_id"] in self._done:
                    continue
                if now - ended_at(row) < LATE:
                    yield row
                else:
                    self.lost += 1

    def _renew_sender(self, config: GatewayConfig) -> None:
        """Follow a reloaded configuration."""
        if config.tracing == self._sends_by:
            return
        self._close_sender()
        self._sender = None if config.tracing.exporter == "off" else open_sender(config.tracing, "llmops-gateway")
        self._sends_by = config.tracing

    def _close_sender(self) -> None:
        if self._sender is not None:
            self._sender.close()
            self._sender = None

    def _run(self) -> None:
        while True:
            last = self._stopping.is_set()
            self._look_and_outlive()
            if last:
                return
            self._stopping.wait(self._every_s)

    def _look_and_outlive(self) -> None:
        try:
            self.look()
        except Exception as error:  # noqa: BLE001 - the thread's boundary: it has to outlive a bad disk and a bad row
            foreseen = isinstance(error, LlmopsError | OSError)
            self._complain(
                f"calls are not traced now, and it will be tried again: {error}", None if foreseen else error
            )

    def _complain(self, what: str, error: Exception | None = None) -> None:
        """Once for each new trouble; `error` is one that nobody foresaw."""
        if what != self._problem:
            _log.warning("%s", what, exc_info=error)
        self._problem = what

    @staticmethod
    def _place(config: GatewayConfig) -> Path:
        return config.folder / POSITION
