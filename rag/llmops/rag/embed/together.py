"""One batch of what several threads want embedded at the same time.

A batch costs less than its texts one by one, and one computation at a time already uses every core. Nobody waits for
company: who comes while nothing is computed goes at once, alone; what comes meanwhile goes together next. Knows
threads; what a text is, and how it is computed, is the caller's.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmops.rag.embed.spec import Vectors

Compute = Callable[[Sequence[str]], "Vectors"]


class _Wish:
    """The texts of one thread, and what came of them."""

    __slots__ = ("error", "leads", "texts", "vectors", "woken")

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        self.vectors: Vectors | None = None
        self.error: BaseException | None = None
        self.leads = False
        self.woken = threading.Event()


class Together:
    """Calls `compute` in one thread at a time, for all who wait, in the order in which they came.

    Args:
        most: texts of one call, unless a single wish has more.
    """

    def __init__(self, compute: Compute, *, most: int) -> None:
        self._compute = compute
        self._most = most
        self._lock = threading.Lock()
        self._busy = False
        self._waiting: deque[_Wish] = deque()

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """The vectors of these texts, in their order; raises what `compute` raises for them."""
        wish = _Wish(texts)
        with self._lock:
            self._waiting.append(wish)
            wish.leads, self._busy = not self._busy, True
        if not wish.leads:
            wish.woken.wait()
        if wish.leads:
            self._lead()
        if wish.error is not None:
            raise wish.error
        assert wish.vectors is not None
        return wish.vectors

    def _lead(self) -> None:
        """Compute one batch, the leader's own wish being its first, and let the next in line lead."""
        chosen = self._next()
        try:
            self._fulfil(chosen)
        finally:
            with self._lock:
                self._busy = bool(self._waiting)
                if self._busy:  # before those who have their vectors: else it waits until they had their turns
                    self._waiting[0].leads = True
                    self._waiting[0].woken.set()
            for wish in chosen[1:]:
                wish.woken.set()

    def _next(self) -> list[_Wish]:
        with self._lock:
            chosen = [self._waiting.popleft()]
            count = len(chosen[0].texts)
            while self._waiting and count + len(self._waiting[0].texts) <= self._most:
                chosen.append(self._waiting.popleft())
                count += len(chosen[-1].texts)
        return chosen

    def _fulfil(self, wishes: Sequence[_Wish]) -> None:
        """Give every wish its vectors or its error; what fails for several is tried again for each by itself."""
        try:
            vectors = self._compute([text for wish in wishes for text in wish.texts])
        except Exception as error:  # noqa: BLE001 - raised again in the thread whose texts they are
            if len(wishes) > 1:
                for wish in wishes:
                    self._fulfil([wish])
            else:
                wishes[0].error = error
            return
        except BaseException as error:
            for wish in wishes:
                wish.error = error
            raise
        start = 0
        for wish in wishes:
            part = vectors[start : start + len(wish.texts)]
            wish.vectors = part if len(wishes) == 1 else part.copy()  # else one kept row would keep the whole batch
            start += len(wish.texts)
