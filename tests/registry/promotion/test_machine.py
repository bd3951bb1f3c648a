"""The pure machine: every decision is an edge, stages are skipped by rule, inconclusive never crowns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from llmops.registry.promotion.machine import (
    Finding,
    Findings,
    Gate,
    Group,
    Position,
    Step,
    Verdict,
    Wait,
    decide,
    required,
    stages,
)
from llmops.registry.promotion.policy import Policy
from llmops.registry.promotion.states import EDGES, ENDED, STOPPED, State

FULL = Policy(approvals=("risk", "legal"), readiness=("readiness",), shadow=("shadow",), canary=(0.01, 0.25))
policies = st.builds(
    Policy,
    comparison=st.sampled_from([(), ("comparison",)]),
    approvals=st.sampled_from([(), ("risk",), ("risk", "legal")]),
    readiness=st.sampled_from([(), ("readiness",)]),
    shadow=st.sampled_from([(), ("shadow",)]),
    canary=st.sampled_from([(), (0.1,), (0.01, 0.05, 0.25)]),
)


def passing(policy: Policy) -> Findings:
    gates = {gate: Finding(Verdict.PASS, f"{gate}!") for gate in required(policy)}
    return Findings(gates, {group: Group(approved=True) for group in policy.approvals})


def walk(policy: Policy, findings: Findings, start: Position | None = None) -> list[Position]:
    """Every position from the start until the machine waits."""
    positions = [start or Position(State.REGISTERED)]
    while isinstance(due := decide(positions[-1], policy, findings), Step):
        before = positions[-1]
        assert due.to in EDGES[before.state]
        held = due.to is State.HELD
        positions.append(
            Position(
                due.to, before.step if held else due.step, before.state if held else None, (*due.evidence, None)[0]
            )
        )
        assert len(positions) < 50
    return positions


def test_the_whole_way_in_its_order() -> None:
    states = [(position.state, position.step) for position in walk(FULL, passing(FULL))]
    assert states == [
        (State.REGISTERED, 0),
        (State.VALIDATING, 0),
        (State.VALIDATED, 0),
        (State.AWAITING_APPROVAL, 0),
        (State.APPROVED, 0),
        (State.READY_TESTING, 0),
        (State.READY, 0),
        (State.SHADOW, 0),
        (State.CANARY, 0),
        (State.CANARY, 1),
        (State.PROMOTED, 0),
    ]


def test_stages_a_policy_does_not_ask_for_are_skipped() -> None:
    states = [position.state for position in walk(Policy(), passing(Policy()))]
    assert states == [State.REGISTERED, State.VALIDATING, State.VALIDATED, State.PROMOTED]
    assert stages(Policy(shadow=("s",))) == (State.VALIDATING, State.VALIDATED, State.SHADOW)
    assert stages(FULL)[-1] is State.CANARY


@given(policies, st.data())
def test_whatever_is_found_the_machine_stays_on_its_edges_and_crowns_only_passes(
    policy: Policy, data: st.DataObject
) -> None:
    verdicts = st.builds(Finding, st.sampled_from(list(Verdict)), st.sampled_from(["a", "b"]))
    gates = {gate: data.draw(verdicts) for gate in required(policy)}
    groups = {
        group: data.draw(st.sampled_from([Group(), Group(True), Group(denied=True)])) for group in policy.approvals
    }
    end = walk(policy, Findings(gates, groups))[-1]
    if end.state is State.PROMOTED:
        assert {finding.verdict for finding in gates.values()} <= {Verdict.PASS}
        assert all(group.approved for group in groups.values())
    if Verdict.INCONCLUSIVE in {finding.verdict for finding in gates.values()}:
        assert end.state is not State.PROMOTED


@given(policies, st.data())
def test_one_bad_finding_ends_where_its_stage_says(policy: Policy, data: st.DataObject) -> None:
    gate = data.draw(st.sampled_from(required(policy)))
    findings = passing(policy)
    ends = {"readiness": State.NOT_READY, "shadow": State.ROLLED_BACK, "canary": State.ROLLED_BACK}
    for verdict, end in (
        (Verdict.FAIL, ends.get(gate.name, State.REJECTED)),
        (Verdict.INCONCLUSIVE, State.HELD),
    ):
        gates = {**findings.gates, gate: Finding(verdict, "x")}
        assert walk(policy, Findings(gates, findings.groups))[-1].state is end
    for verdict in (Verdict.MISSING, Verdict.STALE):
        gates = {**findings.gates, gate: Finding(verdict, "x", "say why")}
        last = walk(policy, Findings(gates, findings.groups))[-1]
        waiting = decide(last, policy, Findings(gates, findings.groups))
        assert isinstance(waiting, Wait)
        assert [need.what for need in waiting.needs] == [str(gate)]
        assert last.state not in ENDED


def test_held_is_left_for_new_evidence_only() -> None:
    doubt = {Gate("comparison"): Finding(Verdict.INCONCLUSIVE, "one")}
    known = passing(Policy())
    before = Findings({**known.gates, **doubt})
    held = walk(Policy(), before)[-1]
    assert (held.state, held.held_from) == (State.HELD, State.VALIDATED)
    waiting = decide(held, Policy(), before)
    assert isinstance(waiting, Wait)
    assert "new evidence resumes it" in waiting.needs[0].why
    again = Findings({**known.gates, Gate("comparison"): Finding(Verdict.INCONCLUSIVE, "two")})
    assert walk(Policy(), again, held)[-1] == Position(State.HELD, 0, State.VALIDATED, "two")
    assert walk(Policy(), known, held)[-1].state is State.PROMOTED
    worse = Findings({**known.gates, Gate("comparison"): Finding(Verdict.FAIL, "three")})
    assert walk(Policy(), worse, held)[-1].state is State.REJECTED


@pytest.mark.parametrize("state", [State.APPROVED, State.READY_TESTING, State.READY, State.SHADOW, State.CANARY])
def test_an_approval_that_is_gone_is_asked_for_again(state: State) -> None:
    findings = passing(FULL)
    lost = Findings(findings.gates, {"risk": Group(why="risk took it back"), "legal": Group(approved=True)})
    due = decide(Position(state), FULL, lost)
    assert due == Step(State.AWAITING_APPROVAL, why="risk took it back")
    held = Position(State.HELD, 0, state, "x")
    assert decide(held, FULL, lost) == due


def test_the_last_edge_looks_at_everything_again() -> None:
    findings = passing(Policy())
    for position in (Position(State.APPROVED), Position(State.READY)):
        worse = Findings({**findings.gates, Gate("validation"): Finding(Verdict.FAIL, "later")})
        assert decide(position, Policy(), worse) == Step(State.REJECTED, evidence=("later",), why="validation: fail")
    live = Policy(canary=(0.5,))
    worse = Findings({**passing(live).gates, Gate("comparison"): Finding(Verdict.FAIL, "later")})
    due = decide(Position(State.CANARY), live, worse)
    assert isinstance(due, Step)
    assert due.to is State.ROLLED_BACK


def test_what_has_ended_stays() -> None:
    for state in ENDED:
        assert decide(Position(state), Policy(), passing(Policy())) == Wait()
    assert {state for state in State if not EDGES[state]} == STOPPED


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"canary": (0.5, 0.1)}, "rise"),
        ({"canary": (1.0,)}, "less than 1"),
        ({"approvals": ("risk", "risk")}, "once"),
        ({"validation": ()}, "at least 1"),
        ({"comparison": ("validation",)}, "one stage"),
        ({"comparisons": ()}, "Extra inputs"),
    ],
)
def test_a_policy_is_checked(values: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Policy.model_validate(values)
