"""A cell's number as its sheet shows it: dates, percentages, currencies, thousands.

Knows number format codes (ECMA-376 part 1, 18.8.30 and 18.8.31). A sheet stores 45,658 where a person reads 2025-01-01
and 0.19 where they read 19%: who asks or quotes uses what is shown. A code that is not understood shows the number.
"""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from functools import lru_cache

GENERAL = "General"
_ISO = "yyyy-mm-dd"
_EAST_ASIAN_DATES = (*range(27, 37), *range(50, 59))
BUILT_IN = {
    **dict.fromkeys(_EAST_ASIAN_DATES, _ISO),
    **{1: "0", 2: "0.00", 3: "#,##0", 4: "#,##0.00", 9: "0%", 10: "0.00%", 11: "0.00E+00"},
    **{14: _ISO, 15: "d-mmm-yy", 16: "d-mmm", 17: "mmm-yy", 18: "h:mm AM/PM", 19: "h:mm:ss AM/PM", 20: "h:mm"},
    **{21: "h:mm:ss", 22: f"{_ISO} h:mm", 37: "#,##0;(#,##0)", 38: "#,##0;(#,##0)", 39: "#,##0.00;(#,##0.00)"},
    **{40: "#,##0.00;(#,##0.00)", 45: "mm:ss", 46: "[h]:mm:ss", 47: "mm:ss.0", 48: "##0.0E+0", 49: "@"},
}
"""Codes of the format ids that a file does not spell out; the date of the reader's own country (14) is shown as ISO."""

_TOKEN = re.compile(
    r'"(?P<quoted>[^"]*)"|\\(?P<escaped>.)|[_*].|\[(?P<bracket>[^\]]*)\]|(?P<general>General)'
    r"|(?P<meridiem>AM/PM|A/P)|(?P<date>[yY]+|[mM]+|[dD]+|[hH]+|[sS]+)(?P<fraction>\.0+)?"
    r"|(?P<power>[eE][-+]0+)|(?P<number>[0#?][0#?,.]*|\.[0#?]+)|(?P<percent>%)|(?P<text>@)|(?P<literal>.)",
    re.DOTALL,
)
_CONDITION = re.compile(r"[<>=]")
_ELAPSED = re.compile(r"[hH]+|[mM]+|[sS]+")
_LAST_DAY = 2_958_466
_MAX_CODE_CHARS = 255


@dataclass(frozen=True, slots=True)
class _Section:
    """One part of a code: (kind, characters) in order."""

    tokens: tuple[tuple[str, str], ...]

    def has(self, *kinds: str) -> bool:
        return any(kind in kinds for kind, _ in self.tokens)


def displayed(value: str, code: str, since_1904: bool = False) -> str:
    """The characters that a sheet shows for a stored number.

    Args:
        since_1904: days count from 1904, as on old Macintoshes, instead of 1900.
    """
    try:
        number = Decimal(value)
        section, shown = _chosen(_sections(code), number)
        if not number.is_finite() or section is None:
            return value
        if section.has("date", "elapsed", "meridiem"):
            return _date(section, number, since_1904)
        return _number(section, shown, value)
    except (InvalidOperation, OverflowError, ValueError):
        return value


@lru_cache(maxsize=512)
def _sections(code: str) -> tuple[_Section, ...]:
    """The parts of a code: for positive numbers, negative ones, zero and text. None for what is not understood."""
    sections: list[list[tuple[str, str]]] = [[]]
    for token in _TOKEN.finditer(code[:_MAX_CODE_CHARS]):
        kind = token.lastgroup if token.lastgroup != "fraction" else "date"
        words = token[kind] if kind else ""
        if kind == "literal" and words == ";":
            sections.append([])
        elif kind == "bracket":
            sections[-1] += _bracket(words)
        elif kind == "date":
            sections[-1].append(("date", words.lower() if words[0] in "YMDHS" else words))
            if token["fraction"]:
                sections[-1].append(("fraction", token["fraction"]))
        elif kind:
            sections[-1].append((kind if kind not in ("quoted", "escaped") else "literal", words))
    return tuple(_Section(tuple(tokens)) for tokens in sections)


def _bracket(words: str) -> list[tuple[str, str]]:
    """`[h]` counts hours beyond a day, `[$€-407]` is a currency, `[>9]` a condition, `[Red]` a colour."""
    if _ELAPSED.fullmatch(words):
        return [("elapsed", words.lower())]
    if words.startswith("$"):
        return [("literal", words[1:].rpartition("-")[0] if "-" in words else words[1:])]
    return [("condition", words)] if _CONDITION.match(words) else []


def _chosen(sections: tuple[_Section, ...], number: Decimal) -> tuple[_Section | None, Decimal]:
    """The part that shows this number, and what it shows of it; a minus is the part's own where it has one."""
    if any(section.has("condition") for section in sections):
        return None, number
    if len(sections) > 2 and number == 0:
        return sections[2], number
    if len(sections) > 1 and number < 0:
        return sections[1], -number
    return sections[0], number


def _number(section: _Section, number: Decimal, stored: str) -> str:
    places = [words for kind, words in section.tokens if kind == "number"]
    literals = [words for kind, words in section.tokens if kind == "literal"]
    if len(places) > 1 or "/" in literals or section.has("text", "general") or not section.tokens:
        return "".join(literals[:1] if not places else ()) + _general(stored, number)
    if not places:
        return "".join(literals)
    scaled = number * 100 ** sum(kind == "percent" for kind, _ in section.tokens)
    power = next((words for kind, words in section.tokens if kind == "power"), None)
    minus = "-" if scaled < 0 else ""
    figures = _scientific(abs(scaled), places[0], power) if power else _fixed(abs(scaled), places[0])
    shown = {"number": figures, "percent": "%"}
    words = "".join(words if kind == "literal" else shown.get(kind, "") for kind, words in section.tokens)
    return (minus if any(figure in "123456789" for figure in figures) else "") + words.strip()


def _fixed(number: Decimal, place: str) -> str:
    """Digits by a mask such as `#,##0.0#`; a comma at its end divides by a thousand."""
    whole, _, decimals = place.partition(".")
    mask = (decimals or whole).rstrip(",")
    number /= 1000 ** (len(decimals or whole) - len(mask))
    decimals = mask if decimals else ""
    figures = str(number.quantize(Decimal(1).scaleb(-len(decimals)), ROUND_HALF_UP))
    left, _, right = figures.partition(".")
    least = len(decimals.rstrip("#?"))
    while len(right) > least and right.endswith("0"):
        right = right[:-1]
    left = left.lstrip("0").rjust(whole.count("0"), "0")
    if "," in whole.rstrip(","):
        left = f"{int(left):,}".rjust(len(left)) if left else left
    return f"{left}.{right}" if right else left


def _scientific(number: Decimal, place: str, power: str) -> str:
    exponent = number.adjusted() if number else 0
    sign = "-" if exponent < 0 else "+" if "+" in power else ""
    return f"{_fixed(number.scaleb(-exponent), place)}E{sign}{str(abs(exponent)).zfill(power.count('0'))}"


def _general(stored: str, number: Decimal) -> str:
    """Without the last digits, which are an artefact of binary numbers: 0.30000000000000004 is shown as 0.3."""
    return stored if stored.lstrip("-").isdigit() else f"{float(number):.15g}"


def _date(section: _Section, number: Decimal, since_1904: bool) -> str:
    days = float(number)
    if not 0 <= days < _LAST_DAY:
        return _general(str(number), number)
    fraction = next((words for kind, words in section.tokens if kind == "fraction"), "")
    ticks = 10 ** (len(fraction) - 1) if fraction else 1
    seconds = round(days * 86400 * ticks) / ticks
    first = datetime(1904, 1, 1) if since_1904 else datetime(1899, 12, 30 if days >= 60 else 31)  # noqa: DTZ001 - a sheet's dates have no zone
    moment = first + timedelta(seconds=seconds)
    half_day = section.has("meridiem")
    words = ""
    before = ""
    for place, (kind, token) in enumerate(section.tokens):
        if kind == "date":
            minutes = token in ("m", "mm") and (before == "h" or _next_unit(section, place) == "s")
            words += _unit(token, moment, half_day, minutes)
        elif kind == "elapsed":
            words += str(int(seconds // {"h": 3600, "m": 60, "s": 1}[token[0]])).zfill(len(token))
        elif kind == "fraction":
            words += f".{moment.microsecond:06}"[: len(token)]
        elif kind == "meridiem":
            words += "AM" if moment.hour < 12 else "PM"
        else:
            words += token if kind == "literal" else ""
        before = token[0] if kind in ("date", "elapsed") else before
    return words.strip()


def _next_unit(section: _Section, place: int) -> str:
    return next((token[0] for kind, token in section.tokens[place + 1 :] if kind in ("date", "elapsed")), "")


def _unit(token: str, moment: datetime, half_day: bool, minutes: bool) -> str:
    """One unit of a date, as many characters wide as its token asks."""
    width = len(token)
    if minutes:
        return str(moment.minute).zfill(min(width, 2))
    if token[0] == "y":
        return f"{moment.year:04}" if width > 2 else f"{moment.year % 100:02}"
    if width > 2 and token[0] in "md":
        name = calendar.month_name[moment.month] if token[0] == "m" else calendar.day_name[moment.weekday()]
        return name[:3] if width == 3 else name[:1] if width == 5 else name
    hour = (moment.hour + 11) % 12 + 1 if half_day else moment.hour
    figure = {"m": moment.month, "d": moment.day, "h": hour, "s": moment.second}[token[0]]
    return str(figure).zfill(min(width, 2))
