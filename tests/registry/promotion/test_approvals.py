"""Approvals: who may speak, what it leads to, and how it is taken back or runs out."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from tests.support.promotions import BOTH, LEGAL, MAKER, RISK, Desk, against, found
from tests.support.registry_processes import CHAT

from llmops.core.errors import DeniedError, NotFoundError, UserError
from llmops.core.identity import LOCAL, Principal
from llmops.registry import Version
from llmops.registry.access import Grants, Privilege
from llmops.registry.audit import Wanted
from llmops.registry.authority import Authority
from llmops.registry.promotion import Policy, Promoter, Promotion, State
from llmops.registry.promotion.transition import Transitions

STARTER = Principal("sam", "person", frozenset({"risk"}))


@pytest.fixture
def as_(desk: Desk) -> Callable[[Principal], Promoter]:
    return lambda principal: Promoter(desk, principal=principal)


@pytest.fixture
def waiting(desk: Desk, versions: list[Version], promoter: Promoter) -> Promotion:
    """A promotion that waits for risk and legal."""
    promoter.set_policy("dev", Policy(approvals=("risk", "legal")))
    one = versions[0]
    desk.add_evidence(found(one))
    desk.add_evidence(against(one, None))
    return promoter.promote(one.ref)


def test_it_waits_for_every_group_and_goes_on_when_asked(
    desk: Desk, waiting: Promotion, promoter: Promoter, as_: Callable[[Principal], Promoter]
) -> None:
    assert (waiting.state, waiting.refused) == (State.AWAITING_APPROVAL, False)
    assert [need.group for need in waiting.needs] == ["risk", "legal"]
    first = as_(RISK).approve(waiting.ref, "risk", "checked the segments")
    assert (first.state, [need.group for need in first.needs]) == (State.AWAITING_APPROVAL, ["legal"])
    assert promoter.promote(waiting.ref).state is State.AWAITING_APPROVAL
    approved = as_(LEGAL).approve(waiting.ref, "legal")
    assert approved.state is State.APPROVED
    assert desk.show(CHAT).aliases == {"challenger": 1}  # an approver moves no alias
    assert promoter.promote(waiting.ref).state is State.PROMOTED
    said = [(entry.by, entry.what, entry.why) for entry in promoter.history(CHAT) if entry.kind == "approval"]
    assert said == [("bob", "approved for legal", ""), ("ann", "approved for risk", "checked the segments")]


@pytest.mark.parametrize(
    ("principal", "group", "told"),
    [
        (LEGAL, "risk", "not in the group"),
        (MAKER, "risk", "made this version or started"),
        (STARTER, "risk", "made this version or started"),
    ],
)
def test_who_may_not_approve(
    desk: Desk,
    versions: list[Version],
    as_: Callable[[Principal], Promoter],
    principal: Principal,
    group: str,
    told: str,
) -> None:
    as_(STARTER).set_policy("dev", Policy(approvals=("risk",)))
    one = versions[0]
    ref = as_(STARTER).promote(one.ref, [found(one), against(one, None)]).ref
    with pytest.raises(DeniedError, match=told):
        as_(principal).approve(ref, group)
    assert as_(STARTER).promote(ref).state is State.AWAITING_APPROVAL


def test_one_person_speaks_for_one_group_unless_the_policy_lets_them(
    waiting: Promotion, promoter: Promoter, versions: list[Version], as_: Callable[[Principal], Promoter]
) -> None:
    as_(BOTH).approve(waiting.ref, "risk")
    with pytest.raises(DeniedError, match="already spoke for `risk`"):
        as_(BOTH).approve(waiting.ref, "legal")
    promoter.set_policy("dev", Policy(approvals=("risk", "legal"), distinct_approvers=False))
    two = versions[1]
    ref = promoter.promote(two.ref, [found(two), against(two, None)]).ref
    as_(BOTH).approve(ref, "risk")
    assert as_(BOTH).approve(ref, "legal").state is State.APPROVED


def test_self_approval_can_be_allowed(
    versions: list[Version], promoter: Promoter, as_: Callable[[Principal], Promoter]
) -> None:
    promoter.set_policy("dev", Policy(approvals=("risk",), self_approval=True))
    one = versions[0]
    as_(STARTER).promote(one.ref, [found(one), against(one, None)])
    assert as_(STARTER).approve(one.ref, "risk").state is State.APPROVED


def test_a_denial_ends_it(
    desk: Desk, waiting: Promotion, promoter: Promoter, as_: Callable[[Principal], Promoter]
) -> None:
    denied = as_(LEGAL).deny(waiting.ref, "legal", "no data agreement")
    assert (denied.state, denied.refused) == (State.DENIED, True)
    assert "no data agreement" in denied.why
    assert desk.show(CHAT).aliases == {}
    with pytest.raises(UserError, match="has ended: it is denied"):
        as_(RISK).approve(waiting.ref, "risk")
    assert promoter.promote(waiting.ref).state is State.DENIED
    again = promoter.promote(waiting.ref, again=True)
    assert (again.state, len(again.needs)) == (State.AWAITING_APPROVAL, 2)


def test_an_approval_can_be_taken_back_until_the_version_is_champion(
    waiting: Promotion, promoter: Promoter, as_: Callable[[Principal], Promoter]
) -> None:
    with pytest.raises(UserError, match="has said nothing"):
        as_(RISK).revoke(waiting.ref, "risk")
    as_(RISK).approve(waiting.ref, "risk")
    as_(LEGAL).approve(waiting.ref, "legal")
    back = as_(RISK).revoke(waiting.ref, "risk", "a customer called")
    assert (back.state, [need.group for need in back.needs]) == (State.AWAITING_APPROVAL, ["risk"])
    assert promoter.promote(waiting.ref).state is State.AWAITING_APPROVAL
    as_(RISK).approve(waiting.ref, "risk", "all well")
    assert promoter.promote(waiting.ref).state is State.PROMOTED
    with pytest.raises(UserError, match="has ended: it is promoted"):
        as_(RISK).revoke(waiting.ref, "risk")


def test_an_approval_runs_out(
    desk: Desk, versions: list[Version], promoter: Promoter, as_: Callable[[Principal], Promoter]
) -> None:
    promoter.set_policy("dev", Policy(approvals=("risk",), approval_valid_s=1e-6))
    one = versions[0]
    promoter.promote(one.ref, [found(one), against(one, None)])
    late = as_(RISK).approve(one.ref, "risk")
    assert late.state is State.AWAITING_APPROVAL
    assert [need.why for need in late.needs] == ["the approval of risk ran out"]


def test_who_is_not_asked_is_told(
    waiting: Promotion, versions: list[Version], promoter: Promoter, as_: Callable[[Principal], Promoter]
) -> None:
    with pytest.raises(UserError, match="does not ask the group `rsk`") as caught:
        as_(RISK).approve(waiting.ref, "rsk")
    assert caught.value.hint == "did you mean `risk`?"
    with pytest.raises(NotFoundError, match="is not being promoted"):
        as_(RISK).approve(versions[1].ref, "risk")
    promoter.promote(versions[2].ref)
    with pytest.raises(UserError, match="does not wait for approval yet"):
        as_(RISK).approve(versions[2].ref, "risk")


def test_people_approve_in_prod_where_only_services_write(desk: Desk, as_: Callable[[Principal], Promoter]) -> None:
    from tests.support.registry_rows import seed

    version = seed(desk.sql, "prod.docs.chat", 1)[0]
    deployer = Promoter(desk)
    deployer.set_policy("prod", Policy(approvals=("risk",)))
    grants = Grants(desk.sql, Authority(LOCAL, desk.authority.access, desk.audit))
    for privilege in (Privilege.ALL_PRIVILEGES, Privilege.MANAGE):
        grants.grant(privilege, "prod", to="svc:deploy")
    for privilege in (Privilege.USE_CATALOG, Privilege.USE_SCHEMA, Privilege.APPLY_TAG):
        grants.grant(privilege, "prod", to="group:risk")
    deployer.promote(version.ref, [found(version), against(version, None)])
    assert as_(RISK).approve(version.ref, "risk").state is State.APPROVED
    with pytest.raises(DeniedError, match="service principals only"):
        as_(RISK).promote(version.ref)
    assert deployer.promote(version.ref).state is State.PROMOTED


def test_words_that_race_are_all_told_the_truth(
    waiting: Promotion,
    promoter: Promoter,
    desk: Desk,
    as_: Callable[[Principal], Promoter],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both are written down before either has its effect; then both draw the same conclusion."""
    together, take = Barrier(2, timeout=120), Transitions.take

    def at_once(self: Transitions, *step: Any) -> Promotion | None:
        together.wait()
        return take(self, *step)

    monkeypatch.setattr(Promoter, "_follow", _after(Barrier(2, timeout=120), Promoter._follow))
    monkeypatch.setattr(Transitions, "take", at_once)
    with ThreadPoolExecutor(2) as pool:
        told = list(pool.map(lambda who: as_(who[0]).approve(waiting.ref, who[1]), [(RISK, "risk"), (LEGAL, "legal")]))
    monkeypatch.undo()
    assert [(one.state, one.needs) for one in told] == [(State.APPROVED, ())] * 2
    outcomes = [entry.phase for entry in desk.audit.read(Wanted(about=str(waiting.ref))) if entry.phase != "intent"]
    assert set(outcomes) == {"done"}
    assert promoter.promote(waiting.ref).state is State.PROMOTED


def test_a_word_whose_promotion_goes_on_meanwhile_is_told_where_it_is(
    waiting: Promotion, promoter: Promoter, as_: Callable[[Principal], Promoter], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_(RISK).approve(waiting.ref, "risk")
    follow = Promoter._follow

    def overtaken(self: Promoter, promotion: Promotion) -> Promotion:
        monkeypatch.setattr(Promoter, "_follow", follow)
        promoter.promote(waiting.ref)  # a pipeline looks just then, and makes it champion
        return follow(self, promotion)

    monkeypatch.setattr(Promoter, "_follow", overtaken)
    assert as_(LEGAL).approve(waiting.ref, "legal").state is State.PROMOTED


def _after(barrier: Barrier, call: Callable[..., Promotion]) -> Callable[..., Promotion]:
    def waited(*arguments: Any) -> Promotion:
        barrier.wait()
        return call(*arguments)

    return waited


def test_a_word_between_looking_and_moving_has_its_effect_too(
    versions: list[Version], as_: Callable[[Principal], Promoter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the promotion would go on waiting although nobody has anything left to say."""
    as_(STARTER).set_policy("dev", Policy(approvals=("risk",)))
    ref = as_(STARTER).promote(versions[0].ref, [found(versions[0]), against(versions[0], None)]).ref
    take, denied = Transitions.take, []

    def interrupted(self: Transitions, promotion: Promotion, due: Any) -> Promotion | None:
        if not denied:
            denied.append(ref)
            with monkeypatch.context() as dying:
                dying.setattr(Promoter, "_follow", lambda _, promotion: promotion)  # its process ends after the word
                as_(BOTH).deny(ref, "risk")
        return take(self, promotion, due)

    monkeypatch.setattr(Transitions, "take", interrupted)
    assert as_(RISK).approve(ref, "risk").state is State.DENIED
    assert denied
