"""Versions of everything that changes behaviour, and the alias each of them answers to.

Registry knows assets, evidence and who moved what. It does not know how any kind is built or served.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmops.registry.assets import Registry
    from llmops.registry.evidence import Evidence
    from llmops.registry.records import (
        Alias,
        Asset,
        Candidate,
        CodeModel,
        Definition,
        Kind,
        Pointer,
        PromptText,
        SavedModel,
        Version,
    )

_HOMES = {
    "Registry": "assets",
    "Evidence": "evidence",
    **dict.fromkeys(
        (
            "Alias",
            "Asset",
            "Candidate",
            "CodeModel",
            "Definition",
            "Kind",
            "Pointer",
            "PromptText",
            "SavedModel",
            "Version",
        ),
        "records",
    ),
}

__all__ = [
    "Alias",
    "Asset",
    "Candidate",
    "CodeModel",
    "Definition",
    "Evidence",
    "Kind",
    "Pointer",
    "PromptText",
    "Registry",
    "SavedModel",
    "Version",
]


def __getattr__(name: str) -> Any:
    """The public names, from their modules when first asked for: importing a neighbour must not cost SQLAlchemy."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
