"""Finds what a site's own regular expressions match, in time linear in the text whatever the expression is.

The expressions are RE2's (no look-around, no back-references): its automata cannot be made to backtrack, so that no
text can hang a worker. https://github.com/google/re2/wiki/Syntax
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmops.core.errors import ConfigError
from llmops.gateway.guard.detectors import Span, merged

WINDOW_CHARS = 256
"""What a stream holds back for a pattern: longer matches are found as far as their first so many characters show."""
_MEMORY_BYTES = 8 * 1024**2
_MAX_NAME = 64


class Patterns:
    """Named expressions."""

    def __init__(self, patterns: Mapping[str, str]) -> None:
        if not patterns:
            raise ConfigError("the guard `pattern` needs `patterns`", hint="patterns: {ticket: 'TICKET-[0-9]+'}")
        self._patterns = [(name, _compiled(name, pattern)) for name, pattern in patterns.items()]

    def suspects(self, text: str) -> bool:
        return any(pattern.search(text) for _, pattern in self._patterns)

    def spans(self, text: str, start: int = 0) -> Sequence[Span]:
        found = []
        for name, pattern in self._patterns:
            place = start
            while place <= len(text) and (match := pattern.search(text, place)):
                if match.end() > match.start():
                    found.append(Span(match.start(), match.end(), name))
                place = max(match.end(), place + 1)
        return merged(found)

    def open_at(self, text: str, start: int = 0) -> int:
        return max(start, len(text) - WINDOW_CHARS)


def _compiled(name: str, pattern: str) -> Any:
    try:
        import re2
    except ImportError as error:
        raise ConfigError("the guard `pattern` needs google-re2", hint="pip install 'llmops[gateway]'") from error
    if not name.replace("-", "_").replace("_", "a").isalnum() or len(name) > _MAX_NAME:
        raise ConfigError(f"a pattern's name is letters, digits, - and _; `{name[:_MAX_NAME]}` is not")
    options = re2.Options()
    options.max_mem = _MEMORY_BYTES
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0].decode() if isinstance(error.args[0], bytes) else error.args[0]
        raise ConfigError(
            f"the pattern `{name}` is no regular expression of RE2: {reason}",
            hint="look-around and back-references are not offered: they cannot be searched in linear time",
        ) from error
    if compiled.search(""):
        raise ConfigError(f"the pattern `{name}` matches nothing at all, and so everywhere")
    return compiled
