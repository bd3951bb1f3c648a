"""`${...}`: what a configuration takes from parameters, the run and earlier tasks, replaced with its JSON type kept.

`${train.version}` alone gives the number; inside a text it gives its digits. `$${` stands for `${`. Knows values and
paths through them; which names there are is `graph`'s to check.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import orjson
from pydantic import JsonValue

from llmops.core.errors import ConfigError, did_you_mean
from llmops.core.positions import Path_

_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)\}?")
_PATH = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z0-9_-]+)*")


@dataclass(frozen=True, slots=True)
class Reference:
    """One `${...}` and where it stands."""

    at: Path_
    text: str
    """As written, `${train.version}`."""
    path: tuple[str, ...] | None
    """`("train", "version")`; None where it is malformed."""


def references(value: JsonValue, at: Path_ = ()) -> Iterator[Reference]:
    """Every reference inside a value, in order."""
    if isinstance(value, str):
        for match in _REFERENCE.finditer(value):
            if match.group() != "$${":
                yield Reference(at, match.group(), _path(match))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from references(item, (*at, index))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from references(item, (*at, key))


def substitute(value: JsonValue, scope: Mapping[str, JsonValue]) -> JsonValue:
    """The value with every reference replaced by what it names in `scope`.

    Raises:
        ConfigError: nothing has that name; tells the nearest.
    """
    if isinstance(value, str):
        return _text(value, scope)
    if isinstance(value, list):
        return [substitute(item, scope) for item in value]
    if isinstance(value, dict):
        return {key: substitute(item, scope) for key, item in value.items()}
    return value


def _text(text: str, scope: Mapping[str, JsonValue]) -> JsonValue:
    whole = _REFERENCE.fullmatch(text)
    if whole and whole.group() != "$${":
        return _look_up(whole, scope)
    return _REFERENCE.sub(lambda match: "${" if match.group() == "$${" else _written(_look_up(match, scope)), text)


def _path(match: re.Match[str]) -> tuple[str, ...] | None:
    inside = (match.group(1) or "").strip()
    return tuple(inside.split(".")) if match.group().endswith("}") and _PATH.fullmatch(inside) else None


def _look_up(match: re.Match[str], scope: Mapping[str, JsonValue]) -> JsonValue:
    path = _path(match)
    if path is None:
        raise ConfigError(f"`{match.group()}` is not a reference", hint="write ${task.key}, ${params.name} or ${env}")
    value: JsonValue = dict(scope)
    for index, step in enumerate(path):
        inside = value
        if isinstance(inside, dict) and step in inside:
            value = inside[step]
        elif isinstance(inside, list) and step.isdigit() and int(step) < len(inside):
            value = inside[int(step)]
        else:
            raise _absent(match.group(), path[:index], step, inside)
    return value


def _absent(text: str, walked: tuple[str, ...], step: str, inside: JsonValue) -> ConfigError:
    holder = f"`{'.'.join(walked)}`" if walked else "this workflow"
    if not isinstance(inside, dict):
        return ConfigError(f"`{text}`: {holder} has nothing called `{step}`")
    names = ", ".join(sorted(inside)) or "nothing"
    return ConfigError(f"`{text}`: {holder} has no `{step}`", hint=did_you_mean(step, inside) or f"it has {names}")


def _written(value: JsonValue) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()
