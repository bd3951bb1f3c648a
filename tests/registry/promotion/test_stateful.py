"""Promoters, approvers, rollbacks and crashes in any order, beside a model of a few lines that says what holds."""

from __future__ import annotations

import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from tests.support.promotion_processes import PLACES
from tests.support.promotions import BOTH, LEGAL, RISK, Desk, against, found
from tests.support.registry_processes import CHAT

from llmops.core.errors import ConflictError, DeniedError, LlmopsError, UserError
from llmops.core.ids import new_id
from llmops.core.names import Ref
from llmops.core.sql import open_sql
from llmops.core.state import StateConfig
from llmops.registry import Version, evidence
from llmops.registry.promotion import Policy, Promoter, State
from llmops.registry.promotion.history import _with_parents
from llmops.registry.promotion.states import EDGES

NUMBERS = st.integers(1, 4)
CRASHES = ("guard", "effect", "moves", "decision", "swap", "outcome", "said", "undone", "mirror", "seen", "caught_up")


class Crash(BaseException):
    """A process that ends here: nothing after it runs, and the open transaction is gone."""


class Flow(RuleBasedStateMachine):
    """Every operator does what they like; after each act the record must still tell one story."""

    state: StateConfig

    @initialize(approvals=st.sampled_from([(), ("risk",), ("risk", "legal")]), champions=st.sampled_from([3, 2, 0]))
    def begin(self, approvals: tuple[str, ...], champions: int) -> None:
        self.state = self.empty()
        self.desk = Desk(self.state)
        self.versions = {version.version: version for version in self.desk.seed(4)}
        self.promoter.set_policy("dev", Policy(approvals=approvals))
        self.approvals = approvals
        self.reigns: list[int] = []  # the model: champions one after the other, without those rolled back
        self.rollbacks = 0
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
        assert refused in {"", "no_previous_champion", "not_found"}
        assert not refused or len(self.reigns) < 2
        self._agree()

    @rule(place=st.sampled_from(CRASHES), times=st.integers(1, 4), ahead=st.integers(1, 3), back=st.booleans())
    def crash(self, place: str, times: int, ahead: int, back: bool) -> None:
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
            if back:
                self.promoter.rollback(CHAT, f"reason {self.rollbacks}")
            else:
                self.promoter.promote(Ref(CHAT, version=number))
        except (Crash, LlmopsError):
            pass
        finally:
            setattr(owner, name, before)
        self.desk.close()
        self.desk = Desk(self.state, store=self.desk.store)
        if back and self._now() != (reigns[-1] if reigns else None):
            self.reigns.pop()
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
        self._agree()

    def _agree(self) -> None:
        aliases = self.desk.show(CHAT).aliases
        assert aliases.get("champion") == (self.reigns[-1] if self.reigns else None)
        assert aliases.get("previous_champion") == (self.reigns[-2] if len(self.reigns) > 1 else None)


BUDGET = settings(
    max_examples=10, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


def test_any_order_of_acts_leaves_one_story(prepared: Path) -> None:
    class InSqlite(Flow):
        def empty(self) -> StateConfig:
            folder = Path(tempfile.mkdtemp(prefix="llmops-flow-"))
            shutil.copytree(prepared, folder, dirs_exist_ok=True)
            return StateConfig(dir=folder)

    InSqlite.TestCase.settings = BUDGET
    _run(InSqlite)


@pytest.mark.postgresql
def test_the_same_in_postgresql(postgresql: str, tmp_path: Path) -> None:
    class InPostgresql(Flow):
        def empty(self) -> StateConfig:
            name = f"test_{new_id().replace('-', '')}"
            url = make_url(postgresql)
            engine = create_engine(url.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
            with engine.connect() as connection:
                connection.execute(text(f"CREATE DATABASE {name}"))
            engine.dispose()
            folder = Path(tempfile.mkdtemp(prefix="llmops-flow-"))
            return StateConfig(dir=folder, sql_url=url.set(database=name).render_as_string(hide_password=False))

    InPostgresql.TestCase.settings = settings(BUDGET, max_examples=2)
    _run(InPostgresql)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty, migrated state: every example starts from a copy."""
    folder = tmp_path_factory.mktemp("empty") / "state"
    open_sql(StateConfig(dir=folder)).close()
    return folder


def _run(machine: type[Flow]) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(machine, settings=machine.TestCase.settings)
