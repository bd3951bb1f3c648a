"""Who may do what to which asset: Unity Catalog's privileges, owners, and the rules for prod and protected aliases.

Access decides and keeps grants. It does not know how a principal proved who they are, nor what an action does.
"""

from __future__ import annotations

from llmops.registry.access.control import Access
from llmops.registry.access.grants import Change, Grants
from llmops.registry.access.privileges import PROTECTED, SERVICE_ONLY, Privilege
from llmops.registry.access.report import Holding
from llmops.registry.access.rights import Held, Rights
from llmops.registry.access.securables import EVERYTHING, Securable

__all__ = [
    "EVERYTHING",
    "PROTECTED",
    "SERVICE_ONLY",
    "Access",
    "Change",
    "Grants",
    "Held",
    "Holding",
    "Privilege",
    "Rights",
    "Securable",
]
