"""Processes that promote, approve and roll back, and die on the way: importable, so that a fork server can run them."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from typing import Any

from tests.support.promotions import RISK, Desk
from tests.support.registry_processes import CHAT

from llmops.core.errors import LlmopsError
from llmops.core.names import Ref
from llmops.core.state import StateConfig
from llmops.registry import Registry, evidence, projection
from llmops.registry.audit import Acting
from llmops.registry.authority import Authority
from llmops.registry.promotion import Promoter, approvals, effects, endings, rollback, rows, transition

PLACES: dict[str, tuple[Any, str]] = {
    "intent": (Authority, "acting"),
    "lock": (transition.sequence, "lock"),
    "guard": (transition, "guard"),
    "effect": (effects, "apply"),
    "moves": (effects.aliases, "move"),
    "decision": (evidence, "save"),
    "swap": (rows, "swap"),
    "outcome": (Acting, "concluded"),
    "step": (transition.Transitions, "take"),
    "said": (approvals, "record"),
    "undone": (rollback, "undo"),
    "ended": (endings, "retire"),
    "mirror": (Registry, "mirror"),
    "seen": (projection, "_write"),
    "caught_up": (projection, "_caught_up"),
}
"""Where a process can be killed: right after the named call returned (for `intent`: once it is on record)."""


def kill_after(place: str, times: int) -> None:
    """Let this process be killed (SIGKILL) right after the call has returned so many times."""
    owner, name = PLACES[place]
    before, left = getattr(owner, name), [times]

    def die() -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def last(*arguments: Any, **options: Any) -> Any:
        result = before(*arguments, **options)
        die()
        return result

    @contextmanager
    def entered(*arguments: Any, **options: Any) -> Any:
        with before(*arguments, **options) as acting:
            die()
            yield acting

    setattr(owner, name, entered if place == "intent" else last)


def act(desk: Registry, action: str, ref: str) -> Any:
    """One operator's call."""
    if action == "promote":
        return Promoter(desk).promote(ref)
    if action == "approve":
        return Promoter(desk, principal=RISK).approve(ref, "risk")
    return Promoter(desk).rollback(Ref.parse(ref).name, "worse")


def act_and_die(state: StateConfig, action: str, ref: str, place: str, times: int) -> None:
    with Desk(state) as desk:
        kill_after(place, times)
        act(desk, action, ref)


def act_on_mlflow_and_die(state: StateConfig, ref: str, place: str, times: int) -> None:
    with Registry(state) as registry:
        kill_after(place, times)
        Promoter(registry).promote(ref)


def race(state: StateConfig, number: int, gate: Any, told: Any) -> None:
    """Wait for the others, then promote a version; tell what came of it."""
    with Desk(state) as desk:
        gate.wait(timeout=120)
        try:
            promotion = Promoter(desk).promote(Ref(CHAT, version=number))
            told.put((number, promotion.state.value, [need.why for need in promotion.needs]))
        except LlmopsError as error:
            told.put((number, error.error_code, [error.what]))
