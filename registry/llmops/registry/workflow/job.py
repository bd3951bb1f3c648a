"""Loads a workflow's file: its configuration, and the values of its parameters for one run.

Parameters are laid over by `--set params.x=...` and `LLMOPS_PARAMS__X`, with their declared types checked.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import JsonValue

from llmops.core.config import PREFIX, load_config
from llmops.core.errors import ConfigError
from llmops.registry.workflow.config import WorkflowConfig
from llmops.registry.workflow.params import ParamConfig, bound, require

_ASSIGNS = "params."
_VARIABLE = f"{PREFIX}PARAMS__"


@dataclass(frozen=True)
class Job:
    """A checked configuration, where it stands, and what its parameters were given."""

    config: WorkflowConfig
    file: str
    given: Mapping[str, JsonValue]

    def params(self, more: Mapping[str, JsonValue] | None = None, *, where: str = "") -> dict[str, JsonValue]:
        """The parameters of a run, `more` laid over what the command line gave.

        Raises:
            ConfigError: one is unknown, of the wrong type, or missing.
        """
        return bound(self.config.params, {**self.given, **(more or {})}, where=where or self.file)


def load_job(path: Path, overrides: Sequence[str] = (), environment: Mapping[str, str] = os.environ) -> Job:
    """Load and check a workflow's file.

    Raises:
        NotFoundError: no such file.
        ConfigError: what is wrong, with file, line and column.
    """
    plain = {name: text for name, text in environment.items() if not name.startswith(_VARIABLE)}
    others = [one for one in overrides if not one.startswith(_ASSIGNS)]
    config = load_config(WorkflowConfig, path, overrides=others, environment=plain).value
    given: dict[str, JsonValue] = {}
    for name, text in sorted(environment.items()):
        key, where = name.removeprefix(_VARIABLE).lower(), f"environment variable {name}"
        if name.startswith(_VARIABLE) and key in config.params:
            given[key] = _read(config.params.get(key), text, where)
            require(config.params, key, given[key], where=where)
    for override in overrides:
        if not override.startswith(_ASSIGNS):
            continue
        word, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"`{override}` is not an override", where="--set", hint="write --set params.x=value")
        key, where = word.removeprefix(_ASSIGNS), f"--set {word}"
        given[key] = _read(config.params.get(key), text, where)
        require(config.params, key, given[key], where=where)
    return Job(config, str(path), given)


def _read(param: ParamConfig | None, text: str, where: str) -> JsonValue:
    """The value as YAML reads it; of a parameter that is a string, the text itself: 2026-01-05 is no date there."""
    if param is not None and param.type == "string":
        return text
    try:
        value: JsonValue = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError("the value cannot be read", where=where) from error
    return value
