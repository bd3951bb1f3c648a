"""What a document states about itself, under the same names whatever its format: `author`, `date`, `language`, `tags`.

A date is the day in ISO 8601, so that days of all formats sort and filter alike. What cannot be read as one is left
out: a wrong fact filters a document away. Knows texts only; where a format keeps them, its parser knows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from typing import Any

from llmops.rag.parse.extracted import printable

_MOST_CHARS = 200
_MOST_TAGS = 50
_FRONT_CHARS = 8_000
_DAY = re.compile(r"\s*(?:D:)?(\d{4})-?(\d\d)-?(\d\d)(?:\D|\d{2}|$)")
"""ISO 8601, basic or extended, and PDF's `D:20240305120000+01'00'` (ISO 32000-1, 7.9.4)."""
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{2,8})*")
_FRONT = re.compile(r"---[ \t]*\r?\n(.*?)\r?\n(?:---|\.\.\.)[ \t]*(?:\r?\n|$)", re.DOTALL)


def stated(*, author: Any = None, day: Any = None, language: Any = None, tags: Any = None) -> dict[str, Any]:
    """The facts that can be read, as metadata; several authors and tags as lists."""
    found = {"author": _names(author), "date": _day(day), "language": _language(language), "tags": _names(tags)}
    if isinstance(found["tags"], str):
        found["tags"] = [found["tags"]]
    return {name: value for name, value in found.items() if value}


def front_matter(text: str) -> dict[str, Any]:
    """The facts of the YAML block that a Markdown file may begin with; none where it is none."""
    match = _FRONT.match(text[:_FRONT_CHARS]) if text.startswith("---") else None
    if match is None or "&" in match[1]:  # an anchor: what a few lines can blow up
        return {}
    import yaml

    try:
        block = yaml.load(match[1], Loader=yaml.BaseLoader)  # noqa: S506 - gives texts, lists and mappings only
    except (yaml.YAMLError, RecursionError):
        return {}
    if not isinstance(block, dict):
        return {}
    facts = {str(name).casefold(): value for name, value in block.items()}
    return stated(
        author=facts.get("author") or facts.get("authors"),
        day=facts.get("date") or facts.get("published") or facts.get("created"),
        language=facts.get("lang") or facts.get("language"),
        tags=facts.get("tags") or facts.get("keywords"),
    )


def _names(value: Any) -> str | list[str] | None:
    if isinstance(value, Sequence) and not isinstance(value, str):
        several = [name for one in value[:_MOST_TAGS] if isinstance(one, str) and (name := _tidy(one))]
        return several[0] if len(several) == 1 else several or None
    return _tidy(value) if isinstance(value, str) else None


def _tidy(text: str) -> str:
    return printable(" ".join(text[: 4 * _MOST_CHARS].split()))[:_MOST_CHARS].strip()


def _day(value: Any) -> str | None:
    match = _DAY.match(value) if isinstance(value, str) else None
    try:
        return date(*map(int, match.groups())).isoformat() if match else None
    except ValueError:
        return None


def _language(value: Any) -> str | None:
    text = value.strip() if isinstance(value, str) else ""
    return text.replace("_", "-") if len(text) <= 35 and _LANGUAGE.fullmatch(text) else None
