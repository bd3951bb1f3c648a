"""The structure of source code: classes and functions as headings, told by the words that declare them in any language.

Knows how declarations begin and that what belongs to one is indented below it; it parses no language, so half a file,
an old dialect and a syntax error have an outline too. A comment or decorator above a declaration belongs to it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from llmops.rag.outline.structure import Heading, Outline

_LINE = re.compile(r"(?P<indent>(?<![ \t])[ \t]*+)(?P<words>\S[^\n]*)")
"""Tried once for each run of blanks, not once for each blank: half a megabyte of them took minutes."""
_LONGEST_LINE = 400
"""Longer lines are data or minified code: no declaration is looked for behind that many characters."""
_MODIFIERS = (
    "export default public private protected internal static final abstract async unsafe extern inline override virtual"
    " const sealed data open partial local declare suspend readonly mutating fileprivate case pub"
)
_DECLARATION = re.compile(
    rf"(?:(?:{'|'.join(_MODIFIERS.split())})(?:\([\w ]*\))?[ \t]+)*"
    r"(?P<kind>class|interface|struct|enum|union|trait|impl|def|fn|func|function|fun|module|namespace|object|record"
    r"|protocol|extension|message|service|rpc|sub|macro|defmodule|defp|defmacro)\b"
    r"(?P<name>(?:<[^>\n]{0,80}>|[ \t]*\*?[ \t]*\([^)\n]{0,80}\))?[ \t]*\*?[ \t]*[\w$.:!?~]*[\w$!?]"
    r"(?:(?<=[\w>])[ \t]+for[ \t]+[\w:]+)?)"
)
_ASSIGNED = re.compile(
    r"(?:(?:export|const|let|var|local)[ \t]+)*(?P<name>[\w$.]+)[ \t]*(?::[^=\n]{0,80})?(?:=|<-)[ \t]*"
    r"(?:async[ \t]*)?(?:function\b|\([^()\n]{0,200}\)[ \t]*(?::[^=\n]{0,80})?=>|[\w$]+[ \t]*=>)"
)
_SQL = re.compile(
    r"CREATE[ \t]+(?:OR[ \t]+REPLACE[ \t]+|TEMP(?:ORARY)?[ \t]+|UNIQUE[ \t]+|MATERIALIZED[ \t]+)*"
    r"(?P<kind>TABLE|VIEW|FUNCTION|PROCEDURE|INDEX|TRIGGER|TYPE|SCHEMA)[ \t]+(?:IF[ \t]+NOT[ \t]+EXISTS[ \t]+)?"
    r"(?P<name>[\w.\"`\[\]]+)",
    re.IGNORECASE,
)
_CALLABLE = re.compile(r"(?:(?:[\w:<>,\[\]*&~@?.]+[ \t]+)+[*&]*)?(?P<name>[\w$:~]+)[ \t]*\(")
"""A blank ends a word whatever follows it: a star that two places could take makes the time of a line exponential."""
_NO_CALLABLE = re.compile(
    r"(?:if|else|for|foreach|while|switch|case|return|throw|new|await|yield|catch|do|delete|using|lock|with|try|goto)\b"
)
_BODY = re.compile(r"[^;{}]{0,1000}\{")
_REMARK = re.compile(r"#|//|/\*|\*|@|--|\[[A-Z]")
_CLOSES = re.compile(r"[)\]}{]|(?:end|fi|done|esac|else|elif|elsif|except|rescue|finally|ensure|catch|then)\b|\w+:\s*$")
_WORD = re.compile(r"\S")
_TAB = 4


def code_outline(text: str) -> Outline:
    """Declarations with their paths (`class Pump`, `def start`); code behind a body stands under what is around it."""
    found = _Reader(text)
    for line in _LINE.finditer(text):
        found.take(line)
    return Outline(found.headings)


@dataclass
class _Reader:
    text: str
    headings: list[Heading] = field(default_factory=list)
    stack: list[tuple[int, str]] = field(default_factory=list)
    lead: int | None = None
    """Where the remarks begin that stand right above the next line."""
    last_end: int = 0

    def take(self, line: re.Match[str]) -> None:
        start, end = line.start("words"), line.end()
        if self.text.count("\n", self.last_end, start) > 1:
            self.lead = None
        self.last_end = end
        declared = _declared(self.text, start, min(end, start + _LONGEST_LINE))
        if declared is None and _REMARK.match(self.text, start):
            self.lead = start if self.lead is None else self.lead
            return
        depth = len(line["indent"].expandtabs(_TAB))
        left = self._leave(depth) if declared or not _CLOSES.match(self.text, start) else False
        if declared:
            self.stack.append((depth, declared))
        if declared or left:
            path = tuple(name for _, name in self.stack)
            self.headings.append(Heading(start if self.lead is None else self.lead, _next_word(self.text, end), path))
        self.lead = None

    def _leave(self, depth: int) -> bool:
        """Whether a line of this depth ends what was declared at the same depth or deeper."""
        before = len(self.stack)
        while self.stack and self.stack[-1][0] >= depth:
            self.stack.pop()
        return len(self.stack) < before


def _declared(text: str, start: int, end: int) -> str | None:
    """What a line declares: `class Pump`, `def start`, `CREATE TABLE pumps`, `main()`."""
    for pattern in (_DECLARATION, _SQL):
        found = pattern.match(text, start, end)
        if found is not None:
            return " ".join(f"{found['kind']} {found['name']}".split())
    found = _ASSIGNED.match(text, start, end)
    if found is None and not _NO_CALLABLE.match(text, start, end):
        found = _CALLABLE.match(text, start, end)
        found = found if found is not None and _has_body(text, found.end()) else None
    return f"{found['name']}()" if found is not None else None


def _has_body(text: str, position: int) -> bool:
    """Whether a brace opens behind a parameter list, and not one of a function that is handed over in it."""
    body = _BODY.match(text, position)
    if body is None:
        return False
    closed = body.group().rpartition(")")
    return bool(closed[1]) and "=" not in closed[2]


def _next_word(text: str, position: int) -> int:
    found = _WORD.search(text, position)
    return found.start() if found is not None else len(text)
