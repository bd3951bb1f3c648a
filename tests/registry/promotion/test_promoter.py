"""The flow as operators walk it: evidence in, states and aliases out, in SQLite and PostgreSQL alike."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from tests.support.migrations import differences
from tests.support.promotions import DEPLOYER, Desk, against, found
from tests.support.registry_processes import CHAT

from llmops.core.errors import ConflictError, DeniedError, IntegrityError, NotFoundError, UserError
from llmops.core.identity import Principal
from llmops.core.names import working_in
from llmops.registry import Version
from llmops.registry.access import Privilege
from llmops.registry.evidence import Method
from llmops.registry.promotion import Policy, Promoter, State
from llmops.registry.promotion import tables as tables_


def aliases(desk: Desk) -> dict[str, int]:
    return desk.show(CHAT).aliases


def crown(promoter: Promoter, version: Version, champion: Version | None) -> None:
    promotion = promoter.promote(version.ref, [found(version), against(version, champion)])
    assert promotion.state is State.PROMOTED, promotion


def test_the_migrations_make_the_tables_that_the_code_defines(desk: Desk) -> None:
    assert differences(desk.sql, tables_.metadata) == []


def test_from_nothing_to_a_champion_step_by_step(desk: Desk, versions: list[Version], promoter: Promoter) -> None:
    one = versions[0]
    waiting = promoter.promote(one.ref)
    assert (waiting.state, [need.what for need in waiting.needs]) == (State.VALIDATING, ["validation"])
    assert waiting.refused
    assert desk.resolve(one.ref).tags["validation_status"] == "PENDING"
    validated = promoter.promote(one.ref, [found(one)])
    assert (validated.state, [need.what for need in validated.needs]) == (State.VALIDATED, ["comparison"])
    assert desk.resolve(one.ref).tags["validation_status"] == "PASSED"
    assert aliases(desk) == {"challenger": 1}
    done = promoter.promote(one.ref, [against(one, None, method=Method(name="heuristic", version="1"))])
    assert (done.state, done.needs, done.refused) == (State.PROMOTED, (), False)
    assert aliases(desk) == {"champion": 1}
    assert promoter.promote(one.ref) == done
    assert desk.store.held[str(CHAT)] == {"champion": 1}
    assert desk.store.kept == {(str(CHAT), 1, "validation_status"): "PASSED"}
    held = desk.alias(CHAT, "champion")
    assert held is not None
    decision = next(record for record in desk.evidence(one) if record.evidence_id == held.evidence_id)
    assert (decision.gate, decision.actor) == ("promotion", "svc:deploy")
    assert len(decision.parents) == 2


def test_a_better_one_follows_and_the_old_one_is_kept(desk: Desk, versions: list[Version], promoter: Promoter) -> None:
    one, two, three = versions
    crown(promoter, one, None)
    crown(promoter, two, one)
    assert aliases(desk) == {"champion": 2, "previous_champion": 1}
    crown(promoter, three, two)
    assert aliases(desk) == {"champion": 3, "previous_champion": 2}
    states = {item.version: item.state for item in promoter.status(CHAT)}
    assert states == {1: State.RETIRED, 2: State.RETIRED, 3: State.PROMOTED}
    assert desk.store.held[str(CHAT)] == aliases(desk)


def test_a_worse_one_is_refused_with_evidence(desk: Desk, versions: list[Version], promoter: Promoter) -> None:
    one, two, _ = versions
    crown(promoter, one, None)
    worse = against(two, one, "fail", effect=-0.04, ci_low=-0.06, ci_high=-0.02)
    refused = promoter.promote(two.ref, [found(two), worse])
    assert (refused.state, refused.evidence_id, refused.why) == (
        State.REJECTED,
        worse.evidence_id,
        "comparison: fail",
    )
    assert aliases(desk) == {"champion": 1}
    assert promoter.promote(two.ref, [against(two, one)]).state is State.REJECTED
    again = promoter.promote(two.ref, again=True)
    assert (again.state, again.promotion_id != refused.promotion_id) == (State.PROMOTED, True)


def test_a_failed_validation_says_so_on_the_version(desk: Desk, versions: list[Version], promoter: Promoter) -> None:
    refused = promoter.promote(versions[0].ref, [found(versions[0], verdict="fail")])
    assert refused.state is State.REJECTED
    assert desk.resolve(versions[0].ref).tags["validation_status"] == "FAILED"
    assert aliases(desk) == {}


def test_inconclusive_holds_and_new_evidence_resumes(desk: Desk, versions: list[Version], promoter: Promoter) -> None:
    one, two, _ = versions
    crown(promoter, one, None)
    held = promoter.promote(two.ref, [found(two), against(two, one, "inconclusive")])
    assert (held.state, held.held_from, held.refused) == (State.HELD, State.VALIDATED, True)
    still = promoter.promote(two.ref)
    assert (still.state, still.etag) == (State.HELD, held.etag)
    assert "new evidence resumes it" in still.needs[0].why
    assert aliases(desk) == {"champion": 1, "challenger": 2}
    assert promoter.promote(two.ref, [against(two, one)]).state is State.PROMOTED


def test_evidence_against_yesterdays_champion_is_stale(desk: Desk, versions: list[Version], promoter: Promoter) -> None:
    one, two, three = versions
    crown(promoter, one, None)
    ready = [found(three), against(three, one)]
    crown(promoter, two, one)
    waiting = promoter.promote(three.ref, ready)
    assert (waiting.state, waiting.refused) == (State.VALIDATED, True)
    told = f"compared with {one.ref}, but {two.ref} is champion now; compare again"
    assert [(need.what, need.why) for need in waiting.needs] == [("comparison", told)]
    assert promoter.promote(three.ref, [against(three, two)]).state is State.PROMOTED


@pytest.mark.parametrize("baseline", [None, "other"])
def test_a_comparison_must_name_the_champion(
    desk: Desk, versions: list[Version], promoter: Promoter, baseline: str | None
) -> None:
    one, two, three = versions
    crown(promoter, one, None)
    waiting = promoter.promote(two.ref, [found(two), against(two, three if baseline else None)])
    assert waiting.state is State.VALIDATED
    assert "compare again" in waiting.needs[0].why


def test_evidence_of_other_content_counts_for_nothing(versions: list[Version], promoter: Promoter) -> None:
    one, two, _ = versions
    with pytest.raises(UserError, match=r"speaks of dev\.docs\.chat/2"):
        promoter.promote(one.ref, [found(two)])
    swapped = found(one).model_copy(update={"asset": found(one).asset.model_copy(update={"digest": "0" * 64})})
    with pytest.raises(UserError, match="speaks of"):
        promoter.promote(one.ref, [swapped])
    promoter._registry.add_evidence(swapped)
    assert "other content" in promoter.promote(one.ref).needs[0].why


def test_a_tampered_record_stops_everything(desk: Desk, versions: list[Version], promoter: Promoter) -> None:
    one = versions[0]
    record = found(one, verdict="fail")
    desk.add_evidence(record)
    with desk.sql.begin() as connection:
        if desk.sql.is_sqlite:
            connection.execute(text("DROP TRIGGER evidence_no_update"))
        else:
            connection.execute(text("DROP TRIGGER evidence_append_only ON evidence"))
        connection.execute(text("UPDATE evidence SET verdict = 'pass', body = replace(body, '\"fail\"', '\"pass\"')"))
    for call in (promoter.promote, promoter.plan):
        with pytest.raises(IntegrityError, match="changed after it was filed"):
            call(one.ref)
    assert [entry.what for entry in promoter.history(CHAT) if entry.kind == "evidence"] == [
        "validation found: CHANGED AFTER IT WAS FILED"
    ]
    assert aliases(desk) == {}


def test_a_plan_says_what_is_missing_and_changes_nothing(
    desk: Desk, versions: list[Version], promoter: Promoter
) -> None:
    one = versions[0]
    plan = promoter.plan(one.ref)
    assert (plan.state, plan.missing) == (State.REGISTERED, ["validation", "comparison"])
    desk.add_evidence(found(one))
    assert promoter.plan(one.ref).missing == ["comparison"]
    assert promoter.status() == []
    shown = plan.as_json()
    assert (shown["next"], shown["needs"]) == ({"state": "validating", "why": ""}, [])


def test_live_stages_stand_ready(desk: Desk, versions: list[Version], promoter: Promoter) -> None:
    one = versions[0]
    promoter.set_policy("dev", Policy(comparison=(), readiness=("readiness",), shadow=("shadow",), canary=(0.01, 0.5)))
    steps = [
        (found(one), State.READY_TESTING),
        (found(one, "readiness"), State.SHADOW),
        (found(one, "shadow"), State.CANARY),
    ]
    for record, state in steps:
        assert promoter.promote(one.ref, [record]).state is state
    for weight, state in ((0.5, State.CANARY), (0.01, State.PROMOTED)):  # the first step is asked first
        record = found(one, "canary", method=Method(name="test", version="1", params={"weight": weight}))
        assert promoter.promote(one.ref, [record]).state is state


def test_policies_are_looked_up_from_near_to_far(versions: list[Version], promoter: Promoter) -> None:
    assert promoter.policy(CHAT).scope is None
    for scope in ("dev", "dev.docs.*", str(CHAT)):
        promoter.set_policy(scope, Policy(approvals=(scope,)))
        assert promoter.policy(CHAT).named == scope
        assert promoter.policy(CHAT).policy.approvals == (scope,)
    assert promoter.policy("dev.other.thing").named == "dev"
    promoter.set_policy(str(CHAT), None)
    assert promoter.policy(CHAT).named == "dev.docs.*"
    for wrong in ("dev.docs.", "docs.*", "*", "dev.docs.chat.x", "Dev"):
        with pytest.raises(UserError, match="no scope"):
            promoter.set_policy(wrong, Policy())


def test_a_policy_of_a_two_level_name_is_the_assets_in_the_catalog_worked_in(promoter: Promoter) -> None:
    promoter.set_policy("docs.chat", Policy(approvals=("risk",)))
    assert promoter.policy("dev.docs.chat").named == "dev.docs.chat"
    assert promoter.policy("docs.chat.*").scope is None  # the schema `chat` of a catalog `docs`
    with working_in("prod"):
        assert promoter.policy("docs.chat").scope is None
        promoter.set_policy("docs.chat", Policy(approvals=("legal",)))
    assert promoter.policy("prod.docs.chat").policy.approvals == ("legal",)
    for unclear in ("dev.docs", "prod.docs"):
        with pytest.raises(UserError, match="could be a schema") as caught:
            promoter.set_policy(unclear, Policy())
        assert f"write {unclear}.* for the schema" in str(caught.value.hint)


def test_a_promotion_walks_by_the_policy_it_was_started_with(versions: list[Version], promoter: Promoter) -> None:
    one = versions[0]
    promoter.promote(one.ref)
    promoter.set_policy("dev", Policy(approvals=("risk",)))
    assert promoter.promote(one.ref, [found(one), against(one, None)]).state is State.PROMOTED


def test_a_champion_without_a_promotion_is_not_promoted(
    desk: Desk, versions: list[Version], promoter: Promoter
) -> None:
    desk.point("champion", versions[0].ref, found(versions[0]), etag=None)
    with pytest.raises(ConflictError, match="champion already"):
        promoter.promote(versions[0].ref)
    crown(promoter, versions[1], versions[0])
    assert aliases(desk) == {"champion": 2, "previous_champion": 1}


def test_the_challenger_is_who_was_validated_last(desk: Desk, versions: list[Version], promoter: Promoter) -> None:
    one, two, three = versions
    crown(promoter, one, None)
    promoter.promote(two.ref, [found(two)])
    promoter.promote(three.ref, [found(three)])
    assert aliases(desk) == {"champion": 1, "challenger": 3}
    crown(promoter, two, one)
    assert aliases(desk) == {"champion": 2, "challenger": 3, "previous_champion": 1}


def test_rollback_restores_the_previous_champion(desk: Desk, versions: list[Version], promoter: Promoter) -> None:
    one, two, three = versions
    for version, champion in ((one, None), (two, one), (three, two)):
        crown(promoter, version, champion)
    plan = promoter.plan_rollback(CHAT)
    assert (plan.champion.version, plan.previous.version, plan.further) == (3, 2, 1)
    done = promoter.rollback(CHAT, "chargebacks doubled")
    assert (done.from_version, done.to_version, done.by, done.again) == (3, 2, "svc:deploy", False)
    assert aliases(desk) == {"champion": 2, "previous_champion": 1}
    states = {item.version: item.state for item in promoter.status(CHAT)}
    assert states == {1: State.RETIRED, 2: State.PROMOTED, 3: State.ROLLED_BACK}
    record = next(r for r in desk.evidence(two) if r.evidence_id == done.evidence_id)
    assert (record.gate, record.method.params) == ("rollback", {"reason": "chargebacks doubled"})
    retried = promoter.rollback(CHAT, "chargebacks doubled")
    assert (retried.again, retried.evidence_id) == (True, done.evidence_id)
    assert promoter.rollback(CHAT, "again, by number", from_version=3).again
    assert aliases(desk)["champion"] == 2
    second = promoter.rollback(CHAT, "worse still")
    assert (second.from_version, second.to_version) == (2, 1)
    assert aliases(desk) == {"champion": 1}
    with pytest.raises(UserError, match="no champion before version 1") as caught:
        promoter.rollback(CHAT, "further")
    assert caught.value.error_code == "no_previous_champion"
    assert desk.store.held[str(CHAT)] == {"champion": 1}


def test_a_rollback_needs_a_reason_and_a_champion(versions: list[Version], promoter: Promoter) -> None:
    with pytest.raises(UserError, match="needs a reason"):
        promoter.rollback(CHAT, "  ")
    with pytest.raises(NotFoundError, match="no champion to roll back"):
        promoter.rollback(CHAT, "why")
    crown(promoter, versions[0], None)
    with pytest.raises(ConflictError, match="version 2 is not champion: version 1 is"):
        promoter.rollback(CHAT, "why", from_version=2)
    with pytest.raises(NotFoundError, match="no asset"):
        promoter.rollback("dev.docs.none", "why")


def test_what_was_rolled_back_must_be_compared_again(desk: Desk, versions: list[Version], promoter: Promoter) -> None:
    one, two, three = versions
    crown(promoter, one, None)
    crown(promoter, two, one)
    promoter.rollback(CHAT, "slow")
    assert promoter.promote(two.ref).state is State.ROLLED_BACK
    waiting = promoter.promote(two.ref, again=True)
    assert waiting.state is State.VALIDATED
    assert "was rolled back after this comparison" in waiting.needs[0].why
    crown(promoter, two, one)
    assert aliases(desk) == {"champion": 2, "previous_champion": 1}
    crown(promoter, three, two)
    assert promoter.rollback(CHAT, "third is worse").to_version == 2
    assert aliases(desk) == {"champion": 2, "previous_champion": 1}


def test_a_dev_principal_cannot_write_to_prod_and_the_attempt_is_on_record(desk: Desk) -> None:
    from tests.support.registry_rows import seed

    name = "prod.docs.chat"
    version = seed(desk.sql, name, 1)[0]
    desk.grants.grant(Privilege.ALL_PRIVILEGES, "prod", to="svc:deploy")
    person = Promoter(desk, principal=Principal("dan", "person", frozenset({"dev"})))
    with pytest.raises(DeniedError, match="service principals only"):
        person.promote(version.ref)
    with pytest.raises(DeniedError, match="dan lacks"):
        person.set_policy("prod", Policy(comparison=()))
    assert desk.show(name).aliases == {}
    with desk.sql.read() as connection:
        query = "SELECT action_name, phase, about FROM audit_log WHERE actor = 'dan' ORDER BY seq"
        assert [tuple(row) for row in connection.execute(text(query))] == [
            ("promote", "intent", "prod.docs.chat/1"),
            ("promote", "denied", "prod.docs.chat/1"),
            ("policy", "intent", "prod"),
            ("policy", "denied", "prod"),
        ]


def test_mlflow_down_leaves_the_record_right_and_the_next_call_repairs(
    desk: Desk, versions: list[Version], promoter: Promoter
) -> None:
    one = versions[0]
    desk.store.down = True
    crown(promoter, one, None)
    assert (aliases(desk), desk.store.held) == ({"champion": 1}, {})
    desk.store.down = False
    promoter.promote(one.ref)
    assert desk.store.held[str(CHAT)] == {"champion": 1}
    assert desk.store.kept[str(CHAT), 1, "validation_status"] == "PASSED"


def test_an_alias_moved_behind_our_back_is_told_and_put_right(
    desk: Desk, versions: list[Version], promoter: Promoter
) -> None:
    crown(promoter, versions[0], None)
    desk.store.held[str(CHAT)] = {"champion": 3, "challenger": 2}
    told = [(d.alias, d.record, d.mlflow) for d in desk.repair(plan=True).copies.aliases]
    assert told == [("challenger", None, 2), ("champion", 1, 3)]
    assert desk.resolve(str(CHAT)).version == 1
    desk.repair()
    assert desk.store.held[str(CHAT)] == {"champion": 1}
    assert desk.repair(plan=True).copies.aliases == []


def test_a_clock_that_goes_back_changes_no_order(
    desk: Desk, versions: list[Version], promoter: Promoter, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmops.core import ids
    from llmops.registry import aliases as aliases_

    one, two, three = versions
    crown(promoter, one, None)
    crown(promoter, two, one)
    past = datetime.now(UTC) - timedelta(days=30)

    class Past(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return past

    monkeypatch.setattr(
        ids, "new_id", lambda: f"{int(past.timestamp() * 1000):012x}"[:8] + "-0000-7000-8000-000000000000"
    )
    monkeypatch.setattr(aliases_, "datetime", Past)
    crown(promoter, three, two)
    moves = [move.version for move in desk.history(CHAT, "champion")]
    assert moves == [3, 2, 1]
    assert promoter.rollback(CHAT, "late").to_version == 2
    story = [entry for entry in promoter.history(CHAT) if entry.detail.get("alias") == "champion"]
    assert [entry.version for entry in story] == [2, 3, 2, 1]
    reign = promoter.champion_at(CHAT, datetime.now(UTC))
    assert reign is not None
    assert reign.version == 2
    assert DEPLOYER.id == reign.by


def test_a_rollback_withdraws_what_was_under_way_for_its_version(
    desk: Desk, versions: list[Version], promoter: Promoter
) -> None:
    one, two, _ = versions
    crown(promoter, one, None)
    first = promoter.promote(one.ref)
    crown(promoter, two, one)
    open_again = promoter.promote(one.ref)  # a second try, which waits to be compared with version 2
    assert (open_again.state, open_again.promotion_id != first.promotion_id) == (State.VALIDATED, True)
    promoter.rollback(CHAT, "slow")
    standing = promoter.promote(one.ref)
    assert (standing.state, standing.promotion_id) == (State.PROMOTED, first.promotion_id)
    told = [entry for entry in promoter.history(CHAT) if entry.detail.get("promotion_id") == open_again.promotion_id]
    assert (told[0].what, told[0].why) == ("withdrawn", "a rollback made it champion")
