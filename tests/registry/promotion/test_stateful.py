"""Promoters, approvers, rollbacks and crashes in any order, beside a model of a few lines that says what holds."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.support.promotion_processes import PLACES
from tests.support.promotions import BOTH, LEGAL, RISK, Desk, against, found
from tests.support.registry_processes import CHAT

from llmops.core.errors import ConflictError, DeniedError, LlmopsError, NotFoundError, UserError
from llmops.core.names import Ref
from llmops.core.state import StateConfig
from llmops.registry import Version, evidence
from llmops.registry.promotion import Policy, Promoter, State
from llmops.registry.promotion.history import _with_parents
from llmops.registry.promotion.states import EDGES

NUMBERS = st.integers(1, 4)
ACTS = ("promote", "promote", "rollback", "retire")
CRASHES = {
    "guard": "promote",
    "effect": "promote",
    "moves": "rollback",
    "decision": "retire",
    "swap": "promote",
    "outcome": "rollback",
    "undone": "rollback",
    "ended": "retire",
    "mirror": "promote",
    "seen": "rollback",
    "caught_up": "retire",
}
"""Where a process can end, each with an act that surely comes by there."""


class Crash(BaseException):
    """A process that ends here: nothing after it runs, and the open transaction is gone."""


class Flow(RuleBasedStateMachine):
    """Every operator does what they like; after each act the record must still tell one story."""

    state: StateConfig
    done: ClassVar[set[str]]
    """What came about in any of the runs: a machine that never gets anywhere would show nothing."""

    @initialize(approvals=st.sampled_from([(), ("risk",), ("risk", "legal")]), champions=st.sampled_from([3, 2, 0]))
    def begin(self, approvals: tuple[str, ...], champions: int) -> None:
        self.state = self.empty()
        self.desk = Desk(self.state)
        self.versions = {version.version: version for version in self.desk.seed(4)}
        self.promoter.set_policy("dev", Policy(approvals=approvals))
        self.approvals = approvals
        self.reigns: list[int] = []  # the model: champions one after the other, without those rolled back
        self.rollbacks = self.endings = 0
        for _ in range(champions):
            self.prove(1, people=True)

    def empty(self) -> StateConfig:
        return StateConfig(dir=Path(tempfile.mkdtemp(prefix="llmops-flow-")))

    def teardown(self) -> None:
        if hasattr(self, "desk"):
            self.desk.close()
            shutil.rmtree(self.state.root, ignore_errors=True)

    @property
    def promoter(self) -> Promoter:
        return Promoter(self.desk)

    @property
    def champion(self) -> Version | None:
        held = self.desk.alias(CHAT, "champion")
        return None if held is None else self.versions[held.version]

    @rule(
        number=NUMBERS,
        gate=st.sampled_from(["validation", "comparison"]),
        verdict=st.sampled_from(["pass", "fail", "inconclusive"]),
    )
    def find(self, number: int, gate: str, verdict: str) -> None:
        version = self.versions[number]
        record = found(version, gate, verdict) if gate == "validation" else against(version, self.champion, verdict)
        self.desk.add_evidence(record)

    @rule(ahead=st.integers(1, 3), people=st.booleans())
    def prove(self, ahead: int, people: bool) -> None:
        """Another version than the champion comes the usual way, and whoever is asked approves it."""
        number = 1 + ((self._now() or 0) - 1 + ahead) % 4
        self.find(number, "validation", "pass")
        self.find(number, "comparison", "pass")
        self.promote(number, again=True)
        if people:
            self.speak("approve", number, RISK, "risk")
            self.speak("approve", number, LEGAL, "legal")
            self.promote(number, again=False)

    @rule(number=NUMBERS, again=st.booleans())
    def promote(self, number: int, again: bool) -> None:
        try:
            self.promoter.promote(Ref(CHAT, version=number), again=again)
        except ConflictError as error:
            told = error.error_code
        else:
            told = ""
        assert told in {"", "already_champion"}
        self._follow()

    @rule(
        word=st.sampled_from(["approve", "deny", "revoke"]),
        number=NUMBERS,
        who=st.sampled_from([RISK, LEGAL, BOTH]),
        group=st.sampled_from(["risk", "legal"]),
    )
    def speak(self, word: str, number: int, who: Any, group: str) -> None:
        try:
            promotion = getattr(Promoter(self.desk, principal=who), word)(Ref(CHAT, version=number), group)
        except (DeniedError, UserError):
            return
        assert group in who.groups
        if promotion.state is State.APPROVED:
            said = [entry for entry in self.promoter.history(CHAT) if entry.kind == "approval"]
            assert {entry.detail["group"] for entry in said} >= set(self.approvals)

    @rule(retried=st.booleans())
    def rollback(self, retried: bool) -> None:
        self.rollbacks += 1
        try:
            self.promoter.rollback(CHAT, f"reason {self.rollbacks}")
            if retried:
                assert self.promoter.rollback(CHAT, f"reason {self.rollbacks}").again
        except UserError as error:
            refused = error.error_code
        else:
            refused = ""
            self.reigns.pop()
            self.done.add("rollback")
        assert refused in {"", "no_previous_champion", "not_found"}
        assert not refused or len(self.reigns) < 2
        self._agree()

    @precondition(lambda self: getattr(self, "rollbacks", 0) >= 2)  # seldom: it leaves nothing to roll back
    @rule(retried=st.booleans())
    def retire(self, retried: bool) -> None:
        self.endings += 1
        try:
            self.promoter.retire(CHAT, f"reason {self.endings}")
            if retried:
                assert self.promoter.retire(CHAT, f"reason {self.endings}").again
        except NotFoundError:
            assert not self.reigns
            return
        assert self.reigns
        self.reigns.clear()
        self.done.add("retire")
        self._agree()

    @rule(number=NUMBERS)
    def withdraw(self, number: int) -> None:
        self.endings += 1
        self.promote(number, again=True)
        try:
            promotion = self.promoter.withdraw(Ref(CHAT, version=number), f"reason {self.endings}")
        except UserError:
            return
        assert promotion.state is State.WITHDRAWN
        assert self.desk.show(CHAT).aliases.get("challenger") != number
        self.done.add("withdraw")
        self._agree()

    @rule(
        place=st.sampled_from(sorted(CRASHES)),
        times=st.integers(1, 2),
        ahead=st.integers(1, 3),
        act=st.sampled_from(ACTS),
    )
    def crash(self, place: str, times: int, ahead: int, act: str) -> None:
        """An operator's process dies in the middle; then another comes and looks."""
        number = 1 + ((self._now() or 0) - 1 + ahead) % 4
        self.find(number, "validation", "pass")
        self.find(number, "comparison", "pass")
        owner, name = PLACES[place]
        before, left = getattr(owner, name), [times]

        def last(*arguments: Any, **options: Any) -> Any:
            result = before(*arguments, **options)
            left[0] -= 1
            if left[0] == 0:
                raise Crash
            return result

        reigns = list(self.reigns)
        setattr(owner, name, last)
        self.rollbacks += 1
        try:
            if act == "promote":
                self.promoter.promote(Ref(CHAT, version=number))
            else:
                getattr(self.promoter, act)(CHAT, f"crash {self.rollbacks}")
        except Crash:
            self.done.add("crash")
        except LlmopsError:
            pass
        finally:
            setattr(owner, name, before)
        self.desk.close()
        self.desk = Desk(self.state, store=self.desk.store)
        if act == "rollback" and self._now() != (reigns[-1] if reigns else None):
            self.reigns.pop()
        if act == "retire" and self._now() is None:
            self.reigns.clear()
        self._follow()

    @precondition(lambda self: hasattr(self, "desk"))
    @invariant()
    def champion_rests_on_passes(self) -> None:
        champion = self.champion
        if champion is None:
            return
        held = self.desk.alias(CHAT, "champion")
        assert held is not None
        with self.desk.sql.read() as connection:
            proofs = _with_parents(connection, held.evidence_id)
            assert {proof.verdict for proof in proofs} == {"pass"}
            record = evidence.load(connection, held.evidence_id)
        assert record.asset.digest == champion.digest
        if record.gate == "promotion":
            assert {"validation", "comparison"} <= {proof.gate for proof in proofs}

    @precondition(lambda self: hasattr(self, "desk"))
    @invariant()
    def states_and_aliases_tell_the_same(self) -> None:
        self._agree()
        states = {item.version: item.state for item in self.promoter.status(CHAT)}
        champion = self.champion
        crowned = {version for version, state in states.items() if state is State.PROMOTED}
        assert crowned == (set() if champion is None else {champion.version})
        taken: dict[str, str] = {}
        story = self.promoter.history(CHAT)
        for entry in reversed([item for item in story if item.kind == "state"]):
            known = taken.get(entry.detail["promotion_id"], "registered")
            assert entry.detail["from"] == known
            assert State(entry.detail["to"]) in EDGES[State(known)]
            taken[entry.detail["promotion_id"]] = entry.detail["to"]
        reign = self.promoter.champion_at(CHAT, datetime.now(UTC))
        assert (None if reign is None else reign.version) == (None if champion is None else champion.version)

    @precondition(lambda self: hasattr(self, "desk"))
    @invariant()
    def mlflow_follows(self) -> None:
        self.desk.mirror(CHAT)
        assert self.desk.store.held.get(str(CHAT), {}) == self.desk.show(CHAT).aliases

    def _now(self) -> int | None:
        held = self.desk.alias(CHAT, "champion")
        return None if held is None else held.version

    def _follow(self) -> None:
        """Let the model know whom a promotion made champion, if it did."""
        now = self._now()
        if now is not None and (not self.reigns or self.reigns[-1] != now):
            self.reigns.append(now)
            self.done.add("promote")
        self._agree()

    def _agree(self) -> None:
        aliases = self.desk.show(CHAT).aliases
        assert aliases.get("champion") == (self.reigns[-1] if self.reigns else None)
        assert aliases.get("previous_champion") == (self.reigns[-2] if len(self.reigns) > 1 else None)


BUDGET = settings(
    max_examples=6, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


def in_sqlite(migrated: Path) -> type[Flow]:
    class InSqlite(Flow):
        done: ClassVar[set[str]] = set()

        def empty(self) -> StateConfig:
            folder = Path(tempfile.mkdtemp(prefix="llmops-flow-"))
            shutil.copytree(migrated, folder, dirs_exist_ok=True)
            return StateConfig(dir=folder)

    return InSqlite


def in_postgresql(copied_database: Callable[[], str]) -> type[Flow]:
    class InPostgresql(Flow):
        done: ClassVar[set[str]] = set()

        def empty(self) -> StateConfig:
            return StateConfig(dir=Path(tempfile.mkdtemp(prefix="llmops-flow-")), sql_url=copied_database())

    return InPostgresql


def every_act(kind: type[Flow]) -> None:
    """The acts one after the other: chance alone may leave one out, and a machine that gets nowhere shows nothing."""
    flow = kind()
    try:
        flow.begin((), 3)
        for number in (1, 2, 3, 4):
            flow.withdraw(number)
        flow.rollback(retried=True)
        flow.retire(retried=True)
        flow.champion_rests_on_passes()
        flow.states_and_aliases_tell_the_same()
        flow.mlflow_follows()
    finally:
        flow.teardown()
    assert kind.done == {"promote", "withdraw", "rollback", "retire"}


def test_every_act_comes_about(migrated: Path) -> None:
    every_act(in_sqlite(migrated))


@pytest.mark.parametrize(("place", "act"), CRASHES.items())
def test_every_crash_comes_about(place: str, act: str, migrated: Path) -> None:
    flow = in_sqlite(migrated)()
    try:
        flow.begin((), 3)
        flow.crash(place, 1, 1, act)
        flow.champion_rests_on_passes()
        flow.states_and_aliases_tell_the_same()
        flow.mlflow_follows()
    finally:
        flow.teardown()
    assert "crash" in flow.done


def test_any_order_of_acts_leaves_one_story(migrated: Path) -> None:
    run_state_machine_as_test(in_sqlite(migrated), settings=BUDGET)


@pytest.mark.postgresql
def test_the_same_in_postgresql(copied_database: Callable[[], str]) -> None:
    every_act(in_postgresql(copied_database))
    run_state_machine_as_test(in_postgresql(copied_database), settings=settings(BUDGET, max_examples=2))
