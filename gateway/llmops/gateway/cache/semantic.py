"""Gives the answer to a question that means the same: nearest earlier question by the cosine of their embeddings.

Only for one question in plain text, asked without tools or pictures, in the same setting (system prompt, parameters,
route version) by somebody of the same scope: the setting's key picks the candidates before anything is compared.
Embeddings see little of numbers and negations ("2023" and "2024" are near), so both questions must hold the same ones.
It remains a guess: the threshold is the site's, and no cache is better than a wrong one where wrong answers cost.

numpy is imported when a route is configured so (21 MB; 5,000 questions of 1,536 numbers take 3.5 ms; plain Python takes
500 ms, during which the worker would answer nobody).
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from llmops.core.errors import ConfigError
from llmops.gateway.cache.exact import OVERHEAD_BYTES, Stored
from llmops.gateway.calls import Json, Operation

Embed = Callable[[str], Awaitable[Sequence[float]]]
MAX_QUESTION_CHARS = 8000
_TELLING = re.compile(
    r"\d+(?:[.,]\d+)*|\b(?:no|not|never|none|without|except|un(?:like|less)|\w+n['’]t|nicht|kein\w*|ohne|ne|pas|sans|sin|"
    r"before|after|more|less|most|least|min|max|minimum|maximum|first|last|enable|disable|true|false)\b",
    re.IGNORECASE,
)


def question_of(operation: Operation, body: Json) -> tuple[str, Json] | None:
    """The one question of the request and the body without it; None where there is not just one."""
    if body.get("tools") or body.get("functions") or body.get("n") not in (None, 1):
        return None
    if operation == "completions":
        text, rest = body.get("prompt"), {**body, "prompt": None}
    elif operation == "responses":
        text, rest = body.get("input"), {**body, "input": None}
    elif operation in ("chat", "messages"):
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
            return None
        *before, last = messages
        if last.get("role") != "user" or any(one.get("role") not in ("system", "developer") for one in before):
            return None
        text, rest = last.get("content"), {**body, "messages": before}
    else:
        return None
    return (text, rest) if type(text) is str and 0 < len(text) <= MAX_QUESTION_CHARS else None


def telling(question: str) -> tuple[str, ...]:
    """The words of a question that embeddings hardly see and answers turn on, in order."""
    return tuple(match.group().lower() for match in _TELLING.finditer(question))


class Questions:
    """Earlier questions' embeddings in one matrix of bounded size; the oldest gives way."""

    def __init__(self, threshold: float, max_bytes: int) -> None:
        try:
            import numpy as np
        except ImportError as error:
            raise ConfigError("a semantic cache needs numpy", hint="pip install 'llmops[gateway]' numpy") from error
        self._np = np
        self._threshold, self._max_bytes = threshold, max_bytes
        self._matrix: Any = None
        self._width = 0
        self._entries: OrderedDict[int, tuple[bytes, tuple[str, ...], Stored]] = OrderedDict()
        self._of_setting: dict[bytes, dict[int, None]] = {}
        self._free: list[int] = []
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, setting: bytes, question: str, embedding: Sequence[float]) -> Stored | None:
        """The answer to the nearest question of the setting, if it is near enough and tells of the same."""
        rows = self._of_setting.get(setting)
        vector = self._unit(embedding)
        if not rows or vector is None or len(vector) != self._width:
            return None
        words = telling(question)
        candidates = [row for row in rows if self._entries[row][1] == words]
        if not candidates:
            return None
        if 4 * len(candidates) > len(self._matrix):  # picking rows copies them
            similar = (self._matrix @ vector)[candidates]
        else:
            similar = self._matrix[candidates] @ vector
        best = int(similar.argmax())
        return self._entries[candidates[best]][2] if float(similar[best]) >= self._threshold else None

    def add(self, setting: bytes, question: str, embedding: Sequence[float], stored: Stored) -> None:
        """Remember the question and its answer."""
        vector = self._unit(embedding)
        if vector is None:
            return
        if len(vector) != self._width:
            self.clear()  # another embedding model
            self._width = len(vector)
        size = self._size(stored)
        if size > self._max_bytes // 8:
            return
        while self.size_bytes + size > self._max_bytes:
            self._drop(next(iter(self._entries)))
        row = self._row()
        self._matrix[row] = vector
        self._entries[row] = (setting, telling(question), stored)
        self._of_setting.setdefault(setting, {})[row] = None
        self.size_bytes += size

    def forget_older(self, at: float) -> None:
        """Drop the answers made at `at` or before."""
        while self._entries:
            row, (_, _, stored) = next(iter(self._entries.items()))
            if stored.at > at:
                return
            self._drop(row)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._of_setting.clear()
        self._free.clear()
        self._matrix, self._width, self.size_bytes = None, 0, 0

    def _size(self, stored: Stored) -> int:
        return 4 * self._width + len(stored.body) + OVERHEAD_BYTES

    def _row(self) -> int:
        if not self._free:
            old = 0 if self._matrix is None else len(self._matrix)
            new = max(64, old * 2)
            matrix = self._np.zeros((new, self._width), dtype=self._np.float32)
            if old:
                matrix[:old] = self._matrix
            self._matrix = matrix
            self._free = list(range(new - 1, old - 1, -1))
        return self._free.pop()

    def _drop(self, row: int) -> None:
        setting, _, stored = self._entries.pop(row)
        rows = self._of_setting[setting]
        del rows[row]
        if not rows:
            del self._of_setting[setting]
        self._free.append(row)
        self.size_bytes -= self._size(stored)

    def _unit(self, embedding: Sequence[float]) -> Any:
        """The embedding with length 1; None for one that has no direction."""
        vector = self._np.asarray(embedding, dtype=self._np.float32)
        length = float(self._np.linalg.norm(vector)) if vector.ndim == 1 and len(vector) else 0.0
        return vector / length if math.isfinite(length) and length > 0 else None
