"""Takes secrets, and what a site calls personal, out of records before they reach any disk.

Secrets always: bearer tokens, API keys of the usual providers and our own, private keys. Personal data by patterns of
the configuration. Knows strings and JSON; it promises to find these shapes, not everything secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic_core import SchemaValidator, core_schema

from llmops.core.errors import ConfigError

_KEY_CHARACTERS = r"[A-Za-z0-9_-]"
_SECRETS = (
    rf"sk-{_KEY_CHARACTERS}{{16,}}",  # OpenAI, Anthropic and those who copy them
    rf"lk_[a-z0-9]{{1,32}}_{_KEY_CHARACTERS}{{16,}}",  # ours, core.keys
    r"gh[pousr]_[A-Za-z0-9]{20,}",
    r"hf_[A-Za-z0-9]{20,}",
    r"A[KS]IA[A-Z0-9]{16}",  # AWS, lasting and of a session
    r"ABSK[A-Za-z0-9_-]{30,}",  # Amazon Bedrock
    r"AIza[A-Za-z0-9_-]{30,}",
    r"xox[abprs]-[A-Za-z0-9-]{10,}",
    r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----[^\"-]*(?:-----END [A-Z ]{0,40}PRIVATE KEY-----)?",
)
# What follows a name is secret whatever it looks like. The quotes may be escaped: JSON within JSON.
_AFTER_NAME = (
    r"([Bb]earer|BEARER) +[A-Za-z0-9._~+/=-]{8,}",
    r"([Aa]pi[_-]?[Kk]ey|API[_-]?KEY|[Ss]ecret[_-]?[Kk]ey|SECRET[_-]?KEY|[Pp]assword)(\\*[\"']?\s*[:=]\s*\\*[\"']?)"
    r"[^\s\"'\\,;}]{8,}",
)
_SECRET = re.compile("|".join(f"(?:{pattern})" for pattern in _SECRETS))
_NAMED = re.compile(_AFTER_NAME[1])
_BEARER = re.compile(r"([Bb]earer|BEARER) +(?=[A-Za-z._~+/=-]*\d)[A-Za-z0-9._~+/=-]{8,}")  # not the bearer of good news
# Whatever ends the text and may go on to be one of the above. All but these three kinds stand within one word.
_UNFINISHED = re.compile(
    r"-----BEGIN [A-Z ]{0,40}(?:PRIVATE KEY-----[^\"-]*(?:-{1,5}[A-Z -]{0,64})?)?\Z"
    r"|(?:[Bb]earer|BEARER) +[A-Za-z0-9._~+/=-]*\Z"
    rf"|{_AFTER_NAME[1].partition(')')[0]})(?:\\*[\"']?\s*)(?:[:=]\s*\\*[\"']?[^\s\"'\\,;}}]*)?\Z"
    rf"|{_KEY_CHARACTERS}+\Z|-{{1,5}}(?:BEGIN?)?\Z"
)
# pydantic-core's regex engine looks through 2.5 kB for all of these in 0.9 us; `re` needs 200 us, a single `in` 1.7 us.
_suspect = SchemaValidator(
    core_schema.str_schema(pattern="|".join((*_SECRETS, *_AFTER_NAME)), regex_engine="rust-regex")
).isinstance_python

TEXT_COLUMNS = frozenset({"request_json", "response_json", "rationale", "value_str"})
"""The columns that hold people's words; patterns for personal data look there and spare ids and digests."""


def redact_secrets(encoded: bytes) -> bytes:
    """The JSON with secrets replaced by `[redacted]`; the same object where there are none. Stays valid JSON."""
    if not _suspect(encoded):
        return encoded
    text = _SECRET.sub("[redacted]", encoded.decode())
    text = _BEARER.sub(r"\1 [redacted]", text)
    clean = _NAMED.sub(r"\1\2[redacted]", text).encode()
    return encoded if clean == encoded else clean


def may_hold_secret(text: str) -> bool:
    """Whether `find_secrets` may find something: quick, never False where it would."""
    return _suspect(text)


def find_secrets(text: str, start: int = 0) -> list[tuple[int, int, int]]:
    """Secrets in text (not in encoded JSON) from `start` on: where what names it begins, where it begins, its end.

    What looks like a key only because a word ends in its prefix (risk-averse-...) counts where it holds a digit.
    """
    secrets = (match for match in _SECRET.finditer(text, start) if not _within_word(text, match))
    found = [(match.start(), match.start(), match.end()) for match in secrets]
    for match in _BEARER.finditer(text, start):
        found.append((match.start(), match.end() - len(match.group().split()[-1]), match.end()))
    found += [(match.start(), match.end(2), match.end()) for match in _NAMED.finditer(text, start)]
    return sorted(found)


def unfinished_secret(text: str, start: int = 0) -> int:
    """The least place from `start` on where a secret may begin that the text does not show whole; its end if none."""
    match = _UNFINISHED.search(text, start)
    return match.start() if match else len(text)


def _within_word(text: str, match: re.Match[str]) -> bool:
    begin = match.start()
    before = text[begin - 1 : begin]
    return before.isalnum() and match.group()[0].islower() and not any(map(str.isdigit, match.group()))


class PersonalData:
    """Replaces what the configured patterns match in people's words by `[<name of the pattern>]`."""

    def __init__(self, patterns: Mapping[str, str]) -> None:
        self._patterns = [(f"[{name}]", _compiled(name, pattern)) for name, pattern in patterns.items()]

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def redact(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of `record` without them."""
        clean = dict(record)
        for column in TEXT_COLUMNS & record.keys():
            value = record[column]
            if isinstance(value, str):
                for replacement, pattern in self._patterns:
                    value = pattern.sub(replacement, value)
                clean[column] = value
        return clean


def _compiled(name: str, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"the redaction pattern `{name}` is not a regular expression: {error}") from error
