"""XML elements by their local names: the strict and the transitional office formats differ in namespaces only.

Knows names and attributes; what they mean is for the reader of each format.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any


def local(element: Any) -> str:
    """An element's name without its namespace; nothing for comments and entities, whose tag is no text."""
    return _name(element.tag)


def children(parent: Any, kind: str) -> Iterator[Any]:
    """The children of a kind; none where there is no parent, as most elements of the formats are optional."""
    return (element for element in (parent if parent is not None else ()) if local(element) == kind)


def child(parent: Any, *kinds: str) -> Any:
    """The first child of a kind, its first child of the next kind, and so on; None where one is missing."""
    for kind in kinds:
        parent = next(children(parent, kind), None)
    return parent


def beneath(parent: Any, kind: str) -> Iterator[Any]:
    """Every descendant of a kind, in the order of the text."""
    return (element for element in parent.iter() if local(element) == kind)


def attribute(element: Any, name: str) -> str | None:
    """An attribute of this name, in whatever namespace."""
    return next((str(value) for key, value in element.attrib.items() if _name(key) == name), None)


@lru_cache(maxsize=1024)
def _name(tag: object) -> str:
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""
