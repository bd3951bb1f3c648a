"""Parses many documents at once, each within limits, and gives each back as soon as it is done.

Plain text, source code and light markup are read here; all that has a grammar goes to a parser process, started when a
document needs one. Memory holds one document a process: nothing is read ahead of whoever takes the results.
"""

from __future__ import annotations

import os
import select
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType

from llmops.core.confined import BrokenFrameError
from llmops.rag.config import ParsingConfig
from llmops.rag.document import Parsed, RefusedDocumentError, Rejected, SourceItem
from llmops.rag.parse import media
from llmops.rag.parse.child import Child, ChildLimits, Doing
from llmops.rag.parse.extracted import Limits
from llmops.rag.parse.parse import ocr_languages, parse_content
from llmops.rag.parse.read import read

_MOST_PROCESSES = 4
_RECYCLE_AFTER = 1000
"""Documents after which a process is replaced: parsers in C leak, and a leak must not become a verdict."""
_DOCUMENTS_A_START = 8
_BUSY_S = 0.2
"""Importing a parser costs what parsing 50 pages does: another process must promise to be worth its start."""
_SUSPECT = ("memory", "crashed")

Outcome = tuple[SourceItem, Parsed | Rejected]


@dataclass(frozen=True, slots=True)
class _Job:
    item: SourceItem
    fresh: bool = False
    """It failed in a process that had parsed others before; what happens in a new one is its own doing."""


class ParserPool:
    """Parses documents; one that cannot be parsed, or kills its parser, costs only itself.

    Processes are kept between calls of `parse`, and end with `close`. One thread at a time may iterate; to overlap
    parsing with other work, iterate in a thread of its own: a process waits until its result is taken.
    """

    def __init__(self, config: ParsingConfig) -> None:
        self._limits = Limits(config.max_bytes, config.max_text_chars)
        self._child_limits = ChildLimits(
            config.max_bytes, config.max_text_chars, config.memory_mb << 20, config.timeout_s, ocr_languages(config)
        )
        self._most = config.workers or min(_MOST_PROCESSES, len(os.sched_getaffinity(0)))
        self._idle: list[Child] = []
        self._busy: dict[Child, _Job] = {}
        self._served = 0

    def __enter__(self) -> ParserPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def isolation(self) -> str | None:
        """What keeps the running parser processes from the network (see `core.fences`); None while there is none."""
        return next((child.isolation for child in (*self._idle, *self._busy) if child.isolation), None)

    def close(self) -> None:
        """End every parser process."""
        self._close_idle()
        for child in list(self._busy):
            self._drop(child)

    def parse(self, items: Iterable[SourceItem]) -> Generator[Outcome, None, None]:
        """Parse documents; the order of the results is that in which they finish; `close()` ends the rest.

        Raises:
            UnavailableError: no parser process can be started here.
        """
        waiting: deque[_Job] = deque()
        try:
            for item in items:
                here = self._parse_here(item)
                if here is not None:
                    yield item, here
                else:
                    waiting.append(_Job(item))
                    self._dispatch(waiting)
                while waiting:
                    yield from self._collect(waiting, wait=True)
                    self._dispatch(waiting)
                yield from self._collect(waiting, wait=False)
            while waiting or self._busy:
                yield from self._collect(waiting, wait=True)
                self._dispatch(waiting)
        finally:
            for child in list(self._busy):
                self._drop(child)

    def _parse_here(self, item: SourceItem) -> Parsed | Rejected | None:
        """Read a document that needs no parser; None for one that does, by its name or by its content."""
        if item.size > self._limits.max_bytes:
            detail = f"{item.size:,} bytes; `max_bytes` is {self._limits.max_bytes:,}"
            return RefusedDocumentError("too_large", detail).as_rejected(item.uri)
        if media.by_name(item.path) not in media.IN_PROCESS:
            return None
        try:
            content = read(item.place, self._limits.max_bytes)
            if media.by_content(item.path, content.data) not in media.IN_PROCESS:
                return None
            return parse_content(item.path, content, self._limits)
        except RefusedDocumentError as refusal:
            return refusal.as_rejected(item.uri)

    def _dispatch(self, waiting: deque[_Job]) -> None:
        """Give waiting documents to idle processes, or to new ones where more are worth it."""
        while waiting:
            job = waiting[0]
            if job.fresh:
                self._close_idle()
            if not self._idle:
                if not self._worth_starting():
                    return
                self._idle.append(Child(self._child_limits))
            child = self._idle.pop()
            child.start(waiting.popleft().item)
            self._busy[child] = job

    def _worth_starting(self) -> bool:
        """Whether another process pays: none runs, or all have been at it for long, and none is just starting."""
        running = len(self._busy)
        if running == 0:
            return True
        if running >= self._most or any(child.doing is Doing.STARTING for child in self._busy):
            return False
        return self._served >= _DOCUMENTS_A_START * running or all(child.busy_s > _BUSY_S for child in self._busy)

    def _collect(self, waiting: deque[_Job], *, wait: bool) -> Iterator[Outcome]:
        """Take finished documents; with `wait`, until something happens: an answer, a started process, a time-out."""
        if not self._busy:
            return
        patience = max(0.0, min(child.deadline for child in self._busy) - time.monotonic()) if wait else 0.0
        if waiting and len(self._busy) < self._most:
            patience = min(patience, _BUSY_S)
        ready, _, _ = select.select(list(self._busy), [], [], patience)
        for child in ready:
            answer = self._answer(child)
            if answer is not None:
                yield from self._settle(child, answer, waiting)
        for child in [child for child in self._busy if child.overdue]:
            detail = f"parsing took longer than `timeout_s`, {self._child_limits.timeout_s:g} s"
            yield from self._settle(child, RefusedDocumentError("timeout", detail), waiting)

    def _answer(self, child: Child) -> Parsed | RefusedDocumentError | None:
        try:
            return child.receive()
        except EOFError:
            return child.verdict()
        except BrokenFrameError as error:
            return RefusedDocumentError("crashed", f"the parser answered nonsense: {error}")

    def _settle(self, child: Child, answer: Parsed | RefusedDocumentError, waiting: deque[_Job]) -> Iterator[Outcome]:
        """Book the end of a document, and decide whether its process may have another one."""
        job = self._busy[child]
        self._served += 1
        refused = answer if isinstance(answer, RefusedDocumentError) else None
        alone = child.served <= (1 if child.doing is Doing.NOTHING else 0)
        spent = child.doing is not Doing.NOTHING or child.served >= _RECYCLE_AFTER
        if spent or (refused is not None and refused.error_code in _SUSPECT):
            self._drop(child)
        else:
            del self._busy[child]
            self._idle.append(child)
        if refused is None:
            assert isinstance(answer, Parsed)
            yield job.item, answer
        elif refused.error_code in _SUSPECT and not alone and not job.fresh:
            waiting.appendleft(_Job(job.item, fresh=True))
        else:
            yield job.item, refused.as_rejected(job.item.uri)

    def _drop(self, child: Child) -> None:
        del self._busy[child]
        child.close()

    def _close_idle(self) -> None:
        for child in self._idle:
            child.close()
        self._idle.clear()
