"""Reads what somebody wants a new key to be: from a JSON body, from a page's form, from a command's options.

All three arrive as the same texts and lists, so that a budget is written the same way everywhere: `30/month`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, get_args

from pydantic import ValidationError

from llmops.core.errors import UserError
from llmops.gateway.config import BudgetConfig, LimitsConfig, Period
from llmops.gateway.control.keys import ADMIN, IDS, Wish

LIMITS = tuple(LimitsConfig.model_fields)
PERIODS = get_args(Period)
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")  # PostgreSQL keeps no NUL, and nobody sees the others
_KNOWN = frozenset({"name", "team", "routes", "groups", "scopes", "tags", "budgets", "expires", *LIMITS})


def read_wish(values: Mapping[str, Any]) -> Wish:
    """A wish from texts and lists of texts; empty ones count as not given.

    Raises:
        UserError: something is malformed or unknown.
    """
    if unknown := sorted(set(values) - _KNOWN):
        raise UserError(f"a key has no `{unknown[0][:50]}`", hint=f"it has {', '.join(sorted(_KNOWN))}")
    scopes = _texts(values, "scopes")
    for scope in scopes:
        if scope not in (ADMIN, IDS):
            raise UserError(f"`{scope[:50]}` is no further scope of a virtual key", hint=f"{IDS} or {ADMIN}")
    return Wish(
        name=_text(values, "name"),
        team=_text(values, "team") or None,
        routes=_texts(values, "routes"),
        groups=_texts(values, "groups"),
        scopes=scopes,
        tags=_tags(values.get("tags")),
        limits=_limits(values),
        budgets=tuple(read_budget(text) for text in _texts(values, "budgets")),
        expires_at=_expiry(_text(values, "expires")),
    )


def read_budget(text: str) -> BudgetConfig:
    """`30/month`, `$0.50/day`; a month where no period is named.

    Raises:
        UserError: it is not a budget.
    """
    amount, _, period = text.strip().removeprefix("$").partition("/")
    try:
        return BudgetConfig.model_validate({"usd": Decimal(amount), "period": period or "month"})
    except (InvalidOperation, ValidationError):
        raise UserError(
            f"`{text[:50]}` is no budget",
            hint=f"write US dollars and a period, 30/month; periods: {', '.join(PERIODS)}",
        ) from None


def _limits(values: Mapping[str, Any]) -> LimitsConfig:
    given = {name: values[name] for name in LIMITS if values.get(name) not in (None, "")}
    try:
        return LimitsConfig.model_validate(given)
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        raise UserError(f"`{name}` is a whole number above 0", where=name) from None


def _expiry(text: str) -> datetime | None:
    if not text:
        return None
    if match := re.fullmatch(r"([1-9][0-9]{0,4})([dh])", text):
        return datetime.now(UTC) + timedelta(**{{"d": "days", "h": "hours"}[match[2]]: int(match[1])})
    try:
        found = datetime.fromisoformat(text)
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise UserError(f"`{text[:50]}` is no end of a key", hint="write 90d, 12h or 2027-01-31") from None


def _tags(given: Any) -> dict[str, str]:
    if isinstance(given, Mapping):
        return {str(name): _text({name: str(value)}, name) for name, value in given.items()}
    tags: dict[str, str] = {}
    for piece in _split(given):
        name, equals, value = piece.partition("=")
        if not equals:
            raise UserError(f"`{piece[:50]}` is no tag", hint="write NAME=VALUE")
        tags[name.strip()] = value.strip()
    return tags


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or _CONTROLS.search(value):
        raise UserError(f"`{name}` is a text without control characters", where=name)
    return value.strip()


def _texts(values: Mapping[str, Any], name: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_split(values.get(name))))


def _split(given: Any) -> list[str]:
    """A list of texts, or one text with commas."""
    if given is None:
        return []
    if isinstance(given, str):
        given = given.split(",")
    if not isinstance(given, Sequence) or not all(isinstance(piece, str) for piece in given):
        raise UserError("a list of texts is needed", hint="such as routes: [fast, deep]")
    return [piece.strip() for piece in given if piece.strip()]
