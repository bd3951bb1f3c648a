"""Accounts, signed-in browsers, tries and conversations, on both databases."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update
from tests.support.migrations import differences

from llmops.core.errors import ConflictError, LlmopsError, NotFoundError, RateLimitedError, UserError
from llmops.core.ids import new_id
from llmops.core.people.accounts import Accounts
from llmops.core.people.conversations import Begun, Concluded, Conversations, Place
from llmops.core.people.forgetting import forget_documents, forget_person
from llmops.core.people.passwords import Cost, hash_password, is_right, made_up
from llmops.core.people.sessions import Proof, SignIns, new_token
from llmops.core.people.shares import Shares
from llmops.core.people.tables import CONVERSATIONS, METADATA, SIGN_INS
from llmops.core.people.tries import MOST, Tries
from llmops.core.sql import Sql, open_sql
from llmops.core.state import StateConfig

CHEAP = Cost(log2_n=4, p=1)
PASSWORD = "correct horse battery"


@pytest.fixture
def sql(either_state: StateConfig) -> Iterator[Sql]:
    with open_sql(either_state) as opened:
        yield opened


@pytest.fixture
def accounts(sql: Sql) -> Accounts:
    return Accounts(sql, CHEAP)


@pytest.fixture
def kept(sql: Sql) -> Conversations:
    return Conversations(sql)


def say(kept: Conversations, place: Place, question: str, after: str | None = None, *sources: str) -> str:
    """One whole turn; gives its id."""
    turn_id = new_id()
    kept.begin(Begun(turn_id, place, after, "chat", question))
    kept.conclude(place.owner, turn_id, Concluded("done", {"answer": f"about {question}"}, frozenset(sources)))
    return turn_id


def place_of(owner: str) -> Place:
    return Place(owner, new_id())


def test_the_tables_are_as_the_code_says(sql: Sql) -> None:
    assert differences(sql, METADATA) == []


# --- accounts


def test_an_account_is_made_once_and_found_whatever_its_case(accounts: Accounts) -> None:
    ada = accounts.add("Ada", PASSWORD, groups=["hr"])
    with pytest.raises(ConflictError, match="already"):
        accounts.add("ADA", PASSWORD)
    assert accounts.named("ada") == ada == accounts.named(ada.principal_id)
    assert ada.principal().groups == {"hr"}
    assert [person.name for person in accounts.list()] == ["Ada"]
    with pytest.raises(NotFoundError):
        accounts.named("person:nobody")


@pytest.mark.parametrize("login", ["", " ada", "a/b", "person:1", "x" * 100, "ada\n"])
def test_a_name_that_could_mislead_is_refused(accounts: Accounts, login: str) -> None:
    with pytest.raises(UserError, match="is no name"):
        accounts.add(login, PASSWORD)


def test_a_password_is_kept_as_a_hash_and_checked(accounts: Accounts, sql: Sql) -> None:
    ada = accounts.add("ada", PASSWORD)
    person_id, hashed = accounts.password_of("ADA")
    assert person_id == ada.person_id
    assert is_right(PASSWORD, hashed)
    assert not is_right(PASSWORD + " ", hashed)
    assert not is_right(PASSWORD, None)
    assert hashed is not None
    assert PASSWORD not in hashed
    assert hash_password(PASSWORD, CHEAP) != hash_password(PASSWORD, CHEAP)
    for bad in ("short", "x" * 201):
        with pytest.raises(UserError, match="10 to 200 characters"):
            accounts.set_password(ada.person_id, bad)
    accounts.set_password(ada.person_id, made_up())
    assert not is_right(PASSWORD, accounts.password_of("ada")[1])
    accounts.set_disabled(ada.person_id, True)
    assert accounts.password_of("ada") == (None, None)


def test_whom_a_provider_vouches_for_is_the_same_person_under_another_name(accounts: Accounts) -> None:
    first = accounts.vouched("https://id.example", "42", "Ada", frozenset({"hr"}))
    again = accounts.vouched("https://id.example", "42", "Ada Lovelace", frozenset())
    other = accounts.vouched("https://other.example", "42", "Ada", frozenset())
    assert first.person_id == again.person_id != other.person_id
    assert again.name == "Ada Lovelace"
    assert again.groups == frozenset()
    for change in (
        lambda: accounts.set_password(first.person_id, PASSWORD),
        lambda: accounts.set_groups(first.person_id, []),
    ):
        with pytest.raises(UserError):
            change()


# --- signed-in browsers


def test_a_browser_is_signed_in_until_it_ends(sql: Sql, accounts: Accounts) -> None:
    signed = SignIns(sql, life=timedelta(hours=1), idle=timedelta(minutes=10))
    ada, token = accounts.add("ada", PASSWORD, groups=["hr"]), new_token()
    signed.begin(ada.person_id, token)
    found = signed.read(token)
    assert found is not None
    assert found.principal.groups == {"hr"}
    accounts.set_groups(ada.person_id, ["board"])
    again = signed.read(token)
    assert again is not None
    assert again.principal.groups == {"board"}
    assert signed.read(new_token()) is signed.read(None) is signed.read("x" * 5000) is None
    signed.end(token)
    assert signed.read(token) is None


@pytest.mark.parametrize("column", ["ends_at", "used_at"])
def test_a_browser_that_is_too_old_or_was_left_alone_is_signed_out(sql: Sql, accounts: Accounts, column: str) -> None:
    signed = SignIns(sql, life=timedelta(hours=1), idle=timedelta(minutes=10))
    token = new_token()
    signed.begin(accounts.add("ada", PASSWORD).person_id, token)
    earlier = datetime.now(UTC) - timedelta(minutes=10)
    with sql.begin() as connection:
        connection.execute(update(SIGN_INS).values({column: earlier}))
    assert signed.read(token) is None


def test_use_keeps_a_browser_signed_in(sql: Sql, accounts: Accounts) -> None:
    signed = SignIns(sql, life=timedelta(hours=1), idle=timedelta(minutes=10))
    token = new_token()
    signed.begin(accounts.add("ada", PASSWORD).person_id, token)
    with sql.begin() as connection:
        connection.execute(update(SIGN_INS).values(used_at=datetime.now(UTC) - timedelta(minutes=9)))
    assert signed.read(token) is not None
    with sql.read() as connection:
        used: datetime = connection.execute(SIGN_INS.select()).one().used_at
    assert datetime.now(UTC) - used < timedelta(minutes=1)


def test_another_password_and_a_disabled_account_end_every_browser(sql: Sql, accounts: Accounts) -> None:
    signed = SignIns(sql, life=timedelta(hours=1), idle=timedelta(minutes=10))
    ada = accounts.add("ada", PASSWORD)
    for shut in (
        lambda: accounts.set_password(ada.person_id, PASSWORD),
        lambda: accounts.set_disabled(ada.person_id, True),
        lambda: accounts.sign_out(ada.person_id),
    ):
        tokens = [new_token(), new_token()]
        for token in tokens:
            signed.begin(ada.person_id, token)
        shut()
        assert [signed.read(token) for token in tokens] == [None, None]
        accounts.set_disabled(ada.person_id, False)


def test_one_attempt_signs_one_browser_in(sql: Sql, accounts: Accounts) -> None:
    signed = SignIns(sql, life=timedelta(hours=1), idle=timedelta(minutes=10))
    ada = accounts.vouched("https://id.example", "42", "Ada", frozenset())
    signed.begin(ada.person_id, new_token(), Proof(frozenset({"x"}), attempt="once"))
    with pytest.raises(ConflictError):
        signed.begin(ada.person_id, new_token(), Proof(frozenset({"x"}), attempt="once"))


# --- tries


def test_tries_are_counted_before_the_guess_also_many_at_once(sql: Sql) -> None:
    tries = Tries(sql)
    refused: list[Exception] = []

    def take() -> None:
        for _ in range(4):
            try:
                tries.take("ada", "192.0.2.1")
            except LlmopsError as error:
                refused.append(error)

    threads = [threading.Thread(target=take) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 20 - MOST["both"]
    assert all(isinstance(error, RateLimitedError) for error in refused)
    tries.take("ada", "192.0.2.2")  # whoever guesses does not shut the person out
    tries.forget("ada", "192.0.2.1")
    tries.take("ADA", "192.0.2.1")


def test_people_behind_one_address_sign_in_as_often_as_they_like(sql: Sql) -> None:
    tries = Tries(sql)
    for number in range(MOST["from"] + 3):
        tries.take(f"name{number}", "192.0.2.1")
        tries.forget(f"name{number}", "192.0.2.1")


def test_an_address_has_its_own_limit_and_a_network_of_ipv6_is_one(sql: Sql) -> None:
    tries = Tries(sql)
    for number in range(MOST["from"]):
        tries.take(f"name{number}", f"2001:db8::{number:x}")
    with pytest.raises(RateLimitedError):
        tries.take("another", "2001:db8::ffff")
    tries.take("another", "2001:db8:0:1::1")


# --- conversations


def test_a_conversation_is_kept_for_its_owner_alone(kept: Conversations) -> None:
    mine = place_of("person:a")
    turn = say(kept, mine, "What is it?")
    theirs = Place("person:b", mine.conversation_id)
    for foreign in (
        lambda: kept.read(theirs),
        lambda: kept.summary(theirs),
        lambda: kept.rename(theirs, "mine now"),
        lambda: kept.remove(theirs),
    ):
        with pytest.raises(NotFoundError, match="no such conversation"):
            foreign()
    kept.judge("person:b", turn, "down")
    kept.conclude("person:b", turn, Concluded("done", {"answer": "forged"}, frozenset()))
    assert kept.list("person:b") == []
    [found] = kept.read(mine).turns
    assert (found.body["answer"], found.thumb) == ("about What is it?", None)

    say(kept, theirs, "Whose is this?")  # the same id is another conversation
    assert [found.title for found in kept.list("person:a")] == ["What is it?"]
    with pytest.raises(NotFoundError, match="no longer there"):
        say(kept, theirs, "And then?", turn)
    assert len(kept.read(theirs).turns) == 1


def test_asking_again_adds_a_branch_and_shows_the_newest_way(kept: Conversations) -> None:
    place = place_of("person:a")
    one = say(kept, place, "one")
    say(kept, place, "two", one)
    again = say(kept, place, "two, asked again", one)
    assert [turn.question for turn in kept.read(place).turns] == ["one", "two, asked again"]
    say(kept, place, "three", again)
    assert [turn.question for turn in kept.read(place).turns] == ["one", "two, asked again", "three"]
    say(kept, place, "from the start")
    assert [turn.question for turn in kept.read(place).turns] == ["from the start"]


def test_a_question_stays_where_its_answer_never_came(kept: Conversations) -> None:
    place = place_of("person:a")
    kept.begin(Begun(new_id(), place, None, "chat", "Does it hold?"))
    [turn] = kept.read(place).turns
    assert (turn.status, turn.question, turn.body) == ("writing", "Does it hold?", {})


def test_words_are_found_in_titles_and_questions_not_in_answers(kept: Conversations) -> None:
    place, other = place_of("person:a"), place_of("person:a")
    say(kept, place, "Wie hoch ist die STRAßE? 100% sicher")
    say(kept, other, "second")
    say(kept, place_of("person:b"), "straße of somebody else")
    for words, found in {"strasse": 1, "STRAẞE hoch": 1, "0%": 1, "_": 0, "about": 0, "second": 1, "": 2}.items():
        assert len(kept.list("person:a", words=words)) == found, words
    kept.rename(other, "  Meine \n Fragen  ")
    assert [item.title for item in kept.list("person:a", words="meine fragen")] == ["Meine Fragen"]


def test_the_list_goes_on_where_it_ended(kept: Conversations) -> None:
    for number in range(5):
        say(kept, place_of("person:a"), f"question {number}")
    first = kept.list("person:a", limit=2)
    second = kept.list("person:a", limit=9, before=first[-1])
    assert [item.title for item in first + second] == [f"question {number}" for number in (4, 3, 2, 1, 0)]


def test_what_no_database_takes_and_secrets_are_not_kept(kept: Conversations) -> None:
    place = place_of("person:a")
    turn_id = new_id()
    kept.begin(Begun(turn_id, place, None, "chat", "a\0b \ud800 password: hunter2hunter2"))
    answer = {"answer": "sk-" + "a" * 30, "citations": [{"text": "c\0d"}]}
    kept.conclude(place.owner, turn_id, Concluded("done", answer, frozenset({"x\0.md"})))
    [turn] = kept.read(place).turns
    assert "hunter2" not in turn.question
    assert turn.question.startswith("a\ufffdb ?")
    assert turn.body == {"answer": "[redacted]", "citations": [{"text": "c\ufffdd"}]}


def test_what_was_deleted_stays_deleted_also_while_an_answer_is_written(kept: Conversations) -> None:
    place = place_of("person:a")
    turn_id = new_id()
    kept.begin(Begun(turn_id, place, None, "chat", "Will it stay?"))
    kept.remove(place)
    kept.conclude(place.owner, turn_id, Concluded("done", {"answer": "yes"}, frozenset({"a.md"})))
    with pytest.raises(NotFoundError):
        kept.read(place)


def test_old_conversations_end(sql: Sql, kept: Conversations) -> None:
    place = place_of("person:a")
    say(kept, place, "old", None, "a.md")
    with sql.begin() as connection:
        connection.execute(update(CONVERSATIONS).values(updated_at=datetime.now(UTC) - timedelta(days=31)))
    say(kept, place_of("person:a"), "new")
    assert kept.remove_older(timedelta(days=30)) == 1
    assert [item.title for item in kept.list("person:a")] == ["new"]


@pytest.mark.parametrize("conversation_id", ["", "x", "../etc", "0" * 36, "A" * 36])
def test_an_id_is_a_uuid(kept: Conversations, conversation_id: str) -> None:
    with pytest.raises(UserError, match="UUID"):
        say(kept, Place("person:a", conversation_id), "hello")


# --- links and forgetting


def test_a_link_shows_what_had_been_said_until_it_is_revoked(sql: Sql, kept: Conversations) -> None:
    shares, place = Shares(sql), place_of("person:a")
    one = say(kept, place, "one", None, "a.md")
    with pytest.raises(NotFoundError):
        shares.share(Place("person:b", place.conversation_id))
    first = shares.share(place)
    say(kept, place, "two, said later", one)
    assert [turn.question for turn in shares.open(first).turns] == ["one"]
    assert kept.summary(place).shared_at is not None
    second = shares.share(place)
    assert len(shares.open(second).turns) == 2
    with pytest.raises(NotFoundError):
        shares.revoke(Place("person:b", place.conversation_id))
    shares.open(second)
    shares.revoke(place)
    for word in (first, second, "", "x" * 5000):
        with pytest.raises(NotFoundError, match="leads nowhere"):
            shares.open(word)
    assert kept.summary(place).shared_at is None


def test_a_person_is_forgotten(sql: Sql, accounts: Accounts, kept: Conversations) -> None:
    ada, bob = accounts.add("ada", PASSWORD), accounts.add("bob", PASSWORD)
    signed, token = SignIns(sql, life=timedelta(hours=1), idle=timedelta(hours=1)), new_token()
    signed.begin(ada.person_id, token)
    for person in (ada, bob):
        say(kept, place_of(person.principal_id), "hello", None, "a.md")
    assert forget_person(sql, ada.principal_id) == 1
    assert forget_person(sql, ada.principal_id) == 0
    assert signed.read(token) is None
    assert [person.name for person in accounts.list()] == ["bob"]
    assert len(kept.list(bob.principal_id)) == 1


def test_a_document_is_forgotten_in_everybodys_answers(sql: Sql, kept: Conversations) -> None:
    mine, theirs = place_of("person:a"), place_of("person:b")
    one = say(kept, mine, "one", None, "a.md", "b.md")
    say(kept, mine, "two", one, "c.md")
    say(kept, theirs, "three", None, "b.md")
    assert forget_documents(sql, ["b.md", "nowhere.md"]) == 2
    assert forget_documents(sql, ["b.md"]) == 0
    first, second = kept.read(mine).turns
    assert (first.question, first.body, first.sources) == ("one", {"erased": True}, frozenset())
    assert second.body == {"answer": "about two"}
    assert kept.read(theirs).turns[0].body == {"erased": True}
