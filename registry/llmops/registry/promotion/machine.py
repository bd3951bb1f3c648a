"""What a promotion does next, as a pure function of where it stands, its policy, and what was found.

Knows no database, no clock and no asset. Stages come from a table and are skipped by one rule: a policy that asks
nothing of a stage does not have it. Inconclusive is HELD, and nothing becomes champion whose evidence, looked at again
at that moment, is not a pass in every gate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from llmops.registry.promotion.policy import Policy
from llmops.registry.promotion.states import ENDED, LIVE, State


class Verdict(StrEnum):
    """How one gate stands: what its newest usable evidence says, or why none is usable."""

    PASS = "pass"  # noqa: S105 - a verdict
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    MISSING = "missing"
    STALE = "stale"


@dataclass(frozen=True)
class Gate:
    """One gate of a policy; a canary's gates are asked once a step, each at its share of traffic."""

    name: str
    weight: float | None = None

    def __str__(self) -> str:
        return self.name if self.weight is None else f"{self.name} at {self.weight:.0%}"


@dataclass(frozen=True)
class Finding:
    """What is known about one gate."""

    verdict: Verdict
    evidence_id: str | None = None
    why: str = ""


@dataclass(frozen=True)
class Group:
    """How one approving group stands: approved, denied, or neither yet."""

    approved: bool = False
    denied: bool = False
    why: str = ""


@dataclass(frozen=True)
class Findings:
    """Everything a decision rests on. A gate that is not named was not looked at yet."""

    gates: Mapping[Gate, Finding] = field(default_factory=dict)
    groups: Mapping[str, Group] = field(default_factory=dict)

    def of(self, gate: Gate) -> Finding:
        return self.gates.get(gate, Finding(Verdict.MISSING))


@dataclass(frozen=True)
class Position:
    """Where a promotion stands. `step` counts a canary's shares; `held_from` is where HELD was entered."""

    state: State
    step: int = 0
    held_from: State | None = None
    evidence_id: str | None = None


@dataclass(frozen=True)
class Need:
    """Something a promotion waits for."""

    what: str
    why: str
    group: str | None = None

    def as_json(self) -> dict[str, str | None]:
        return {"what": self.what, "why": self.why, "group": self.group}


@dataclass(frozen=True)
class Step:
    """The change of state that is due, and the evidence it rests on."""

    to: State
    step: int = 0
    evidence: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class Wait:
    """Nothing is due until these are there; none: the promotion has ended."""

    needs: tuple[Need, ...] = ()


@dataclass(frozen=True)
class _Stage:
    """One stretch of the way: the state that works on it, where a pass and a fail lead, and what it asks."""

    state: State
    passed: State | None  # None: straight on to the next stage
    failed: State
    gates: Callable[[Policy, int], tuple[Gate, ...]]
    asked: Callable[[Policy], bool]


def _plain(names: Sequence[str]) -> tuple[Gate, ...]:
    return tuple(Gate(name) for name in names)


def _canary(policy: Policy, step: int) -> tuple[Gate, ...]:
    return tuple(Gate(name, policy.canary[step]) for name in policy.canary_gates) if policy.canary else ()


_STAGES = (
    _Stage(State.VALIDATING, State.VALIDATED, State.REJECTED, lambda p, _: _plain(p.validation), lambda _: True),
    _Stage(State.VALIDATED, None, State.REJECTED, lambda p, _: _plain(p.comparison), lambda _: True),
    _Stage(State.AWAITING_APPROVAL, State.APPROVED, State.DENIED, lambda _p, _s: (), lambda p: bool(p.approvals)),
    _Stage(
        State.READY_TESTING, State.READY, State.NOT_READY, lambda p, _: _plain(p.readiness), lambda p: bool(p.readiness)
    ),
    _Stage(State.SHADOW, None, State.ROLLED_BACK, lambda p, _: _plain(p.shadow), lambda p: bool(p.shadow)),
    _Stage(State.CANARY, None, State.ROLLED_BACK, _canary, lambda p: bool(p.canary)),
)
_BY_STATE = {stage.state: stage for stage in _STAGES}
_BEHIND = {State.APPROVED: State.AWAITING_APPROVAL, State.READY: State.READY_TESTING}
"""States that rest between two stages, and the stage they have behind them."""
_AFTER_APPROVAL = frozenset({State.APPROVED, State.READY_TESTING, State.READY, State.SHADOW, State.CANARY})
"""Here an approval that was revoked or ran out is asked for again."""


def decide(position: Position, policy: Policy, findings: Findings) -> Step | Wait:
    """The next change of state, or what is missing for it."""
    if position.state in ENDED:
        return Wait()
    if position.state in _AFTER_APPROVAL and (lapsed := _groups_missing(policy, findings)):
        return Step(State.AWAITING_APPROVAL, why="; ".join(need.why for need in lapsed))
    return _RULES.get(position.state, _work)(position, policy, findings)


def required(policy: Policy) -> tuple[Gate, ...]:
    """Every gate that a champion has passed under this policy, in the order of the stages."""
    steps = {State.CANARY: range(len(policy.canary))}
    return tuple(
        gate
        for stage in _STAGES
        if stage.asked(policy)
        for step in steps.get(stage.state, range(1))
        for gate in stage.gates(policy, step)
    )


def stages(policy: Policy) -> tuple[State, ...]:
    """The states of work that this policy asks for, in order; what it skips is not there."""
    return tuple(stage.state for stage in _STAGES if stage.asked(policy))


def _work(position: Position, policy: Policy, findings: Findings) -> Step | Wait:
    """Judge the gates of the stage at work, and go where they lead."""
    stage = _BY_STATE[position.state]
    gates = stage.gates(policy, position.step)
    found = _judge(gates, findings, failed=stage.failed)
    if found is not None:
        return found
    if stage.passed is not None:
        return Step(stage.passed, evidence=_ids(gates, findings))
    if position.state is State.CANARY and position.step + 1 < len(policy.canary):
        return Step(State.CANARY, step=position.step + 1, evidence=_ids(gates, findings))
    return _onward(position, policy, findings)


def _onward(position: Position, policy: Policy, findings: Findings) -> Step | Wait:
    """Enter the next stage that the policy asks for; behind the last, decide."""
    behind = _BEHIND.get(position.state, position.state)
    order = [stage.state for stage in _STAGES]
    for stage in _STAGES[order.index(behind) + 1 :]:
        if stage.asked(policy):
            return Step(stage.state, evidence=_ids(_passed(position, policy), findings))
    return _crown(position, policy, findings)


def _crown(position: Position, policy: Policy, findings: Findings) -> Step | Wait:
    """The last edge. All that was passed on the way is looked at again: the world may have moved meanwhile."""
    gates = required(policy)
    found = _judge(gates, findings, failed=State.ROLLED_BACK if position.state in LIVE else State.REJECTED)
    return found or Step(State.PROMOTED, evidence=_ids(gates, findings))


def _resume(position: Position, policy: Policy, findings: Findings) -> Step | Wait:
    """Leave HELD only for evidence that was not there when it was entered."""
    assert position.held_from is not None  # whoever wrote HELD wrote it
    before = Position(position.held_from, position.step)
    due = decide(before, policy, findings)
    if isinstance(due, Wait):
        return due
    if due.to is State.HELD and position.evidence_id in due.evidence:
        return Wait((Need("evidence", f"held: {due.why}; new evidence resumes it"),))
    if due.to is State.AWAITING_APPROVAL and before.state in _AFTER_APPROVAL:
        return due
    return Step(position.held_from, step=position.step, evidence=due.evidence, why="new evidence")


def _approval(_: Position, policy: Policy, findings: Findings) -> Step | Wait:
    for group in policy.approvals:
        state = findings.groups.get(group, Group())
        if state.denied:
            return Step(State.DENIED, why=state.why)
    missing = _groups_missing(policy, findings)
    return Wait(missing) if missing else Step(State.APPROVED)


def _groups_missing(policy: Policy, findings: Findings) -> tuple[Need, ...]:
    needs = []
    for group in policy.approvals:
        state = findings.groups.get(group, Group())
        if not state.approved:
            needs.append(Need("approval", state.why or f"{group} has not approved yet", group))
    return tuple(needs)


def _judge(gates: Sequence[Gate], findings: Findings, *, failed: State) -> Step | Wait | None:
    """What these gates come to: a failure, a hold, a wait, or (None) a pass of all."""
    for verdict, to in ((Verdict.FAIL, failed), (Verdict.INCONCLUSIVE, State.HELD)):
        stopped = [gate for gate in gates if findings.of(gate).verdict is verdict]
        if stopped:
            names = ", ".join(str(gate) for gate in stopped)
            return Step(to, evidence=_ids(stopped, findings), why=f"{names}: {verdict.value}")
    needs = tuple(_need(gate, findings.of(gate)) for gate in gates if findings.of(gate).verdict is not Verdict.PASS)
    return Wait(needs) if needs else None


def _need(gate: Gate, finding: Finding) -> Need:
    return Need(str(gate), finding.why or "no evidence yet")


def _passed(position: Position, policy: Policy) -> tuple[Gate, ...]:
    stage = _BY_STATE.get(_BEHIND.get(position.state, position.state))
    return stage.gates(policy, position.step) if stage else ()


def _ids(gates: Sequence[Gate], findings: Findings) -> tuple[str, ...]:
    return tuple(found for gate in gates if (found := findings.of(gate).evidence_id) is not None)


_RULES: dict[State, Callable[[Position, Policy, Findings], Step | Wait]] = {
    State.REGISTERED: lambda _position, _policy, _findings: Step(State.VALIDATING),
    State.HELD: _resume,
    State.AWAITING_APPROVAL: _approval,
    State.APPROVED: _onward,
    State.READY: _onward,
}
"""How the states decide that are not at work on a stage."""
