"""Finds personal data by its form: e-mail addresses, telephone, card and account numbers, US SSNs, IP addresses.

Cards are checked by Luhn's sum (ISO/IEC 7812-1), IBANs by country length and mod 97 (ISO 13616), IP addresses by
parsing them. It knows forms, not meaning: no names of people, no postal addresses, and a random number
of the right form counts.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from llmops.core.errors import ConfigError, did_you_mean
from llmops.gateway.guard.detectors import Span, rust_matcher

# Lengths by country: the SWIFT IBAN registry, https://www.swift.com/standards/data-standards/iban
_IBAN_LENGTHS = {
    code: length
    for length, codes in {
        15: "NO", 16: "BE", 18: "DK FO FI GL NL SD FK", 19: "MK SI", 20: "AT BA EE KZ LT LU XK MN",
        21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ TL OM SO",
        24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HU LB NI PL SV",
        29: "BR EG PS QA UA",
        30: "JO KW MU YE", 31: "MT SC", 32: "LC", 33: "RU",
    }.items()
    for code in codes.split()
}  # fmt: skip
_NEAR, _FAR = 80, 680  # characters of what is unfinished, at most
_DIGITS = str.maketrans("", "", " -.()")


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit)
        total += value if place % 2 == 0 else (2 * value - 9 if value > 4 else 2 * value)
    return total % 10 == 0


def mod97(iban: str) -> bool:
    """ISO 7064: the account number with its first four characters at the end, letters as numbers, leaves 1."""
    turned = iban[4:] + iban[:4]
    return int("".join(str(int(character, 36)) for character in turned)) % 97 == 1


def _email(text: str, found: re.Match[str]) -> int | None:
    return found.end()


def _phone(text: str, found: re.Match[str]) -> int | None:
    digits = sum(map(str.isdigit, found.group()))
    return found.end() if 7 <= digits <= 15 else None


def _card(text: str, found: re.Match[str]) -> int | None:
    digits = found.group().translate(_DIGITS)
    good = 13 <= len(digits) <= 19 and digits[0] in "23456" and len(set(digits)) > 1 and luhn(digits)
    return found.end() if good else None


def _iban(text: str, found: re.Match[str]) -> int | None:
    """Its end by its country's length: what looks like more of it may be the next word."""
    length = _IBAN_LENGTHS.get(found.group()[:2].upper())
    if length is None:
        return None
    characters, end = [], found.start()
    for character in found.group():
        end += 1
        if character != " ":
            characters.append(character)
            if len(characters) == length:
                break
    whole = len(characters) == length and not text[end : end + 1].isalnum()
    return end if whole and mod97("".join(characters)) else None


def _ssn(text: str, found: re.Match[str]) -> int | None:
    return found.end()


def _ip(text: str, found: re.Match[str]) -> int | None:
    candidate = found.group().rstrip(".")
    if not any(map(str.isalnum, candidate)):
        return None
    try:
        ipaddress.ip_address(candidate)
    except ValueError:
        return None
    return found.start() + len(candidate)


@dataclass(frozen=True, slots=True)
class _Kind:
    """A form. `hint` (Rust's engine) is quick and finds all that `form` does; `unfinished` ends where the text does."""

    hint: str
    form: re.Pattern[str]
    unfinished: re.Pattern[str]
    end: Callable[[str, re.Match[str]], int | None]


_LOCAL = r"[\w.!#$%&'*+/=?^`{|}~-]"
_KINDS: Mapping[str, _Kind] = {
    "card": _Kind(
        r"[0-9]{4}[ -]?[0-9]{4}",
        re.compile(
            r"(?<![0-9])(?:[0-9]{13,19}+|[0-9]{4}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{1,7}+"
            r"|3[0-9]{3}[ -][0-9]{6}[ -][0-9]{5})(?![0-9])"
        ),
        re.compile(r"(?<![0-9])[0-9](?:[ -]?[0-9]){0,18}[ -]?\Z"),
        _card,
    ),
    "iban": _Kind(
        r"[A-Za-z]{2}[0-9]{2} ?[A-Za-z0-9]",
        re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}[0-9]{2}(?: ?[A-Za-z0-9]){11,30}"),
        re.compile(
            r"(?<![A-Za-z0-9])(?:[A-Za-z]{2}[0-9]{2}(?: ?[A-Za-z0-9]){0,30} ?|[A-Za-z]{2}[0-9]|[A-Za-z]{1,2})\Z"
        ),
        _iban,
    ),
    "ssn": _Kind(
        r"[0-9]{3}[- ][0-9]{2}[- ][0-9]{4}",
        re.compile(
            r"(?<![0-9-])(?!000|666|9[0-9]{2})[0-9]{3}([- ])(?!00)[0-9]{2}\1(?!0000)[0-9]{4}(?![0-9]|-[0-9])"
        ),
        re.compile(r"(?<![0-9-])[0-9][0-9 -]{0,11}\Z"),
        _ssn,
    ),
    "phone": _Kind(
        r"\+[0-9 (]|[0-9]{3}[)]?[-. ]{0,2}[0-9]{3}[-. ][0-9]{4}",
        re.compile(
            r"(?<![\w+])\+[0-9](?:[ .()/-]{0,2}[0-9]){6,14}+(?![0-9])"
            r"|(?<![\w.-])(?:\([0-9]{3}\) ?|[0-9]{3}[-. ])[0-9]{3}[-. ][0-9]{4}(?![0-9]|[-.][0-9])"
        ),
        re.compile(r"(?<![\w+])\+[0-9 .()/-]{0,46}\Z|(?<![\w.-])[(0-9][0-9)(. -]{0,15}\Z"),
        _phone,
    ),
    "ip": _Kind(
        r"[0-9]\.[0-9]{1,3}\.[0-9]|:[0-9A-Fa-f]{0,4}:",
        re.compile(
            r"(?<![\w.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![0-9]|\.[0-9])"
            r"|(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f.]{0,15}(?![\w:])"
        ),
        re.compile(r"(?<![\w:.])[0-9A-Fa-f:.]{1,64}\Z"),
        _ip,
    ),
    "email": _Kind(
        r"[^\s@]@[\w-]",
        re.compile(rf"{_LOCAL}{{1,64}}+@(?:[\w-]{{1,63}}\.){{1,8}}[^\W\d_]{{2,63}}"),
        re.compile(rf"{_LOCAL}{{1,64}}+(?:@[\w.-]{{0,600}})?\Z"),
        _email,
    ),
}  # fmt: skip


class PersonalData:
    """The chosen kinds of personal data."""

    def __init__(self, kinds: Iterable[str] = ()) -> None:
        chosen = tuple(kinds) or tuple(_KINDS)
        for kind in chosen:
            if kind not in _KINDS:
                near = did_you_mean(kind, _KINDS)
                raise ConfigError(f"there is no kind of personal data `{kind}`", hint=near or ", ".join(_KINDS))
        self._kinds = [(name, kind, rust_matcher(kind.hint)) for name, kind in _KINDS.items() if name in chosen]
        self.suspects = rust_matcher("|".join(kind.hint for _, kind, _ in self._kinds))

    def spans(self, text: str, start: int = 0) -> Sequence[Span]:
        found: list[Span] = []
        for name, kind, suspects in self._kinds:
            if suspects(text):
                found += _all(name, kind, text, start)
        return found

    def open_at(self, text: str, start: int = 0) -> int:
        end = len(text)
        near, far = max(start, end - _NEAR), max(start, end - _FAR)
        far = far if text.find("@", far) >= 0 else near  # only an address, behind its @, grows long
        found = (kind.unfinished.search(text, far if name == "email" else near) for name, kind, _ in self._kinds)
        return min((match.start() for match in found if match), default=end)


def _all(name: str, kind: _Kind, text: str, place: int) -> Iterable[Span]:
    """After a candidate that proved none, the search goes on within it."""
    while match := kind.form.search(text, place):
        end = kind.end(text, match)
        if end is None:
            place = match.start() + 1
        else:
            yield Span(match.start(), end, name)
            place = end
