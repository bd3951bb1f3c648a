"""Processes that write and drain a spool until somebody kills them."""

from __future__ import annotations

import os
import threading
from multiprocessing.connection import Connection
from pathlib import Path

import deltalake  # noqa: F401 - imported once, in the process that the others are forked from
import pyarrow.dataset  # noqa: F401
from tests.support.records import FEEDBACK, LOG, log_row, thumb

from llmops.core.drain import DrainConfig, Drainer
from llmops.core.spool import Spool, SpoolConfig
from llmops.core.state import StateConfig

SMALL = SpoolConfig(segment_bytes=160 * 1024)


def write_forever(root: Path, acknowledged: Connection, threads: int) -> None:
    """Append durable thumbs, and log rows between them; tell each thumb's id once it is acknowledged."""
    spool = Spool(StateConfig(dir=root).spool, SMALL)
    lock = threading.Lock()

    def work() -> None:
        while True:
            spool.append(LOG, log_row(request_json="x" * 500))
            row = thumb()
            spool.append(FEEDBACK, row, durable=True)
            with lock:
                acknowledged.send_bytes(row["feedback_id"].encode())

    for _ in range(threads):
        threading.Thread(target=work, daemon=True).start()
    threading.Event().wait()


def drain_forever(root: Path) -> None:
    """Drain as fast as can be, so that most kills hit the middle of something."""
    drainer = Drainer(StateConfig(dir=root), DrainConfig(interval_s=0.01, maintain_every_s=0.5))
    drainer.start()
    threading.Event().wait()


def drain_once(root: Path, result: Connection) -> None:
    """Drain once and tell how many records, or the error."""
    try:
        result.send(Drainer(StateConfig(dir=root)).drain_once())
    except Exception as error:
        result.send(error)
    os._exit(0)
