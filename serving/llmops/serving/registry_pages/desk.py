"""Who asks, and the registry as they may see and change it: made anew for each request.

An action is theirs, so the audit log names them, their address and their browser. Knows no page.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.requests import Request

from llmops.core.errors import UserError
from llmops.core.identity import Principal
from llmops.core.ids import new_id
from llmops.core.keys import Keys
from llmops.core.people.accounts import PREFIX, Accounts
from llmops.registry.assets import Registry
from llmops.registry.audit import Origin
from llmops.registry.promotion import Promoter
from llmops.registry.workflow import Workflows

_KEY = "key:"
_REMEMBERED_S = 5.0
_MOST_REMEMBERED = 10_000


class Facts(Protocol):
    """What one page shows; its JSON twin is the same."""

    def as_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Asked:
    """One request, read: by whom, which thing, and how it is to be shown."""

    principal: Principal
    registry: Registry
    promoter: Promoter
    workflows: Workflows | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)

    def word(self, name: str) -> str:
        """A word of the query, "" where it is not there."""
        return self.query.get(name, "").strip()[:300]

    def number(self, name: str, default: int, most: int) -> int:
        """A whole number of the query.

        Raises:
            UserError: it is none, or too large.
        """
        text = self.word(name)
        if not text:
            return default
        if not text.isascii() or not text.isdigit() or len(text) > 18 or not 0 < int(text) <= most:
            raise UserError(f"`{name}` is a whole number from 1 to {most}", where=name)
        return int(text)


def asked(request: Request, registry: Registry, workflows: Workflows | None = None) -> Asked:
    """Read a request that has passed the door."""
    principal: Principal = request.scope["operator"]
    request.scope["request_id"] = request_id = new_id()
    origin = Origin(
        source_ip_address=request.client.host if request.client else None,
        user_agent=request.headers.get("user-agent", "")[:200] or None,
        request_id=request_id,
    )
    theirs = registry.in_name_of(principal, origin)
    return Asked(principal, theirs, Promoter(theirs), workflows, request.path_params, request.query_params)


class People:
    """The names of keys and people, so that a page can say more than an id. Each is looked up again every few seconds,
    and a new one at once."""

    def __init__(self, keys: Keys, accounts: Accounts) -> None:
        self._keys = keys
        self._accounts = accounts
        self._names: dict[str, tuple[float, str | None]] = {}

    def name_of(self, principal_id: str) -> str | None:
        """What a person is called, or a key's maker called it; None for whoever is neither."""
        if not principal_id.startswith((_KEY, PREFIX)):
            return None
        now = time.monotonic()
        until, name = self._names.get(principal_id, (now, None))
        if now >= until:
            name = self._look_up(principal_id)
            if len(self._names) >= _MOST_REMEMBERED:
                self._names.clear()
            self._names[principal_id] = now + _REMEMBERED_S, name
        return name

    def _look_up(self, principal_id: str) -> str | None:
        if principal_id.startswith(_KEY):
            key = self._keys.find(principal_id.removeprefix(_KEY))
            return None if key is None else key.name
        person = self._accounts.find(principal_id.removeprefix(PREFIX))
        return None if person is None else person.name
