"""Publishes the virtual keys to the workers of this machine: the key table, read often, written out where it changed.

A revoked key is refused everywhere within about a second: half of it passes until this looks, the rest until the
workers do. While the database is gone the keys published last stay in force.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from llmops.core.errors import LlmopsError
from llmops.core.sql import Sql
from llmops.gateway.control.keys import VirtualKeys
from llmops.gateway.keyring import SNAPSHOT, encode, write_snapshot

POLL_S = 0.5
_log = logging.getLogger(__name__)


class Publisher:
    """Keeps the snapshot in `folder` equal to the key table: in a thread between `start` and `stop`."""

    def __init__(self, sql: Sql, folder: Path, poll_s: float = POLL_S) -> None:
        self._keys = VirtualKeys(sql)
        self._path = folder / SNAPSHOT
        self._poll_s = poll_s
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="publish-keys", daemon=True)
        self.problem = ""
        """Why the table could not be published; empty while it is."""

    def publish(self) -> bool:
        """Write the snapshot where it differs from the table; tells whether it did."""
        with self._lock:  # what was read first is also written first
            policies = self._keys.policies()
            if self._path.exists() and self._path.read_bytes() == encode(policies):
                return False
            write_snapshot(self._path, policies)
            return True

    def attempt(self) -> None:
        """Publish, or log why not: a new key's token must reach its maker also where its publishing has to wait."""
        try:
            self.publish()
            self.problem = ""
        except (LlmopsError, OSError) as error:
            if str(error) != self.problem:
                _log.error("the keys cannot be published, and will be tried again: %s", error)
            self.problem = str(error)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.attempt()
            self._stopping.wait(self._poll_s)
