"""YAML that remembers where each value stands, so that an error can point at its line and column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from llmops.core.errors import ConfigError, NotFoundError, did_you_mean

Path_ = tuple[str | int, ...]
"""Keys and list indexes from the root to a value."""

_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp")}


@dataclass(frozen=True)
class Positions:
    """A YAML file's values, and the `file:line:column` of every key in it."""

    file: str
    values: dict[str, Any]
    marks: Mapping[Path_, str]

    def where(self, path: Path_) -> str:
        """The position of a value, or of the nearest value that holds it."""
        while path and path not in self.marks:
            path = path[:-1]
        return self.marks.get(path, self.file)


def load_yaml(path: Path) -> Positions:
    """Read one YAML mapping.

    Raises:
        NotFoundError: no such file.
        ConfigError: not YAML, not a mapping, or a key stands twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFoundError("no such configuration file", where=str(path), hint=_other_file(path)) from None
    except (UnicodeDecodeError, IsADirectoryError, PermissionError) as error:
        raise ConfigError("the configuration file cannot be read", where=f"{path}: {error}") from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise ConfigError(f"not valid YAML: {error.problem or error.context}", where=where) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML: {error}", where=str(path)) from error
    marks: dict[Path_, str] = {(): f"{path}:1:1"}
    if root is None:
        return Positions(str(path), {}, marks)
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError("a configuration file is a mapping of keys to values", where=f"{path}:1:1")
    values = _Builder(str(path), marks).build(root, ())
    return Positions(str(path), values, marks)


def _other_file(path: Path) -> str:
    """What to name instead of a file that is not there."""
    beside = sorted(file.name for file in path.parent.glob("*.yaml"))
    if meant := did_you_mean(path.name, beside):
        return meant
    if beside:
        return f"{path.parent} has {', '.join(beside[:8])}{', ...' * (len(beside) > 8)}"
    return "`llmops init` writes configs/rag.yaml and configs/serve.yaml"


class _Builder:
    def __init__(self, file: str, marks: dict[Path_, str]) -> None:
        self.file = file
        self.marks = marks
        self.scalars = yaml.SafeLoader("")

    def build(self, node: yaml.Node, path: Path_) -> Any:
        if node.tag not in _TAGS:
            raise ConfigError(f"the YAML tag `{node.tag}` is not accepted", where=self._position(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._item(item, (*path, index)) for index, item in enumerate(node.value)]
        return self.scalars.construct_object(node, deep=True)

    def _item(self, node: yaml.Node, path: Path_) -> Any:
        self.marks[path] = self._position(node)
        return self.build(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Path_) -> dict[str, Any]:
        built: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if key in built:
                raise ConfigError(f"`{key}` stands twice", where=self._position(key_node), hint="keep one of them")
            self.marks[(*path, key)] = self._position(key_node)
            built[key] = self.build(value_node, (*path, key))
        return built

    def _position(self, node: yaml.Node) -> str:
        return f"{self.file}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"
