"""The rules of access against an independent, naive model of them, on random grants."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.core.errors import UserError
from llmops.core.identity import LOCAL, Principal
from llmops.registry.access import EVERYTHING, Privilege, Rights, Securable
from llmops.registry.access.privileges import GRANTED_ON

CATALOGS, SCHEMAS, ASSETS = ("dev", "prod"), ("docs", "fraud"), ("a", "b")
PLACES = ["*", *CATALOGS]
PLACES += [f"{catalog}.{schema}" for catalog in CATALOGS for schema in SCHEMAS]
PLACES += [f"{catalog}.{schema}.{asset}" for catalog in CATALOGS for schema in SCHEMAS for asset in ASSETS]
PLACES += ["tag:approval_risk"]
WRITES = {"CREATE SCHEMA", "CREATE MODEL", "CREATE MODEL VERSION", "CREATE TABLE", "CREATE FUNCTION", "CREATE VOLUME"}
WRITES |= {"MODIFY", "WRITE VOLUME"}
SERVICE = Principal("alice", "service")
NAMES = ["alice", "group:risk", "group:everyone", "group:other", "bob"]


@dataclass(frozen=True)
class Fact:
    """`privilege` (or OWNER) on `place`, given to `name`."""

    place: str
    name: str
    privilege: str


def model_may(facts: set[Fact], names: set[str], person: bool, privilege: str, place: str) -> bool:
    """The rules once more, as one would say them aloud."""
    parts = [] if place in ("*",) or place.startswith("tag:") else place.split(".")
    if person and parts and parts[0] == "prod" and privilege in WRITES:
        return False

    def holds(wanted: str, at: str) -> bool:
        pieces = [] if at == "*" or at.startswith("tag:") else at.split(".")
        reach = {"*", at} | {".".join(pieces[:length]) for length in range(1, len(pieces) + 1)}
        for fact in facts:
            if fact.name not in names or fact.place not in reach:
                continue
            if fact.privilege in ("OWNER", wanted):
                return True
            if fact.privilege == "ALL PRIVILEGES" and wanted != "MANAGE":
                return True
        return False

    if privilege == "MODIFY" and not holds("SELECT", place):
        return False
    if privilege != "BROWSE":
        own_gate = {"USE CATALOG": 1, "USE SCHEMA": 2, "MANAGE": len(parts)}.get(privilege)
        if len(parts) >= 1 and own_gate != 1 and not holds("USE CATALOG", parts[0]):
            return False
        if len(parts) == 1 and own_gate == 1:
            pass
        elif len(parts) > 1 and not holds("USE CATALOG", parts[0]):
            return False
        if len(parts) >= 2 and not (len(parts) == 2 and own_gate == 2) and not holds("USE SCHEMA", ".".join(parts[:2])):
            return False
    return holds(privilege, place)


@st.composite
def grants(draw: st.DrawFn) -> set[Fact]:
    facts = set()
    for _ in range(draw(st.integers(0, 8))):
        privilege = draw(st.sampled_from(sorted(GRANTED_ON)))
        place = draw(st.sampled_from([p for p in PLACES if Securable.of(p).level in GRANTED_ON[privilege]]))
        facts.add(Fact(place, draw(st.sampled_from(NAMES)), privilege.value))
    for _ in range(draw(st.integers(0, 2))):
        facts.add(Fact(draw(st.sampled_from(PLACES)), draw(st.sampled_from(NAMES)), "OWNER"))
    return facts


def rights_of(principal: Principal, names: set[str], facts: set[Fact]) -> Rights:
    granted: dict[Securable, dict[Privilege, str]] = {}
    owned = {}
    for fact in facts:
        if fact.name in names and fact.privilege == "OWNER":
            owned[Securable.of(fact.place)] = fact.name
        elif fact.name in names:
            granted.setdefault(Securable.of(fact.place), {})[Privilege(fact.privilege)] = fact.name
    return Rights(principal, True, granted, owned)


@settings(max_examples=400, deadline=None)
@given(grants(), st.sampled_from(["person", "service", "key"]))
def test_the_rules_are_those_of_the_model(facts: set[Fact], kind: str) -> None:
    principal = Principal("alice", kind, frozenset({"risk"}))  # type: ignore[arg-type]
    names = {"alice", "group:risk", "group:everyone"}
    rights = rights_of(principal, names, facts)
    for place in PLACES:
        for privilege, levels in GRANTED_ON.items():
            at = Securable.of(place)
            if privilege is Privilege.ALL_PRIVILEGES or at.level not in levels:
                continue
            expected = model_may(facts, names, kind == "person", privilege.value, place)
            assert (rights.why(privilege, at) is not None) == expected, (privilege, place)


@settings(max_examples=100, deadline=None)
@given(grants())
def test_more_grants_never_take_anything_away(facts: set[Fact]) -> None:
    principal, names = Principal("alice", "service", frozenset({"risk"})), {"alice", "group:risk", "group:everyone"}
    whole = rights_of(principal, names, facts)
    fewer = rights_of(principal, names, set(sorted(facts, key=str)[1:]))
    for place in map(Securable.of, PLACES):
        for privilege in Privilege:
            assert fewer.why(privilege, place) is None or whole.why(privilege, place) is not None


def rights(*facts: tuple[str, str], principal: Principal = SERVICE) -> Rights:
    return rights_of(principal, {principal.id}, {Fact(place, principal.id, privilege) for place, privilege in facts})


def may(held: Rights, privilege: Privilege, place: str) -> bool:
    return held.why(privilege, Securable.of(place)) is not None


def test_a_privilege_reaches_down_but_only_through_open_gates() -> None:
    assert not may(rights(("dev", "EXECUTE")), Privilege.EXECUTE, "dev.docs.chat")
    assert not may(rights(("dev", "EXECUTE"), ("dev", "USE CATALOG")), Privilege.EXECUTE, "dev.docs.chat")
    opened = rights(("dev", "EXECUTE"), ("dev", "USE CATALOG"), ("dev", "USE SCHEMA"))
    assert may(opened, Privilege.EXECUTE, "dev.docs.chat")
    assert may(opened, Privilege.EXECUTE, "dev.later.asset")
    assert not may(opened, Privilege.EXECUTE, "staging.docs.chat")
    assert not may(opened, Privilege.MANAGE, "dev.docs.chat")
    assert opened.why(Privilege.EXECUTE, Securable.of("dev.docs.chat")) == "EXECUTE on dev to alice"


def test_all_privileges_do_not_hold_manage_and_manage_is_no_access_to_data() -> None:
    everything = rights(("dev", "ALL PRIVILEGES"))
    assert may(everything, Privilege.MODIFY, "dev.docs.chat")
    assert not may(everything, Privilege.MANAGE, "dev.docs.chat")
    managing = rights(("dev", "MANAGE"), ("dev", "USE CATALOG"), ("dev", "USE SCHEMA"))
    assert may(managing, Privilege.MANAGE, "dev.docs.chat")
    assert not may(managing, Privilege.EXECUTE, "dev.docs.chat")


def test_browse_needs_no_gate_and_shows_without_letting_in() -> None:
    held, chat = rights(("dev", "BROWSE")), Securable.of("dev.docs.chat")
    assert held.sees(chat)
    assert not may(held, Privilege.EXECUTE, "dev.docs.chat")
    assert not rights(("dev", "USE CATALOG"), ("dev", "USE SCHEMA")).sees(chat)
    assert rights(("dev", "USE CATALOG"), ("dev", "USE SCHEMA"), ("dev.docs.chat", "EXECUTE")).sees(chat)


def test_prod_is_written_by_service_principals_only_and_read_by_whom_it_is_granted() -> None:
    grants_ = [("prod", "ALL PRIVILEGES"), ("prod", "MANAGE")]
    for principal, writes in (
        (Principal("alice", "person"), False),
        (LOCAL, False),
        (Principal("key:1", "key"), True),
        (Principal("deployer", "service"), True),
    ):
        held = rights(*grants_, ("*", "OWNER"), principal=principal)
        assert may(held, Privilege.EXECUTE, "prod.docs.chat")
        assert held.is_reader(Securable.of("prod.docs.chat")) is not writes
        assert may(held, Privilege.MANAGE, "prod.docs.chat")  # people grant, and approve
        assert may(held, Privilege.CREATE_MODEL_VERSION, "prod.docs.chat") is writes
        assert may(held, Privilege.MANAGE, "dev.docs.chat")


def test_nobody_becomes_a_group_by_calling_themselves_one() -> None:
    from llmops.registry.access.rights import names_of

    assert names_of(Principal("group:admins", "person")) == {"group:everyone"}


@pytest.mark.parametrize("word", ["", "Dev", "a.b.c.d", "dev.", "tag:", "tag:X y", "group:risk", "dev.docs.chat/3"])
def test_what_is_no_place(word: str) -> None:
    with pytest.raises(UserError, match="nothing that privileges are held on"):
        Securable.of(word)


@pytest.mark.parametrize("place", PLACES)
def test_a_place_is_written_as_it_is_read(place: str) -> None:
    assert str(Securable.of(place)) == place
    assert Securable.of(place).line()[-1] == EVERYTHING


@pytest.mark.parametrize("word", ["create model version", "CREATE_MODEL_VERSION", "Create-Model-Version"])
def test_a_privilege_is_read_as_people_write_it(word: str) -> None:
    assert Privilege.parse(word) is Privilege.CREATE_MODEL_VERSION
    with pytest.raises(UserError, match="not a privilege") as raised:
        Privilege.parse("EXECUT")
    assert raised.value.hint == "did you mean `EXECUTE`?"
