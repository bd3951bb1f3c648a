"""Withdrawing what is under way, and retiring a champion with nobody in its place."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from tests.support.promotions import LEGAL, RISK, Desk, against, found
from tests.support.registry_processes import CHAT

from llmops.core.errors import ConflictError, DeniedError, NotFoundError, UserError
from llmops.core.identity import Principal
from llmops.registry import Version
from llmops.registry.access import Privilege
from llmops.registry.promotion import Policy, Promoter, State


def crown(promoter: Promoter, version: Version, champion: Version | None) -> None:
    promotion = promoter.promote(version.ref, [found(version), against(version, champion)], again=True)
    assert promotion.state is State.PROMOTED, promotion


def recorded(desk: Desk, action: str) -> list[tuple[str, str]]:
    with desk.sql.read() as connection:
        query = text("SELECT phase, about FROM audit_log WHERE action_name = :action ORDER BY seq")
        return [tuple(row) for row in connection.execute(query, {"action": action})]


@pytest.mark.parametrize("state", [State.VALIDATING, State.HELD, State.AWAITING_APPROVAL, State.APPROVED])
def test_whatever_waits_can_be_withdrawn(desk: Desk, versions: list[Version], promoter: Promoter, state: State) -> None:
    one, two, _ = versions
    crown(promoter, one, None)
    promoter.set_policy("dev", Policy(approvals=("risk",)))
    comparison = against(two, one, "inconclusive" if state is State.HELD else "pass")
    promotion = promoter.promote(two.ref, [] if state is State.VALIDATING else [found(two), comparison])
    if state is State.APPROVED:
        promotion = Promoter(desk, principal=RISK).approve(two.ref, "risk")
    assert promoter.plan_withdrawal(two.ref).etag == promotion.etag
    assert promotion.state is state
    done = promoter.withdraw(two.ref, "wrong data")
    assert (done.state, done.why, done.refused, done.ended) == (State.WITHDRAWN, "wrong data", True, True)
    assert desk.show(CHAT).aliases == desk.store.held[str(CHAT)] == {"champion": 1}
    assert recorded(desk, "withdraw") == [("intent", str(two.ref)), ("done", str(two.ref))]
    assert promoter.withdraw(two.ref, "wrong data") == done  # repeated after an interruption
    assert len(recorded(desk, "withdraw")) == 2
    with pytest.raises(UserError, match="has ended: it is withdrawn"):
        promoter.withdraw(two.ref, "another reason")
    told = next(entry for entry in promoter.history(CHAT) if entry.kind == "state")
    assert (told.what, told.why, told.version) == ("withdrawn", "wrong data", 2)


def test_a_withdrawn_version_stays_so_until_it_is_begun_anew(
    desk: Desk, versions: list[Version], promoter: Promoter
) -> None:
    one = versions[0]
    promoter.set_policy("dev", Policy(approvals=("risk",)))
    first = promoter.promote(one.ref, [found(one), against(one, None)])
    Promoter(desk, principal=RISK).approve(one.ref, "risk")
    promoter.withdraw(one.ref, "wait for the audit")
    assert promoter.promote(one.ref).state is State.WITHDRAWN
    with pytest.raises(UserError, match="has ended: it is withdrawn"):
        Promoter(desk, principal=RISK).approve(one.ref, "risk")
    again = promoter.promote(one.ref, again=True)
    assert (again.state, [need.group for need in again.needs]) == (State.AWAITING_APPROVAL, ["risk"])
    assert again.promotion_id != first.promotion_id


def test_what_cannot_be_withdrawn_is_told(desk: Desk, versions: list[Version], promoter: Promoter) -> None:
    one, two, _ = versions
    with pytest.raises(NotFoundError, match="is not being promoted"):
        promoter.withdraw(one.ref, "why")
    crown(promoter, one, None)
    with pytest.raises(UserError, match="has ended: it is promoted") as caught:
        promoter.withdraw(one.ref, "why")
    assert "`llmops rollback NAME`" in str(caught.value.hint)
    promoter.promote(two.ref)
    with pytest.raises(UserError, match="needs a reason"):
        promoter.withdraw(two.ref, " ")
    desk.grants.grant(Privilege.ALL_PRIVILEGES, "dev", to="svc:deploy")
    stranger = Promoter(desk, principal=Principal("dan", "person"))
    with pytest.raises((DeniedError, NotFoundError)):
        stranger.withdraw(two.ref, "mine now")
    assert recorded(desk, "withdraw")[-1] == ("denied", str(two.ref))
    assert promoter.promote(two.ref).state is State.VALIDATING


def test_a_retired_champion_leaves_nobody(desk: Desk, versions: list[Version], promoter: Promoter) -> None:
    one, two, _ = versions
    crown(promoter, one, None)
    crown(promoter, two, one)
    assert promoter.plan_retirement(CHAT) == desk.resolve(two.ref)
    done = promoter.retire(CHAT, "the product ended", from_version=2)
    assert (done.version, done.reason, done.by, done.again) == (2, "the product ended", "svc:deploy", False)
    assert desk.show(CHAT).aliases == desk.store.held[str(CHAT)] == {}
    with pytest.raises(NotFoundError, match=r"`dev\.docs\.chat` has no champion") as caught:
        desk.resolve(str(CHAT))
    assert caught.value.error_code == "no_champion"
    assert {item.version: item.state for item in promoter.status(CHAT)} == {1: State.RETIRED, 2: State.RETIRED}
    about = f"{CHAT}@champion"
    assert recorded(desk, "retire") == [("intent", about), ("done", about)]
    for repeated in (promoter.retire(CHAT, "the product ended"), promoter.retire(CHAT, "x", from_version=2)):
        assert (repeated.again, repeated.evidence_id) == (True, done.evidence_id)
    story = promoter.history(CHAT)
    lines = [(entry.what, entry.why) for entry in story if entry.detail.get("alias") == "champion"]
    assert lines[0] == ("champion taken away (was 2)", "the product ended")
    assert promoter.champion_at(CHAT, done.at) is None


def test_after_a_retirement_there_is_no_way_back_but_a_promotion(
    desk: Desk, versions: list[Version], promoter: Promoter
) -> None:
    one, two, three = versions
    crown(promoter, one, None)
    crown(promoter, two, one)
    promoter.promote(three.ref, [found(three), against(three, two)], within=frozenset({State.VALIDATING}))
    promoter.retire(CHAT, "harmful")
    with pytest.raises(NotFoundError, match="no champion to roll back"):
        promoter.rollback(CHAT, "back")
    with pytest.raises(NotFoundError, match="no champion to retire"):
        promoter.retire(CHAT, "for another reason")
    waiting = promoter.promote(three.ref)
    assert "there is no champion now; compare again" in waiting.needs[0].why
    crown(promoter, three, None)
    with pytest.raises(UserError, match="no champion before version 3"):
        promoter.rollback(CHAT, "back")
    with pytest.raises(ConflictError, match="version 2 is not champion: version 3 is"):
        promoter.retire(CHAT, "late", from_version=2)
    crown(promoter, two, three)
    assert promoter.rollback(CHAT, "slow").to_version == 3


def test_the_first_champion_can_be_retired_and_is_not_crowned_again(
    desk: Desk, versions: list[Version], promoter: Promoter
) -> None:
    desk.point("champion", versions[0].ref, found(versions[0]), etag=None)  # as bootstrap does: without a promotion
    promoter.retire(CHAT, "never meant to be")
    assert desk.show(CHAT).aliases == {}
    assert promoter.status(CHAT) == []


def test_who_may_not_move_champion_may_not_retire_it(desk: Desk, versions: list[Version], promoter: Promoter) -> None:
    crown(promoter, versions[0], None)
    desk.grants.grant(Privilege.ALL_PRIVILEGES, "dev", to="group:everyone")
    with pytest.raises(DeniedError):
        Promoter(desk, principal=LEGAL).retire(CHAT, "mine")
    assert recorded(desk, "retire")[-1][0] == "denied"
    assert desk.store.held[str(CHAT)] == {"champion": 1}
