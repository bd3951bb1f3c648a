"""Facts that a path or a heading spells out: `{team}/{year:int}/**` over `sales/2024/q3/plan.md` is a team and a year.

Knows text only. Light to import: the configuration checks its patterns by it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date

_PIECE = re.compile(r"\{(?P<name>[A-Za-z_]\w{0,63})(?::(?P<kind>\w+))?\}|\*\*/|\*\*|\*|.", re.DOTALL)
_KINDS = {None: r"[^/]+?", "int": r"\d{1,15}", "date": r"\d{4}-\d\d-\d\d"}
_WILD = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*"}
_MOST_CHARS = 200

Value = str | int


class FactPattern:
    """One pattern over a whole text. `*` stays within a folder, `**` does not; letters match in either case.

    Raises:
        ValueError: it names no fact, one of them twice, or a kind other than `int` and `date`.
    """

    def __init__(self, pattern: str) -> None:
        self.kinds: dict[str, str | None] = {}
        self._regex = re.compile("".join(map(self._translated, _PIECE.finditer(pattern))), re.IGNORECASE | re.DOTALL)
        if not self.kinds:
            raise ValueError(f"`{pattern}` names no fact; write one in braces, such as {{team}}")

    def read(self, text: str) -> dict[str, Value]:
        """The facts of a text; none where it does not match, or a date is none."""
        match = self._regex.fullmatch(text)
        found = {} if match is None else match.groupdict()
        try:
            return {name: self._value(name, value) for name, value in found.items()}
        except ValueError:
            return {}

    def _translated(self, piece: re.Match[str]) -> str:
        name, kind = piece["name"], piece["kind"]
        if name is None:
            return _WILD.get(piece[0]) or re.escape(piece[0])
        if kind not in _KINDS:
            raise ValueError(f"`{piece[0]}`: a fact is a text, or {{{name}:int}}, or {{{name}:date}}")
        if name in self.kinds:
            raise ValueError(f"the pattern names `{name}` twice")
        self.kinds[name] = kind
        return f"(?P<{name}>{_KINDS[kind]})"

    def _value(self, name: str, text: str) -> Value:
        if self.kinds[name] == "int":
            return int(text)
        return date.fromisoformat(text).isoformat() if self.kinds[name] == "date" else text[:_MOST_CHARS]


def checked(patterns: tuple[str, ...]) -> tuple[str, ...]:
    """The patterns as they are; for validators.

    Raises:
        ValueError: one of them is none.
    """
    for pattern in patterns:
        FactPattern(pattern)
    return patterns


class FactPatterns:
    """Several patterns; of two that tell the same fact, the first is believed."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = [FactPattern(pattern) for pattern in patterns]

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def read(self, *texts: str) -> dict[str, Value]:
        """The facts of some texts, of which the first that tells a fact is believed."""
        found: dict[str, Value] = {}
        for pattern in self._patterns:
            for text in texts:
                for name, value in pattern.read(text).items():
                    found.setdefault(name, value)
        return found
