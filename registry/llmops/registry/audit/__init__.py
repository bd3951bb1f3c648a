"""Who did what, when and with which right to: a chain of sealed rows, each intent before its effect.

Audit knows actions by name and whom they were about. What an action does is for whoever acts.
"""

from __future__ import annotations

from llmops.registry.audit.entries import Entry, Origin
from llmops.registry.audit.log import Acting, Audit
from llmops.registry.audit.reading import Wanted
from llmops.registry.audit.verification import Problem, Report, verify

__all__ = ["Acting", "Audit", "Entry", "Origin", "Problem", "Report", "Wanted", "verify"]
