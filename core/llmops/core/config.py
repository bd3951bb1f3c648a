"""One YAML a job, laid over defaults and under the environment and `--set`; every value knows where it came from.

Order: defaults < file < `LLMOPS_SECTION__KEY` < `--set section.key=value`. Models are frozen pydantic with
`extra="forbid"`; their errors are given back with file, line and column. Secrets stand in a configuration only as
references, which `core.secret` resolves at the moment of use.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from llmops.core.errors import ConfigError, did_you_mean
from llmops.core.ids import digest
from llmops.core.positions import Path_, Positions, load_yaml

Model = TypeVar("Model", bound=BaseModel)
PREFIX = "LLMOPS_"
OWN = frozenset({"bench", "complete", "data", "job", "key", "log_level"})
"""Variables that speak to the program itself (`LLMOPS_KEY`): no value of a job, though a job may have that key."""


@dataclass(frozen=True)
class Loaded(Generic[Model]):
    """A checked configuration, what was given of it and where that stands, and a hash of the whole."""

    value: Model
    given: Mapping[str, Any]
    origins: Mapping[Path_, str]

    @property
    def hash(self) -> str:
        return digest(self.value.model_dump(mode="json"))

    def rows(self) -> list[tuple[str, Any, str]]:
        """(dotted key, value, origin) of every value, in the model's order."""
        return [
            (dotted(path), value, self._origin(path)) for path, value in _leaves(self.value.model_dump(mode="json"))
        ]

    def _origin(self, path: Path_) -> str:
        """Where the value was given; a section that was given says nothing about the keys it lacks."""
        return _nearest(path, self.origins) or "default" if _is_given(path, self.given) else "default"


def load_config(
    model: type[Model],
    path: Path | None = None,
    *,
    overrides: Sequence[str] = (),
    environment: Mapping[str, str] = os.environ,
) -> Loaded[Model]:
    """Build a job's configuration.

    Args:
        path: the YAML file; None for defaults only.
        overrides: `a.b=value` texts, the value read as YAML.

    Raises:
        NotFoundError: no such file.
        ConfigError: an unknown key, a wrong value, or an override that fits nowhere.
    """
    file = load_yaml(path) if path else Positions("<defaults>", {}, {})
    values = file.values
    origins: dict[Path_, str] = {key: mark for key, mark in file.marks.items() if key}
    for name, text in sorted(environment.items()):
        if not name.startswith(PREFIX):
            continue
        keys = tuple(part.lower() for part in name.removeprefix(PREFIX).split("__"))
        if keys[0] in model.model_fields and not (len(keys) == 1 and keys[0] in OWN):
            _lay(values, keys, _scalar(text, f"environment variable {name}"), origins, f"environment variable {name}")
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"`{override}` is not an override", where="--set", hint="write --set section.key=value")
        _lay(values, tuple(key.split(".")), _scalar(text, f"--set {key}"), origins, f"--set {key}")
    try:
        return Loaded(model.model_validate(values), values, origins)
    except ValidationError as error:
        raise _explain(model, error, origins, file) from error


def dotted(path: Path_) -> str:
    return ".".join(str(part) for part in path)


def _scalar(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError("the value cannot be read", where=where) from error


def _lay(values: dict[str, Any], path: Sequence[str], value: Any, origins: dict[Path_, str], origin: str) -> None:
    """Put `value` at `path`, building sections on the way; a number steps into a list."""
    place: Any = values
    walked: list[str | int] = []
    for position, key in enumerate(path):
        last = position == len(path) - 1
        if isinstance(place, list):
            if not key.isdigit() or int(key) >= len(place):
                raise ConfigError(f"`{dotted(tuple(walked))}` has no entry {key}", where=origin)
            step: str | int = int(key)
        elif isinstance(place, dict):
            step = key
        else:
            raise ConfigError(f"`{dotted(tuple(walked))}` is not a section", where=origin)
        walked.append(step)
        if last:
            place[step] = value
        elif isinstance(place, dict) and place.get(key) is None:
            place[step] = {}
        place = place[step]
    for known in [known for known in origins if known[: len(walked)] == tuple(walked)]:
        del origins[known]
    origins[tuple(walked)] = origin


def _explain(
    model: type[BaseModel], error: ValidationError, origins: Mapping[Path_, str], file: Positions
) -> ConfigError:
    """The first problem in the words of the configuration's author; the number of others in the hint."""
    problem = error.errors(include_url=False)[0]
    path = _as_written(tuple(problem["loc"]), file.values)
    where = _nearest(path, origins) or file.where(path)
    others = error.error_count() - 1
    if problem["type"] == "extra_forbidden":
        what = f"unknown key `{dotted(path)}`"
        hint = did_you_mean(str(path[-1]), _known_keys(model, path[:-1]))
    else:
        what = f"`{dotted(path)}`: {_lower(problem['msg'])}"
        hint = problem.get("ctx", {}).get("hint") or None  # a check of the model's own may know what to do
    if others:
        more = f"{others} more problem{'s' * (others > 1)} in this configuration"
        hint = f"{hint} ({more})" if hint else more
    return ConfigError(what, where=where, hint=hint)


def _lower(message: str) -> str:
    """A validator's message in the middle of a sentence."""
    message = message.removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def _as_written(path: Path_, values: Any) -> Path_:
    """A place as the author wrote it: without the names of alternatives, which pydantic puts between its keys."""
    written: list[str | int] = []
    for position, part in enumerate(path):
        last = position == len(path) - 1
        if isinstance(values, dict) and (part in values or last):
            values = values.get(part)
        elif isinstance(values, list) and isinstance(part, int) and part < len(values):
            values = values[part]
        elif isinstance(values, dict | list):
            continue
        written.append(part)
    return tuple(written) or path


def _nearest(path: Path_, origins: Mapping[Path_, str]) -> str | None:
    while path:
        if path in origins:
            return origins[path]
        path = path[:-1]
    return None


def _is_given(path: Path_, given: Any) -> bool:
    """Whether a place, or a shorthand for all that is around it, stands in what was given."""
    for part in path:
        if isinstance(given, dict) and isinstance(part, str):
            if part not in given:
                return False
            given = given[part]
        elif isinstance(given, list) and isinstance(part, int) and part < len(given):
            given = given[part]
        else:
            return True
    return True


def _known_keys(model: type[BaseModel], path: Path_) -> list[str]:
    """The keys of the section at `path`: its fields, found through optional, repeated and alternative sections."""
    sections: list[type[BaseModel]] = [model]
    for part in path:
        if isinstance(part, str):
            fields = [found for section in sections if (found := _fields(section).get(part))]
            sections = [section for field in fields for section in _sections(field.annotation)]
    return list(dict.fromkeys(key for section in sections for key in _fields(section)))


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """A section's fields by the words that stand in the file."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for argument in get_args(annotation) for section in _sections(argument)]


def _leaves(value: Any, path: Path_ = ()) -> list[tuple[Path_, Any]]:
    if isinstance(value, dict) and value:
        return [leaf for key, item in value.items() for leaf in _leaves(item, (*path, key))]
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [leaf for index, item in enumerate(value) for leaf in _leaves(item, (*path, index))]
    return [(path, value)]
