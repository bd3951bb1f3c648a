"""Glob patterns over relative POSIX paths, as people know them from .gitignore: `**` crosses folders, `*` does not.

Knows text only, never the disk. `fnmatch` lets `*` cross folders, and `glob.translate` needs Python 3.13.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_MAGIC = re.compile(r"[*?\[]")


def is_glob(path: str) -> bool:
    return _MAGIC.search(path) is not None


def split_base(pattern: str) -> tuple[str, str]:
    """The folder that a glob starts from, and the rest: `docs/a/**/*.md` is `docs/a` and `**/*.md`."""
    parts = pattern.split("/")
    first = next(index for index, part in enumerate(parts) if is_glob(part))
    base = "/".join(parts[:first])
    return base or ("/" if pattern.startswith("/") else "."), "/".join(parts[first:])


class Patterns:
    """Several globs as one question: does any of them match this path?

    A pattern without a slash matches the name in any folder (`*.md`); one with a slash matches from the root
    (`guide/*.md`), or with `anchored` every pattern does. A trailing slash stands for everything beneath.
    """

    def __init__(self, patterns: Iterable[str], *, anchored: bool = False) -> None:
        sources = [_translate(pattern, anchored=anchored) for pattern in patterns]
        self._regex = re.compile("|".join(f"(?:{source})" for source in sources)) if sources else None

    def __bool__(self) -> bool:
        return self._regex is not None

    def match(self, path: str) -> bool:
        return self._regex is not None and self._regex.fullmatch(path) is not None


def _translate(pattern: str, *, anchored: bool) -> str:
    pattern = pattern.removeprefix("./")
    if pattern.endswith("/"):
        pattern += "**"
    anchored = anchored or "/" in pattern.removesuffix("/**")
    pattern = pattern.removeprefix("/")
    out = [] if anchored else ["(?:.*/)?"]
    index = 0
    while index < len(pattern):
        if pattern.startswith("**/", index):
            out.append("(?:.*/)?")
            index += 3
        elif pattern.startswith("/**", index) and index + 3 == len(pattern):
            out.append("(?:/.*)?")
            index += 3
        else:
            piece, index = _translate_one(pattern, index)
            out.append(piece)
    return "(?s:" + "".join(out) + ")"


def _translate_one(pattern: str, index: int) -> tuple[str, int]:
    """One element of a pattern at `index` as a regular expression, and where the next one begins."""
    char = pattern[index]
    if char == "*":
        double = pattern.startswith("**", index)
        return (".*", index + 2) if double else ("[^/]*", index + 1)
    if char == "?":
        return "[^/]", index + 1
    closing = pattern.find("]", index + 2) if char == "[" else -1
    if closing < 0:
        return re.escape(char), index + 1
    content = pattern[index + 1 : closing]
    negated = content[0] in "!^"
    members = content[negated:].replace("\\", "\\\\").replace("[", "\\[").replace("^", "\\^")
    return f"(?!/)[{'^' if negated else ''}{members}]", closing + 1
