"""Parameters of a workflow: typed, with a default or required, given by `--set params.x=...` or by a trigger.

Knows types and values. A value that looks like a secret is refused: parameters are written down with every run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, JsonValue, model_validator

from llmops.core.errors import ConfigError, did_you_mean
from llmops.core.redact import find_secrets

Type = Literal["string", "integer", "number", "boolean", "object", "array"]
_TYPES: dict[type, Type] = {
    bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object",
}  # fmt: skip


class ParamConfig(BaseModel):
    """`seed: 7` for short, or `seed: {type: integer, default: 7, choices: [7, 8]}`; with no default, to be given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Type
    default: JsonValue = None
    choices: tuple[JsonValue, ...] | None = None
    description: str = ""

    @classmethod
    def lengthened(cls, value: Any) -> Any:
        """The long form of a short one."""
        if isinstance(value, ParamConfig | dict) or type(value) not in _TYPES:
            return value
        return {"type": _TYPES[type(value)], "default": value}

    @property
    def required(self) -> bool:
        return "default" not in self.model_fields_set

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.required and (problem := self.problem(self.default)):
            raise ValueError(f"the default {problem}")
        return self

    def problem(self, value: JsonValue) -> str:
        """What is wrong with a value, in words that go on from its name; empty where nothing is."""
        kind = _TYPES.get(type(value), "null")
        if kind != self.type and not (self.type == "number" and kind == "integer"):
            return f"is of type {kind}, not {self.type}"
        if self.choices is not None and value not in self.choices:
            return f"is not one of {', '.join(map(str, self.choices))}"
        if trouble := json_problem(value):
            return trouble
        return ""


def bound(declared: Mapping[str, ParamConfig], given: Mapping[str, JsonValue], *, where: str) -> dict[str, JsonValue]:
    """The value of every parameter of a run.

    Raises:
        ConfigError: one is unknown, of the wrong type, or missing.
    """
    for name, value in given.items():
        require(declared, name, value, where=where)
    for name, param in declared.items():
        if param.required and name not in given:
            hint = f"give it with --set params.{name}=..."
            raise ConfigError(f"the parameter `{name}` ({param.type}) has no value", where=where, hint=hint)
    return {name: given.get(name, param.default) for name, param in declared.items()}


def require(declared: Mapping[str, ParamConfig], name: str, value: JsonValue, *, where: str) -> None:
    """Raises ConfigError where there is no such parameter, or the value is not of its type."""
    if name not in declared:
        known = ", ".join(sorted(declared)) or "none"
        hint = did_you_mean(name, declared) or f"parameters of this workflow: {known}"
        raise ConfigError(f"unknown parameter `{name}`", where=where, hint=hint)
    if problem := declared[name].problem(value):
        raise ConfigError(f"the parameter `{name}` {problem}", where=where)


def json_problem(value: object, at: str = "") -> str:  # noqa: PLR0911 - one return a type
    """Why a value cannot be written down as JSON in a table, in words; empty where it can."""
    place = f" at `{at}`" if at else ""
    if value is None or isinstance(value, bool | int):
        return (
            "" if not isinstance(value, int) or -(2**63) <= value < 2**64 else f"holds a number beyond 64 bits{place}"
        )
    if isinstance(value, float):
        return "" if math.isfinite(value) else f"holds {value}{place}, which JSON does not know"
    if isinstance(value, str):
        return f"holds what looks like a secret{place}: pass a reference, env:NAME" if find_secrets(value) else ""
    if isinstance(value, list | tuple):
        return next(
            (found for i, item in enumerate(value) if (found := json_problem(item, f"{at}.{i}".lstrip(".")))), ""
        )
    if isinstance(value, Mapping):
        if odd := next((key for key in value if not isinstance(key, str)), None):
            return f"holds the key {odd!r}{place}, which is no text"
        return next(
            (found for key, item in value.items() if (found := json_problem(item, f"{at}.{key}".lstrip(".")))), ""
        )
    return f"holds a {type(value).__module__}.{type(value).__qualname__}{place}, which is not JSON"
