"""What somebody hostile tries at a server that people sign in to."""

from __future__ import annotations

import logging
import re
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, update
from tests.serving.sign_in.conftest import PASSWORD, Place, by_password
from tests.support.oidc_provider import OidcProvider
from tests.support.serving import question

from llmops.core.errors import ConfigError, DeniedError
from llmops.core.people.tables import PEOPLE, SIGN_INS, TRIES
from llmops.serving.config import ServeConfig, refuse_open_door
from llmops.serving.sign_in.claims import groups_of, require_admitted
from llmops.serving.sign_in.config import OidcConfig, SignInConfig
from llmops.serving.sign_in.routes import own_path


@pytest.fixture(autouse=True)
def _no_tries(place: Place) -> None:
    with place.sql.begin() as connection:
        connection.execute(TRIES.delete())


def cookie_of(browser: httpx.Client) -> tuple[str, str]:
    [cookie] = [cookie for cookie in browser.cookies.jar if "person" in cookie.name]
    return cookie.name, str(cookie.value)


def session(browser: httpx.Client, **headers: str) -> int:
    return browser.post("/v1/session", json={}, headers=headers).status_code


# --- who is nobody


def test_nobody_is_anonymous_where_people_sign_in(place: Place) -> None:
    with place.browser() as browser:
        for method, path in (
            ("POST", "/v1/chat/completions"), ("POST", "/v1/session"), ("GET", "/v1/models"), ("GET", "/metrics"),
            ("GET", "/v1/conversations"), ("GET", "/v1/passages?model=chat&uri=a&start=0&end=1"),
            ("POST", "/v1/feedback"),
        ):  # fmt: skip
            answer = browser.request(method, path, json=question() if method == "POST" else None)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "sign_in_needed"), path
        assert browser.get("/").status_code == browser.get("/healthz").status_code == 200
        assert session(browser, authorization="Bearer some-word") == 401
        assert session(browser, authorization="Bearer lk_one") == 200  # programs go on with their keys


def test_a_program_has_no_history(place: Place) -> None:
    with place.server.client(headers={"authorization": "Bearer lk_one"}) as program:
        assert program.get("/v1/conversations").json()["error"]["code"] == "no_history"
        assert program.get(f"/v1/shared/{'x' * 43}").status_code == 403


# --- cookies


def test_a_cookie_has_every_flag(place: Place, provider: OidcProvider) -> None:
    place.accounts.add("flags", PASSWORD)
    with place.browser() as browser:
        cookies = [
            *by_password(browser, "flags").headers.get_list("set-cookie"),
            *browser.get("/auth/provider").headers.get_list("set-cookie"),
            *browser.post("/auth/sign-out").headers.get_list("set-cookie"),
        ]
    assert len(cookies) == 3
    for cookie in cookies:
        flags = {part.strip().lower() for part in cookie.split(";")[1:]}
        assert {"httponly", "samesite=lax", "path=/"} <= flags
        assert not any(flag.startswith("domain") for flag in flags)


def test_over_https_a_cookie_is_bound_to_this_host(tmp_path_factory: pytest.TempPathFactory) -> None:
    from llmops.core.sql import open_sql
    from llmops.core.state import StateConfig
    from llmops.serving.sign_in.reception import Reception

    with open_sql(StateConfig(dir=tmp_path_factory.mktemp("https"))) as sql:
        reception = Reception(SignInConfig(public_url="https://chat.example.org"), sql, b"x" * 32)
    assert (reception.cookie, reception.attempt_cookie) == ("__Host-llmops_person", "__Host-llmops_way")


def test_a_cookie_that_was_put_there_before_is_worth_nothing_after(place: Place) -> None:
    """Session fixation: whoever knows the browser's old cookie must not come in with its person."""
    place.accounts.add("fixed", PASSWORD)
    with place.signed_in("mallory") as attacker, place.browser() as victim:
        planted = cookie_of(attacker)
        victim.cookies.set(*planted)
        assert by_password(victim, "fixed").status_code == 303
        fresh = [c.value for c in victim.cookies.jar if c.name == planted[0] and c.value != planted[1]]
        assert len(fresh) == 1
        assert session(attacker) == 401  # what it replaced is ended, too


def test_a_cookie_ends_with_its_sign_out_also_where_it_was_stolen(place: Place) -> None:
    with place.signed_in("stolen") as browser, place.browser() as thief:
        thief.cookies.set(*cookie_of(browser))
        assert session(thief) == 200
        browser.post("/auth/sign-out")
        assert session(thief) == session(browser) == 401


@pytest.mark.parametrize("end", ["disabled", "password", "expired", "idle", "gone"])
def test_a_cookie_ends_with_what_it_stands_for(place: Place, end: str) -> None:
    with place.signed_in(f"ended-{end}") as browser:
        assert session(browser) == 200
        person = place.accounts.named(f"ended-{end}")
        mine = SIGN_INS.c.person_id == person.person_id
        long_ago = datetime.now(UTC) - timedelta(days=2)
        if end == "disabled":
            place.accounts.set_disabled(person.person_id, True)
        elif end == "password":
            place.accounts.set_password(person.person_id, PASSWORD + "!")
        with place.sql.begin() as connection:
            if end == "expired":
                connection.execute(update(SIGN_INS).where(mine).values(ends_at=long_ago))
            elif end == "idle":
                connection.execute(update(SIGN_INS).where(mine).values(used_at=long_ago))
            elif end == "gone":
                connection.execute(PEOPLE.delete().where(PEOPLE.c.person_id == person.person_id))
        assert session(browser) == 401


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=';,"\\'), max_size=300))
@example("x" * 43)
@example("a.b.c")
def test_a_made_up_cookie_is_nobody(place: Place, value: str) -> None:
    with place.signed_in("real") as browser:
        name, real = cookie_of(browser)
    with place.browser() as browser:
        for one in (value, real[:-1] + ("A" if real[-1] != "A" else "B"), real.swapcase()):
            assert session(browser, cookie=f"{name}={one}") == 401


# --- requests that others make in somebody's browser


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:1"},
        {},
        {"sec-fetch-site": "same-origin"},
        {"referer": "http://localhost/"},
    ],
)
def test_a_cookie_alone_changes_nothing(place: Place, headers: dict[str, str]) -> None:
    with place.signed_in("careful") as browser:
        kept = str(uuid.uuid4())
        asked = browser.post("/v1/chat/completions", json=question(llmops={"session_id": kept}))
        assert asked.status_code == 200
        name, value = cookie_of(browser)
    with place.server.client(headers={"cookie": f"{name}={value}", **headers}) as forged:
        for method, path in (
            ("POST", "/v1/chat/completions"), ("POST", "/v1/feedback"), ("DELETE", "/v1/conversations"),
            ("DELETE", f"/v1/conversations/{kept}"), ("PATCH", f"/v1/conversations/{kept}"),
            ("POST", f"/v1/conversations/{kept}/share"), ("POST", "/auth/sign-out"), ("POST", "/auth/sign-in"),
        ):  # fmt: skip
            answer = forged.request(method, path, json=question() if method == "POST" else None)
            assert answer.status_code == 403, (method, path, answer.text)
            assert answer.json()["error"]["code"] in ("unguarded", "foreign_origin")
        assert forged.get(f"/v1/conversations/{kept}").status_code in (200, 403)  # reading changes nothing
        assert forged.get("/auth/sign-out").status_code in (403, 405)
    with place.server.client(headers={"cookie": f"{name}={value}", "x-llmops-control": "1"}) as program:
        assert program.get(f"/v1/conversations/{kept}").status_code == 200
        assert program.delete(f"/v1/conversations/{kept}").status_code == 200


@pytest.mark.parametrize(
    "wanted",
    [
        "https://evil.example", "//evil.example", "///evil.example", "/\\evil.example", "\\\\evil.example",
        "/\t/evil.example", "/\n/evil.example", "javascript:alert(1)", "evil.example", "http:evil.example",
        "/%0d%0aset-cookie:x", "/auth/sign-out", "", "/a b", "/\u2028x", "/" + "x" * 3000,
    ],
)  # fmt: skip
def test_nobody_is_led_elsewhere(place: Place, provider: OidcProvider, wanted: str) -> None:
    place.signed_in("led").close()
    with place.browser() as browser:
        assert leads_home(by_password(browser, "led", wanted=wanted).headers["location"])
        assert leads_home(place.through_provider(browser, wanted).headers["location"])
        page = browser.get("/auth/sign-in", params={"next": wanted}).text
        [kept] = re.findall(r'name="next" value="([^"]*)"', page)
        assert leads_home(kept)


def leads_home(location: str) -> bool:
    """Whether a browser stays: an address like `//host` or `/\\host` leads to another server."""
    return re.fullmatch(r"/(?![/\\])[^\s\\]*", location) is not None and len(location) < 2100


@given(st.text(max_size=40) | st.from_regex(r"/[/\\:.@a-z\t ]{0,12}", fullmatch=True))
def test_a_wanted_path_stays_here(wanted: str) -> None:
    assert leads_home(own_path(wanted))


@pytest.mark.parametrize("path", ["/", "/registry/assets/dev.docs.chat?x=1&y=2#z", "/?shared=abc"])
def test_where_one_wanted_to_go_is_reached(path: str) -> None:
    assert own_path(path) == path


# --- passwords


def test_a_wrong_name_and_a_wrong_password_look_the_same(place: Place) -> None:
    place.accounts.add("known", PASSWORD)
    shut = place.accounts.add("shut", PASSWORD)
    place.accounts.set_disabled(shut.person_id, True)
    with place.browser() as browser:
        pages = [
            by_password(browser, name, word)
            for name, word in (("known", "wrong password"), ("unknown", PASSWORD), ("shut", PASSWORD))
        ]
    assert {page.status_code for page in pages} == {401}
    alerts = {re.search(r'role="alert"><p>([^<]*)<', page.text)[1] for page in pages}  # type: ignore[index]
    assert alerts == {"Name or password is wrong."}


def test_guessing_ends_soon_and_the_right_password_waits_too(place: Place) -> None:
    place.accounts.add("guessed", PASSWORD)
    with place.browser() as browser:
        answers = [by_password(browser, "guessed", f"wrong {n} password").status_code for n in range(7)]
        assert answers == [401] * 5 + [429] * 2
        assert by_password(browser, "guessed").status_code == 429
        assert by_password(browser, "flags-of-another").status_code == 401


def test_what_is_typed_comes_back_as_text(place: Place) -> None:
    hostile = '"><script>alert(1)</script>'
    with place.browser() as browser:
        page = by_password(browser, hostile, hostile, f"/?{hostile}")
    assert "<script>" not in page.text
    assert PASSWORD not in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
    assert page.headers["cache-control"] == "no-store"


# --- what is written down


def test_no_log_and_no_table_shows_a_secret(
    place: Place, provider: OidcProvider, caplog: pytest.LogCaptureFixture
) -> None:
    place.accounts.add("quiet", PASSWORD)
    secrets = [PASSWORD, "a wrong password"]
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, "llmops"), place.browser() as browser:
        by_password(browser, "quiet", "a wrong password")
        by_password(browser, "quiet")
        secrets.append(cookie_of(browser)[1])
        out = browser.get("/auth/provider")
        secrets += [str(cookie.value) for cookie in browser.cookies.jar if "way" in cookie.name]
        back = httpx.get(out.headers["location"], trust_env=False, timeout=60)
        browser.get(back.headers["location"])
        secrets.append(cookie_of(browser)[1])
        secrets += [*provider.codes, *provider.tokens]
        browser.get(f"/auth/callback?code={'c' * 30}&state=s")
        browser.post("/auth/sign-out")
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("llmops"))
    assert "signed in" in ours
    with place.sql.read() as connection:
        tables = "".join(str(connection.execute(select(table)).all()) for table in (PEOPLE, SIGN_INS, TRIES))
    database = (place.server.config.state.root / "state.db").read_bytes()
    for secret in secrets:
        assert secret not in ours
        assert secret not in tables
        assert secret.encode() not in database


# --- configuration


@pytest.mark.parametrize("url", [None, "http://localhost:8000"])
def test_a_public_address_needs_https_for_people(url: str | None) -> None:
    config = ServeConfig(host="192.0.2.1", sign_in=SignInConfig(public_url=url))
    with pytest.raises(ConfigError, match="go over the network as they are"):
        refuse_open_door(config)
    good = ServeConfig(host="0.0.0.0", sign_in=SignInConfig(public_url="https://chat.example.org"))
    refuse_open_door(good)
    assert good.names == ("chat.example.org",)
    with pytest.raises(ValueError, match="https://"):
        SignInConfig(public_url="http://chat.example.org")


def test_the_shipped_configuration_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmops.cli.jobs import serve_job

    config = serve_job(Path("configs/serve-people.yaml"), ()).value
    refuse_open_door(config)
    assert config.sign_in is not None
    assert config.sign_in.oidc is not None
    assert config.sign_in.secure
    assert config.sign_in.with_accounts
    claims = {"realm_access": {"roles": ["human-resources", "platform-team", "unknown"]}}
    assert groups_of(claims, config.sign_in.oidc) == {"hr", "platform"}
    with pytest.raises(DeniedError):
        require_admitted(claims, frozenset({"hr", "platform"}), config.sign_in.oidc)


@pytest.mark.parametrize(
    ("claims", "let_in"),
    [
        ({"email": "a@example.org", "email_verified": True}, True),
        ({"email": "a@EXAMPLE.org", "email_verified": True}, True),
        ({"email": "a@example.org"}, False),
        ({"email": "a@example.org", "email_verified": "true"}, False),
        ({"email": "a@evil.example.org", "email_verified": True}, False),
        ({"email": "a@example.org@evil.example", "email_verified": True}, False),
        ({}, False),
    ],
)
def test_only_verified_addresses_of_the_domain_come_in(claims: dict[str, object], let_in: bool) -> None:
    config = OidcConfig(issuer="https://id.example.org", client_id="x", email_domains=("@Example.org",))
    if let_in:
        require_admitted(claims, frozenset(), config)
        return
    with pytest.raises(DeniedError, match="your address"):
        require_admitted(claims, frozenset(), config)
