"""Versions, evidence and principals for tests of promotion, without MLflow: its copies go to a store in memory."""

from __future__ import annotations

from typing import Any

from tests.support.registry_processes import CHAT
from tests.support.registry_rows import seed

from llmops.core.errors import UnavailableError
from llmops.core.identity import Principal
from llmops.core.state import StateConfig
from llmops.registry import Evidence, Registry, Version
from llmops.registry.evidence import Method, Subject

DEPLOYER = Principal("svc:deploy", "service")
RISK = Principal("ann", "person", frozenset({"risk"}))
LEGAL = Principal("bob", "person", frozenset({"legal"}))
BOTH = Principal("eve", "person", frozenset({"risk", "legal"}))
MAKER = Principal("seed", "person", frozenset({"risk"}))
"""Who `registry_rows.seed` says made the versions."""


class MemoryStore:
    """MLflow's aliases and tags as far as the registry writes them; `down` makes it refuse."""

    def __init__(self) -> None:
        self.held: dict[str, dict[str, int]] = {}
        self.kept: dict[tuple[str, int, str], str] = {}
        self.down = False

    def aliases(self) -> dict[str, dict[str, int]]:
        return {name: dict(held) for name, held in self.held.items()}

    def aliases_of(self, name: str, *, prompt: bool) -> dict[str, int]:
        if self.down:
            raise UnavailableError("MLflow is down")
        return dict(self.held.setdefault(name, {}))

    def set_alias(self, name: str, alias: str, version: int | None, *, prompt: bool) -> None:
        held = self.held.setdefault(name, {})
        if version is None:
            held.pop(alias, None)
        else:
            held[alias] = version

    def tags(self) -> dict[tuple[str, int], dict[str, str]]:
        return {}  # it holds no versions

    def set_tag(self, name: str, version: int, key: str, value: str, *, prompt: bool) -> None:
        self.kept[name, version, key] = value


class Desk(Registry):
    """A registry whose MLflow is a `MemoryStore`."""

    def __init__(
        self, state: StateConfig, *, principal: Principal = DEPLOYER, store: MemoryStore | None = None
    ) -> None:
        super().__init__(state, principal=principal)
        self.store = store or MemoryStore()

    def _store(self, catalog: str) -> Any:
        return self.store

    def seed(self, count: int = 3) -> list[Version]:
        """Versions that somebody else made."""
        return seed(self.sql, str(CHAT), count)


def found(version: Version, gate: str = "validation", verdict: str = "pass", **changes: Any) -> Evidence:
    """What a gate found about a version."""
    values: dict[str, Any] = {"verdict": verdict, "actor": "gate", "method": Method(name="test", version="1")}
    return Evidence(asset=Subject.of(version), gate=gate, **(values | changes))


def against(version: Version, champion: Version | None, verdict: str = "pass", **changes: Any) -> Evidence:
    """What a comparison with the champion found."""
    baseline = None if champion is None else Subject.of(champion)
    return found(version, "comparison", verdict, baseline=baseline, **changes)
