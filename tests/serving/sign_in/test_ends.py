"""How a sign-in ends: while an answer is being written, in every browser at once, and at the provider's word."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from sqlalchemy import update
from tests.serving.sign_in.conftest import PASSWORD, Place
from tests.serving.sign_in.test_door import cookie_of, session
from tests.support.chain import Shelf, SmallChain
from tests.support.oidc_provider import OidcProvider, key
from tests.support.serving import KEYS, Running, eventually, question, running

from llmops.core.errors import UnavailableError
from llmops.core.ids import new_id
from llmops.core.people.accounts import Accounts, person_id_of
from llmops.core.people.conversations import Begun, Conversations
from llmops.core.people.conversations import Place as Kept
from llmops.core.people.passwords import Cost
from llmops.core.people.tables import CONVERSATIONS, SIGN_INS
from llmops.core.sql import Sql, open_sql
from llmops.serving import history as history_module
from llmops.serving.api import reply
from llmops.serving.sign_in.config import HistoryConfig, SignInConfig

# --- while an answer is being written


class Gate:
    """Holds a chain after its first piece, until the reader is gone or the test lets it go on."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()
        self.stubborn = False

    def __call__(self, number: int, context: Any) -> None:
        if number == 0:
            return
        self.reached.set()
        while not self.open.wait(0.01):
            if not self.stubborn:
                context.cancel.check()


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open.set()


@pytest.fixture
def slow(tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Running, Sql]]:
    monkeypatch.setattr(reply, "LOOK_S", 0.05)
    shelf = Shelf({1: lambda: SmallChain(before_piece=gate)})
    with running(tmp_path, shelf, sign_in=SignInConfig()) as server, open_sql(server.config.state) as sql:
        yield server, sql


@contextmanager
def signed_in(server: Running) -> Iterator[httpx.Client]:
    with server.client(headers={"origin": server.url}) as client:
        answer = client.post("/auth/sign-in", data={"name": "ada", "password": PASSWORD, "next": "/"})
        assert answer.status_code == 303
        yield client


def shut(accounts: Accounts, sql: Sql, person_id: str) -> None:
    accounts.set_disabled(person_id, True)


def sign_out(accounts: Accounts, sql: Sql, person_id: str) -> None:
    accounts.sign_out(person_id)


def expire(accounts: Accounts, sql: Sql, person_id: str) -> None:
    with sql.begin() as connection:
        connection.execute(update(SIGN_INS).values(ends_at=datetime.now(UTC) - timedelta(seconds=1)))


@pytest.mark.parametrize(("ended", "stubborn"), [(shut, False), (sign_out, True), (expire, False)])
def test_an_answer_ends_with_the_sign_in_of_its_reader(
    slow: tuple[Running, Sql], gate: Gate, ended: Callable[[Accounts, Sql, str], None], *, stubborn: bool
) -> None:
    server, sql = slow
    gate.stubborn = stubborn
    accounts = Accounts(sql, Cost(log2_n=4, p=1))
    person = accounts.add("ada", PASSWORD)
    kept = new_id()
    body = question(stream=True, llmops={"session_id": kept})
    with signed_in(server) as client:
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            lines = answer.iter_lines()
            first = next(line for line in lines if "content" in line)
            assert gate.reached.wait(60)
            ended(accounts, sql, person.person_id)
            rest = [orjson.loads(line[6:]) for line in lines if line.startswith("data: {")]
        assert first
        assert rest[-1]["error"]["code"] == "sign_in_needed"
        assert session(client) == 401
    row = eventually(server.log)[0]
    assert (row["status_code"], row["error_class"]) == (401, "UnauthenticatedError")
    [turn] = Conversations(sql).read(Kept(person.principal_id, kept)).turns
    assert (turn.status, bool(turn.body["answer"])) == ("failed", True)


def test_an_answer_ends_with_the_key_that_asked_for_it(slow: tuple[Running, Sql], gate: Gate) -> None:
    server, _ = slow
    ours = KEYS._known.copy()
    with (
        server.client(headers={"authorization": "Bearer lk_one"}) as program,
        program.stream("POST", "/v1/chat/completions", json=question(stream=True)) as answer,
    ):
        lines = answer.iter_lines()
        next(line for line in lines if "content" in line)
        assert gate.reached.wait(60)
        del KEYS._known["lk_one"]
        try:
            rest = [orjson.loads(line[6:]) for line in lines if line.startswith("data: {")]
        finally:
            KEYS._known.update(ours)
    assert rest[-1]["error"]["message"].startswith("the key is not valid")
    assert server.log()[0]["status_code"] == 401


def test_a_database_that_does_not_answer_for_a_moment_ends_no_answer(
    slow: tuple[Running, Sql], gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, sql = slow
    Accounts(sql, Cost(log2_n=4, p=1)).add("ada", PASSWORD)
    asked = threading.Event()

    def away(*_: Any) -> None:
        asked.set()
        raise UnavailableError("the database does not answer")

    with (
        signed_in(server) as client,
        client.stream("POST", "/v1/chat/completions", json=question(stream=True)) as answer,
    ):
        lines = answer.iter_lines()
        next(line for line in lines if "content" in line)
        with monkeypatch.context() as patch:
            patch.setattr("llmops.core.people.sessions.SignIns.read", away)
            assert asked.wait(60)
        gate.open.set()
        assert list(lines)[-2] == "data: [DONE]"


# --- in every browser


def test_signing_out_everywhere_ends_every_browser_and_nobody_elses(place: Place) -> None:
    browsers = [place.signed_in("everywhere") for _ in range(3)]
    with place.signed_in("somebody-else") as other:
        assert browsers[0].post("/auth/sign-out?everywhere=1").status_code == 200
        assert [session(browser) for browser in browsers] == [401, 401, 401]
        assert session(other) == 200
    again = place.signed_in("everywhere")
    stale = browsers[1].post("/auth/sign-out?everywhere=1")  # whoever is signed out already ends nothing
    assert stale.status_code == 200
    assert session(again) == 200
    for browser in (*browsers, again):
        browser.close()


def test_whoever_signs_out_here_can_do_nothing_with_an_older_cookie(place: Place) -> None:
    with place.signed_in("older") as browser, place.browser() as thief:
        thief.cookies.set(*cookie_of(browser))
        browser.post("/auth/sign-out?everywhere=1")
        assert session(thief) == 401
        assert thief.get("/v1/conversations").status_code == 401


# --- at the provider


def test_a_session_that_ends_at_the_provider_ends_here_in_every_browser(place: Place, provider: OidcProvider) -> None:
    provider.person = {"sub": "roaming", "preferred_username": "roaming"}
    with place.browser() as one, place.browser() as two, place.server.client() as other_side:
        for browser in (one, two):
            assert place.through_provider(browser).status_code == 303
        told = other_side.post("/auth/ended", data={"logout_token": provider.logout_token(sub="roaming", sid="s1")})
        assert (told.status_code, told.headers["cache-control"]) == (200, "no-store")
        assert session(one) == session(two) == 401
        assert place.through_provider(one).status_code == 303  # and they may come back


NO_EVENT = {"events": {"http://schemas.openid.net/event/something-else": {}}}


@pytest.mark.parametrize(
    "changed",
    [
        {"sub": None, "sid": "s1"}, {"sub": 7}, {"nonce": "x"}, NO_EVENT, {"events": None}, {"events": "x"},
        {"aud": "another"}, {"iss": "https://evil.example"}, {"exp": 1}, {"exp": None}, {"jti": None},
        {"iat": 99_999_999_999},
    ],
)  # fmt: skip
def test_only_the_providers_own_word_ends_a_sign_in(
    place: Place, provider: OidcProvider, changed: dict[str, Any]
) -> None:
    provider.person = {"sub": "staying", "preferred_username": "staying"}
    with place.browser() as browser, place.server.client() as other_side:
        assert place.through_provider(browser).status_code == 303
        for token in (
            provider.logout_token(**{"sub": "staying", **changed}), provider.tokens[-2], "x.y.z", "",
        ):  # fmt: skip
            told = other_side.post("/auth/ended", data={"logout_token": token})
            assert (told.status_code, told.json()["error"]) == (400, "invalid_request")
        provider.signing_key = key("two")  # which the provider does not show
        assert other_side.post("/auth/ended", data={"logout_token": provider.logout_token(sub="staying")}).is_error
        assert session(browser) == 200
    assert person_id_of(provider.issuer, "staying") != person_id_of("https://evil.example", "staying")


# --- conversations past their days


def test_conversations_past_their_days_go_every_hour(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert history_module.TIDY_S == 3600
    monkeypatch.setattr(history_module, "TIDY_S", 0.05)
    looks: list[timedelta] = []
    whole = Conversations.remove_older

    def looking(self: Conversations, age: timedelta) -> int:
        looks.append(age)
        if len(looks) == 1:
            raise UnavailableError("the database does not answer")  # a bad hour ends nothing
        return whole(self, age)

    monkeypatch.setattr(Conversations, "remove_older", looking)
    with (
        running(tmp_path, sign_in=SignInConfig(), history=HistoryConfig(days=30)) as server,
        open_sql(server.config.state) as sql,
    ):
        kept = Conversations(sql)
        for name, age in (("old", 31), ("young", 29)):
            place_of_it = Kept("person:ada", new_id())
            kept.begin(Begun(new_id(), place_of_it, None, "chat", name))
            mine = CONVERSATIONS.c.conversation_id == place_of_it.conversation_id
            with sql.begin() as connection:
                long_ago = datetime.now(UTC) - timedelta(days=age)
                connection.execute(update(CONVERSATIONS).where(mine).values(updated_at=long_ago))
        eventually(lambda: [one.title for one in kept.list("person:ada")] == ["young"], 60)
        assert set(looks) == {timedelta(days=30)}
