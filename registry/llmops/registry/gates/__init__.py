"""What looks at a version and writes evidence: validation, comparison with the champion, and the card of both.

Nothing here moves an alias or a state; `promotion` decides by what is written here. What a version is made of runs in a
confined process, never in the caller's.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmops.registry.gates.card import Card, write_card
    from llmops.registry.gates.comparison import compare
    from llmops.registry.gates.filing import file_report
    from llmops.registry.gates.plugins import Checking
    from llmops.registry.gates.report import Finding, Report
    from llmops.registry.gates.spec import ComparisonSpec, ValidationSpec
    from llmops.registry.gates.validation import validate

_HOMES = {
    "Card": "card",
    "Checking": "plugins",
    "ComparisonSpec": "spec",
    "Finding": "report",
    "Report": "report",
    "ValidationSpec": "spec",
    "compare": "comparison",
    "file_report": "filing",
    "validate": "validation",
    "write_card": "card",
}

__all__ = [
    "Card",
    "Checking",
    "ComparisonSpec",
    "Finding",
    "Report",
    "ValidationSpec",
    "compare",
    "file_report",
    "validate",
    "write_card",
]


def __getattr__(name: str) -> Any:
    """The public names, from their modules when first asked for: a specification must not cost numpy."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
