"""Group commit: many writers wait for one fsync.

One thread a process; it takes whoever waits, syncs each file once, and wakes them. Knows descriptors and waiters, and
nothing of records.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue

from llmops.core.errors import LlmopsError, StorageError
from llmops.core.files import sync_directory
from llmops.core.openfile import OpenFile


@dataclass(eq=False, slots=True)
class ThreadWaiter:
    """A thread that waits for its record to be durable; the spool says which (`file`, `end`) when it is written."""

    file: OpenFile = field(init=False)
    end: int = field(init=False)
    done: threading.Lock = field(default_factory=threading.Lock)
    error: LlmopsError | None = None

    def __post_init__(self) -> None:
        self.done.acquire()

    def wait(self) -> None:
        with self.done:
            if self.error is not None:
                raise self.error


@dataclass(eq=False, slots=True)
class TaskWaiter:
    """A coroutine that waits for its record to be durable."""

    future: asyncio.Future[None]
    file: OpenFile = field(init=False)
    end: int = field(init=False)

    def settle(self, error: LlmopsError | None) -> None:
        if self.future.done():
            return
        if error is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(error)


@dataclass(frozen=True, slots=True)
class Retire:
    """Close this file once everything queued before is done."""

    file: OpenFile


Job = ThreadWaiter | TaskWaiter | Retire


class GroupCommit:
    """The committing thread. `on_failure` hears of a file whose fsync failed: append nothing more to it."""

    def __init__(self, on_failure: Callable[[OpenFile], None]) -> None:
        self._on_failure = on_failure
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="spool-commit", daemon=True)
        self._thread.start()
        self.commits = 0

    def submit(self, job: Job) -> None:
        self._queue.put(job)

    def stop(self) -> None:
        """Finish what is queued, then end."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            batch = [self._queue.get()]
            while not self._queue.empty():
                batch.append(self._queue.get())
            self._commit([job for job in batch if isinstance(job, ThreadWaiter | TaskWaiter)])
            for job in batch:
                if isinstance(job, Retire):
                    job.file.close()
            if None in batch:
                return

    def _commit(self, waiters: list[ThreadWaiter | TaskWaiter]) -> None:
        ends: dict[OpenFile, int] = {}
        for waiter in waiters:
            ends[waiter.file] = max(waiter.end, ends.get(waiter.file, 0))
        errors = {file: self._sync(file, end) for file, end in ends.items()}
        tasks: dict[asyncio.AbstractEventLoop, list[TaskWaiter]] = {}
        for waiter in waiters:
            if isinstance(waiter, ThreadWaiter):
                waiter.error = errors[waiter.file]
                waiter.done.release()
            else:
                tasks.setdefault(waiter.future.get_loop(), []).append(waiter)
        for loop, waiting in tasks.items():
            if not loop.is_closed():  # nobody waits on a closed loop
                loop.call_soon_threadsafe(_settle, waiting, errors)

    def _sync(self, file: OpenFile, end: int) -> LlmopsError | None:
        """Make the file durable up to `end`. After a failure the kernel may have dropped pages: never sync it again."""
        try:
            if file.failed:
                raise OSError(5, "an earlier fsync of this file failed")
            os.fdatasync(file.descriptor)
            if not file.named:
                sync_directory(file.path.parent)
                file.named = True
        except OSError as error:
            file.failed = True
            self._on_failure(file)
            return StorageError(
                f"a record could not be made durable: {error.strerror}", where=str(file.path), hint="check the disk"
            )
        file.synced = max(end, file.synced)
        self.commits += 1
        return None


def _settle(waiting: list[TaskWaiter], errors: dict[OpenFile, LlmopsError | None]) -> None:
    for waiter in waiting:
        waiter.settle(errors[waiter.file])
