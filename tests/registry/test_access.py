"""Access as it is kept and asked: grants on record, enforcement from the first one, and the registry behind it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.migrations import differences
from tests.support.registry_processes import CHAT, chain, passing, prompt
from tests.support.registry_rows import seed

from llmops.core.errors import DeniedError, NotFoundError, UserError
from llmops.core.identity import LOCAL, Principal
from llmops.core.keys import Keys
from llmops.core.names import Name
from llmops.core.sql import Sql
from llmops.core.state import StateConfig
from llmops.registry import Registry
from llmops.registry.access import Access, Privilege, tables
from llmops.registry.aliases import Move
from llmops.registry.audit import Wanted

ALICE = Principal("alice", "person", frozenset({"risk"}))
ROBOT = Principal("key:robot", "key", frozenset({"deploy"}))
P = Privilege


@pytest.fixture
def owner(sql: Sql, sql_state: StateConfig, empty_mlflow: Path) -> Iterator[Registry]:
    """The registry as the machine's own account, with two assets."""
    (sql_state.root / "mlflow").mkdir(parents=True)
    for catalog in ("dev", "prod"):
        shutil.copyfile(empty_mlflow, sql_state.root / "mlflow" / f"{catalog}.db")
    seed(sql, str(CHAT), 2)
    seed(sql, "prod.docs.chat", 1)
    with Registry(sql_state) as opened:
        yield opened


@pytest.fixture
def alice(owner: Registry, sql_state: StateConfig) -> Iterator[Registry]:
    with Registry(sql_state, principal=ALICE) as opened:
        yield opened


def open_gates(owner: Registry, to: str, *catalogs: str) -> None:
    for catalog in catalogs:
        for privilege in (P.USE_CATALOG, P.USE_SCHEMA):
            owner.grants.grant(privilege, catalog, to)


def names(registry: Registry) -> list[str]:
    return [str(asset.name) for asset in registry.list()]


def test_the_tables_are_as_the_code_says(sql: Sql) -> None:
    assert differences(sql, tables.metadata) == []


def test_until_the_first_grant_everybody_may_everything(owner: Registry, alice: Registry) -> None:
    assert names(alice) == ["dev.docs.chat", "prod.docs.chat"]
    two = alice.resolve("dev.docs.chat/2")
    assert alice.point("champion", two.ref, passing(two), etag=None).moved_by == "alice"


def test_the_first_grant_enforces_and_leaves_the_local_account_the_owner(owner: Registry, alice: Registry) -> None:
    assert owner.grants.grant(P.BROWSE, "dev", "group:risk", plan=True).enforces
    assert names(alice) == ["dev.docs.chat", "prod.docs.chat"]  # a plan changes nothing
    assert owner.audit.read() == []
    assert owner.grants.grant(P.BROWSE, "dev", "group:risk").enforces
    assert names(alice) == ["dev.docs.chat"]
    assert names(owner) == ["dev.docs.chat", "prod.docs.chat"]
    owner.grants.revoke(P.BROWSE, "dev", "group:risk")
    assert names(alice) == []  # taking the last one back opens nothing
    with pytest.raises(DeniedError):
        alice.grants.grant(P.BROWSE, "dev", "alice")


def test_configuration_can_enforce_from_the_start(sql: Sql, sql_state: StateConfig) -> None:
    seed(sql, str(CHAT), 1)
    strict = sql_state.model_copy(update={"enforce_access": True})
    with Registry(strict, principal=ALICE) as hers, Registry(strict) as ours:
        assert (names(hers), names(ours)) == ([], ["dev.docs.chat"])
        assert ours.grants.grant(P.BROWSE, "dev", "alice").enforces
        assert names(hers) == ["dev.docs.chat"]
    with Registry(sql_state, principal=ALICE) as lax:
        assert names(lax) == ["dev.docs.chat"]
        with pytest.raises(DeniedError):
            lax.load_prompt(lax.resolve("dev.docs.chat/1"))


def test_what_is_not_shown_is_not_there(owner: Registry, alice: Registry) -> None:
    owner.grants.grant(P.BROWSE, "dev", "alice")
    hidden = Name.parse("prod.docs.chat")
    version = owner.resolve("prod.docs.chat/1")
    for look in (
        lambda: alice.show(hidden),
        lambda: alice.versions(hidden),
        lambda: alice.resolve("prod.docs.chat/1"),
        lambda: alice.resolve("prod.docs.chat@champion"),
        lambda: alice.alias(hidden, "champion"),
        lambda: alice.history(hidden),
        lambda: alice.evidence(version),
        lambda: alice.show("prod.docs.cha"),
    ):
        with pytest.raises(NotFoundError) as raised:
            look()
        assert raised.value.error_code == "unknown_asset"
        assert "prod.docs.chat`?" not in str(raised.value.hint)  # nor is its name given away
    assert alice.find(hidden, version.digest) is None
    assert {str(version.name) for version in alice.versions()} == {"dev.docs.chat"}
    with pytest.raises(NotFoundError) as raised:
        alice.show("dev.docs.chta")
    assert raised.value.hint == "did you mean `dev.docs.chat`?"


def test_to_load_one_needs_execute_and_a_refusal_is_on_record(owner: Registry, alice: Registry) -> None:
    owner.grants.grant(P.BROWSE, "dev", "alice")
    version = alice.resolve("dev.docs.chat/1")
    with pytest.raises(DeniedError, match="alice lacks USE CATALOG on dev") as raised:
        alice.load_chain(version)
    assert raised.value.hint == "its owner grants it: llmops access grant 'USE CATALOG' 'dev' --to alice"
    open_gates(owner, "alice", "dev")
    with pytest.raises(DeniedError, match=r"alice lacks EXECUTE on dev.docs.chat"):
        alice.load_chain(version)
    owner.grants.grant(P.EXECUTE, "dev.docs", "group:risk")
    with pytest.raises(UserError, match="nothing to load"):  # past the door; these rows have no files
        alice.load_chain(version)
    refused = owner.audit.read(Wanted(action="load"))
    assert [(entry.phase, entry.about, entry.actor) for entry in refused[:2]] == [
        ("denied", "dev.docs.chat/1", "alice"),
        ("intent", "dev.docs.chat/1", "alice"),
    ]
    assert len(refused) == 4
    assert owner.audit.verify().ok


def test_an_alias_that_users_meet_needs_manage_another_one_a_tag(owner: Registry, alice: Registry) -> None:
    open_gates(owner, "alice", "dev")
    for privilege in (P.CREATE_MODEL_VERSION, P.EXECUTE, P.BROWSE):
        owner.grants.grant(privilege, "dev", "alice")
    version = alice.resolve("dev.docs.chat/1")
    with pytest.raises(DeniedError, match=r"lacks MANAGE on dev.docs.chat"):
        alice.point("challenger", version.ref, passing(version), etag=None)
    with pytest.raises(DeniedError, match="lacks APPLY TAG"):
        alice.add_evidence(passing(version))
    owner.grants.grant(P.APPLY_TAG, "dev.docs.chat", "alice")
    alice.point("challenger", version.ref, passing(version), etag=None)
    proof = alice.add_evidence(passing(version, gate="other"))
    for alias in ("champion", "previous_champion"):
        with pytest.raises(DeniedError, match="lacks MANAGE"):
            alice.move([Move(CHAT, alias, 1, None, proof)])
    owner.grants.grant(P.MANAGE, "dev.docs.chat", "alice")
    alice.move([Move(CHAT, "champion", 1, None, proof)])
    told = [(entry.phase, entry.about) for entry in owner.audit.read(Wanted(about="dev.docs.chat", action="alias"))]
    assert told.count(("denied", "dev.docs.chat@champion")) == 1
    assert told.count(("done", "dev.docs.chat@champion")) == 1
    assert owner.audit.verify().ok


def test_prod_is_for_service_principals(owner: Registry, sql_state: StateConfig) -> None:
    version = owner.resolve("prod.docs.chat/1")
    owner.grants.grant(P.MANAGE, "prod", "key:robot")
    open_gates(owner, "key:robot", "prod")
    with pytest.raises(DeniedError, match="written by service principals only") as raised:
        owner.point("champion", version.ref, passing(version), etag=None)
    assert "LLMOPS_KEY" in str(raised.value.hint)
    with Registry(sql_state, principal=ROBOT) as robot:
        robot.point("champion", version.ref, passing(version), etag=None)
    assert owner.resolve("prod.docs.chat@champion").version == 1


def test_an_approver_needs_the_tag_and_the_group_or_the_governed_tag(owner: Registry, sql: Sql) -> None:
    access = Access(StateConfig())
    open_gates(owner, "alice", "dev")
    open_gates(owner, "bob", "dev")

    def approves(principal: Principal, group: str) -> bool:
        try:
            with sql.read() as connection:
                access.require_approver(connection, principal, CHAT, group)
        except DeniedError:
            return False
        return True

    bob = Principal("bob", "person")
    assert not approves(ALICE, "risk")
    owner.grants.grant(P.APPLY_TAG, "dev", "alice")
    owner.grants.grant(P.APPLY_TAG, "dev", "bob")
    assert (approves(ALICE, "risk"), approves(ALICE, "legal"), approves(bob, "risk")) == (True, False, False)
    owner.grants.grant(P.ASSIGN, "tag:approval_risk", "bob")
    assert (approves(bob, "risk"), approves(bob, "legal")) == (True, False)
    assert approves(LOCAL, "risk")


def test_who_makes_an_asset_owns_it(state: StateConfig) -> None:
    with Registry(state) as owner, Registry(state, principal=ALICE) as alice:
        open_gates(owner, "alice", "dev")
        with pytest.raises(DeniedError, match=r"lacks CREATE MODEL on dev.docs"):
            alice.register(prompt("one"))
        owner.grants.grant(P.CREATE_MODEL, "dev.docs", "alice")
        made = alice.register(prompt("one"))
        assert made.aliases == ("champion",)
        assert alice.load_prompt(made) == "one"
        two = alice.register(prompt("two"))
        champion = alice.alias(two.name, "champion")
        alice.point("champion", two.ref, passing(two), etag=champion.etag if champion else None)
        alice.grants.grant(P.CREATE_MODEL_VERSION, two.name, "key:robot")
        open_gates(owner, "key:robot", "dev")
        with Registry(state, principal=ROBOT) as robot:
            assert robot.register(prompt("three")).version == 3
            assert robot.register(prompt("three")).version == 3
            with pytest.raises(DeniedError, match="lacks EXECUTE"):
                robot.load_prompt("dev.docs.prompt/3")
            with pytest.raises(DeniedError, match=r"lacks CREATE MODEL on dev.docs"):
                robot.register(chain("a"))
        assert [asset.versions for asset in owner.list()] == [3]
        outcomes = [(entry.actor, entry.phase) for entry in owner.audit.read(Wanted(action="create"))]
        assert outcomes == [
            ("key:robot", "denied"),
            ("key:robot", "intent"),
            ("key:robot", "done"),
            ("key:robot", "intent"),
            ("alice", "done"),
            ("alice", "intent"),
            ("alice", "done"),
            ("alice", "intent"),
            ("alice", "denied"),
            ("alice", "intent"),
        ]
        owner.grants.own(two.name, "key:robot")
        with pytest.raises(DeniedError):
            alice.load_prompt(made)
        with Registry(state, principal=ROBOT) as robot:
            assert robot.load_prompt(made) == "one"
        assert owner.audit.verify().ok


def test_ownership_of_everything_can_be_given_away(owner: Registry, alice: Registry) -> None:
    owner.grants.own("*", "alice")
    with pytest.raises(DeniedError, match="local lacks MANAGE"):
        owner.grants.grant(P.BROWSE, "dev", "local")
    assert names(owner) == []
    alice.grants.grant(P.BROWSE, "dev", "local")
    assert names(owner) == ["dev.docs.chat"]


@pytest.mark.parametrize(
    ("privilege", "on", "to", "told"),
    [
        (P.CREATE_SCHEMA, "dev.docs.chat", "alice", "CREATE SCHEMA means nothing on an asset"),
        (P.BROWSE, "dev.docs", "alice", "BROWSE means nothing on a schema"),
        (P.EXECUTE, "tag:approval_risk", "alice", "EXECUTE means nothing on a tag"),
        (P.EXECUTE, "dev", "not one", "nobody to whom"),
        (P.EXECUTE, "dev", "group:", "nobody to whom"),
    ],
)
def test_a_grant_that_means_nothing(owner: Registry, privilege: Privilege, on: str, to: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        owner.grants.grant(privilege, on, to)
    assert owner.grants.show() == []


def test_grants_given_twice_and_taken_twice(owner: Registry) -> None:
    assert owner.grants.grant(P.EXECUTE, "dev", "alice").changed
    again = owner.grants.grant(P.EXECUTE, "dev", "alice")
    assert (again.changed, again.enforces) == (False, False)
    assert owner.grants.revoke(P.EXECUTE, "dev", "alice", plan=True).changed
    owner.grants.revoke(P.EXECUTE, "dev", "alice")
    with pytest.raises(NotFoundError, match="was not granted EXECUTE on dev"):
        owner.grants.revoke(P.EXECUTE, "dev", "alice")
    assert [entry.phase for entry in owner.audit.read(Wanted(action="revoke"))] == [
        "failed",
        "intent",
        "done",
        "intent",
    ]


def test_show_says_what_is_held_and_why(owner: Registry, alice: Registry, sql: Sql) -> None:
    _, key = Keys(sql).create("deployer", scopes=["registry"], groups=["risk"])
    owner.grants.grant(P.EXECUTE, "dev", "group:risk")
    owner.grants.grant(P.ALL_PRIVILEGES, "prod", "alice")
    owner.grants.grant(P.MODIFY, "prod", "bob")
    shown = {(h.privilege, str(h.securable)): (h.why, h.effective) for h in owner.grants.show(f"key:{key.key_id}")}
    assert shown == {("EXECUTE", "dev"): ("granted to group:risk, but it lacks USE CATALOG on dev", False)}
    assert [h.why for h in owner.grants.show("bob")] == ["granted, but only service principals write to prod"]
    open_gates(owner, "group:risk", "dev")
    assert ("group:risk", "EXECUTE", "EXECUTE on dev to group:risk") in [
        (h.principal, h.privilege, h.why) for h in owner.grants.show("dev.docs.chat")
    ]
    assert ("alice", "EXECUTE") in [(h.principal, h.privilege) for h in owner.grants.show("prod.docs.chat")]
    mine = {(h.privilege, str(h.securable)) for h in alice.grants.show()}
    assert mine == {("ALL PRIVILEGES", "prod"), ("EXECUTE", "dev"), ("USE CATALOG", "dev"), ("USE SCHEMA", "dev")}
    assert alice.grants.show("group:risk")
    for foreign in ("bob", "prod", "*"):
        with pytest.raises(DeniedError):
            alice.grants.show(foreign)
    assert [h.principal for h in owner.grants.show() if h.privilege == "OWNER"] == ["local"]


def test_the_log_is_read_by_who_manages_what_it_is_about(owner: Registry, alice: Registry) -> None:
    open_gates(owner, "alice", "dev")
    owner.grants.grant(P.MANAGE, "dev.docs", "alice")
    with pytest.raises(DeniedError, match=r"alice lacks MANAGE on \*"):
        alice.read_audit(Wanted())
    assert alice.read_audit(Wanted(about="dev.docs.chat/1")) == []
    with pytest.raises(DeniedError):
        alice.read_audit(Wanted(about="key:0123"))
    assert owner.read_audit(Wanted(action="read_audit"))[0].phase == "denied"
