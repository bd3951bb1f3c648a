"""Signing in at a provider: the way it works, and every way in which an answer proves nothing."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.serving.sign_in.conftest import Place
from tests.support.oidc_provider import CLIENT, SECRET, OidcProvider, key

from llmops.core.errors import UnauthenticatedError
from llmops.core.people.accounts import person_id_of
from llmops.serving.sign_in import provider as provider_module
from llmops.serving.sign_in.attempts import Attempt, Attempts
from llmops.serving.sign_in.claims import groups_of, name_of
from llmops.serving.sign_in.config import OidcConfig
from llmops.serving.sign_in.provider import Provider

BACK = "http://localhost:1/auth/callback"


def who(browser: httpx.Client) -> str | None:
    """The name the server knows this browser's person by."""
    answer = browser.post("/v1/session", json={})
    return answer.json()["person"]["name"] if answer.status_code == 200 else None


def groups_at(place: Place, provider: OidcProvider, subject: str) -> frozenset[str]:
    """The groups of whoever the provider knows by this subject."""
    [person] = [one for one in place.accounts.list() if one.person_id == person_id_of(provider.issuer, subject)]
    return person.groups


def begun(browser: httpx.Client) -> str:
    """Where the provider sends a browser back to that went there."""
    out = browser.get("/auth/provider").headers["location"]
    return str(httpx.get(out, trust_env=False, timeout=60).headers["location"])


def test_a_person_signs_in_and_out(place: Place, provider: OidcProvider) -> None:
    provider.person = {"sub": "1", "preferred_username": "ada", "groups": ["board", "not a group!"]}
    with place.browser() as browser:
        assert who(browser) is None
        back = place.through_provider(browser, "/registry/assets?x=1")
        assert back.status_code == 303
        assert back.headers["location"] == "/registry/assets?x=1"
        assert who(browser) == "ada"
        assert groups_at(place, provider, "1") == {"board"}

        said = browser.post("/auth/sign-out", headers={"accept": "application/json"}).json()
        assert who(browser) is None
        end = httpx.get(said["next"], trust_env=False, timeout=60)
    assert end.headers["location"] == f"{place.server.url}/auth/signed-out"
    [ended] = provider.ended
    assert ended["client_id"] == CLIENT
    assert ended["kept"] == "1"
    assert ended["id_token_hint"] in provider.tokens
    assert provider.refusals == []


def test_the_same_person_comes_back_with_other_groups(place: Place, provider: OidcProvider) -> None:
    for groups in (["hr"], ["board"]):
        provider.person = {"sub": "2", "email": "grace@example.org", "groups": groups}
        with place.browser() as browser:
            assert place.through_provider(browser).status_code == 303
    assert groups_at(place, provider, "2") == {"board"}


def test_whoever_is_shut_out_stays_out(place: Place, provider: OidcProvider) -> None:
    provider.person = {"sub": "3", "name": "Mallory"}
    with place.browser() as browser:
        place.through_provider(browser)
        [person] = [person for person in place.accounts.list() if person.name == "Mallory"]
        place.accounts.set_disabled(person.person_id, True)
        assert who(browser) is None
        back = place.through_provider(browser)
    assert back.status_code == 401
    assert "This account is shut" in back.text


def forged(header: dict[str, Any], claims: dict[str, Any], secret: bytes | None) -> str:
    """A token put together by hand, since libraries refuse to."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, claims)]
    seal = hmac.new(secret, b".".join(parts), sha256).digest() if secret else b""
    return b".".join([*parts, base64.urlsafe_b64encode(seal).rstrip(b"=")]).decode()


def forge_none(claims: dict[str, Any]) -> str:
    return forged({"alg": "none", "kid": "one"}, claims, None)


def forge_with_public_key(claims: dict[str, Any]) -> str:
    """Signed with the provider's public key as if it were a shared secret."""
    public = key("one").private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return forged({"alg": "HS256", "kid": "one"}, claims, public)


def sign_with(kid: str, named: str | None) -> Callable[[dict[str, Any]], str]:
    headers = {"kid": named} if named else None
    return lambda claims: jwt.encode(claims, key(kid).private, "RS256", headers=headers)


def setting(**changed: Any) -> Callable[[dict[str, Any]], None]:
    return lambda claims: claims.update(changed)


def without(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda claims: claims.pop(name)


BAD_CLAIMS = {
    "another client": setting(aud="somebody else"),
    "no audience": without("aud"),
    "several clients, made for another": setting(aud=[CLIENT, "other"], azp="other"),
    "several clients, made for nobody": setting(aud=[CLIENT, "other"]),
    "another issuer": setting(iss="https://evil.example"),
    "expired": setting(exp=int(time.time()) - 61),
    "no end": without("exp"),
    "not yet": setting(nbf=int(time.time()) + 86_400),
    "made in the future": setting(iat=int(time.time()) + 86_400),
    "another nonce": setting(nonce="other"),
    "no nonce": without("nonce"),
    "nobody": without("sub"),
    "a number": setting(sub=7),
    "a subject without end": setting(sub="x" * 256),
}
BAD_SIGNATURES = {
    "not signed": forge_none,
    "signed by the public key": forge_with_public_key,
    "a key of somebody else": sign_with("two", "one"),
    "a key the provider does not show": sign_with("two", "two"),
    "no key named, and another's": sign_with("two", None),
    "no token at all": lambda _claims: "x.y.z",
}


@pytest.mark.parametrize("change", BAD_CLAIMS.values(), ids=BAD_CLAIMS)
def test_a_token_that_proves_nothing_lets_nobody_in(
    place: Place, provider: OidcProvider, change: Callable[[dict[str, Any]], None]
) -> None:
    provider.change = change
    refused(place)


@pytest.mark.parametrize("sign", BAD_SIGNATURES.values(), ids=BAD_SIGNATURES)
def test_a_token_that_the_provider_did_not_sign_lets_nobody_in(
    place: Place, provider: OidcProvider, sign: Callable[[dict[str, Any]], str]
) -> None:
    provider.sign = sign
    refused(place)


def refused(place: Place) -> None:
    with place.browser() as browser:
        back = place.through_provider(browser)
        assert back.status_code == 401, back.text
        assert 'role="alert"' in back.text
        assert [cookie for cookie in browser.cookies.jar if cookie.name.startswith("llmops_person")] == []
        assert who(browser) is None


def test_a_clock_that_is_a_little_off_does_no_harm(place: Place, provider: OidcProvider) -> None:
    provider.change = lambda claims: claims.update(exp=int(time.time()) - 20, iat=int(time.time()) + 20)
    with place.browser() as browser:
        assert place.through_provider(browser).status_code == 303


def test_a_changed_key_is_found_and_a_flood_of_unknown_ones_is_not_passed_on(
    place: Place, provider: OidcProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    with place.browser() as browser:
        assert place.through_provider(browser).status_code == 303
        provider.signing_key, provider.shown_keys = key("two"), [key("two")]
        assert place.through_provider(browser).status_code == 303
        monkeypatch.setattr(provider_module, "LOOK_AGAIN_S", 1800.0)
        provider.sign = sign_with("three", "three")
        fetches = provider.key_fetches
        for _ in range(5):
            assert place.through_provider(browser).status_code == 401
        assert provider.key_fetches == fetches


def test_a_code_signs_in_once(place: Place, provider: OidcProvider) -> None:
    with place.browser() as browser:
        out = browser.get("/auth/provider")
        way = dict(browser.cookies)
        back = httpx.get(out.headers["location"], trust_env=False, timeout=60).headers["location"]
        assert browser.get(back).status_code == 303
        for _ in range(2):  # whoever saw the address, and even the cookie of the way, comes too late
            with place.browser() as thief:
                thief.cookies.update(way)
                assert thief.get(back).status_code == 401
                assert who(thief) is None
    assert provider.refusals == ["code", "code"]


def test_an_answer_belongs_to_the_browser_that_asked(place: Place, provider: OidcProvider) -> None:
    with place.browser() as mine, place.browser() as theirs:
        back = begun(mine)
        assert theirs.get(back).status_code == 401  # no way begun there
        theirs.get("/auth/provider")
        assert theirs.get(back).status_code == 401  # another way begun there
        for cookie in ("x", "a.b.c.d", "\u00e9"):
            theirs.cookies.set("ignored", cookie.encode().hex())
        assert who(theirs) is None
        assert mine.get(back).status_code == 303


def test_an_issuer_in_the_answer_must_be_the_providers(place: Place, provider: OidcProvider) -> None:
    provider.answer_more = {"iss": "https://evil.example"}
    refused(place)
    provider.answer_more = {"iss": provider.issuer}
    with place.browser() as browser:
        assert place.through_provider(browser).status_code == 303


def test_whoever_declines_is_told(place: Place, provider: OidcProvider) -> None:
    provider.person = None
    refused(place)


def provider_of(provider: OidcProvider, folder: Path, **settings: Any) -> tuple[Provider, Attempt]:
    """A provider as a server knows it, and a way to it, begun."""
    (folder / "secret").write_text(SECRET)
    oidc = {"issuer": provider.issuer, "client_id": CLIENT, "client_secret": f"file:{folder / 'secret'}"}
    _, attempt = Attempts(b"x" * 32).begin("/")
    return Provider(OidcConfig(**{**oidc, **settings})), attempt


def claims_of(provider: Provider, attempt: Attempt) -> dict[str, Any]:
    """What the whole way to the provider and back proves."""
    out = provider.authorize_url(attempt, BACK)
    back = httpx.get(out, trust_env=False, timeout=60).headers["location"]
    [code] = parse_qs(urlsplit(back).query)["code"]
    return provider.redeem(code, attempt, BACK, None)[1]


def test_groups_may_stand_in_userinfo_and_the_token_counts_more(provider: OidcProvider, tmp_path: Path) -> None:
    provider.person = {"sub": "7", "email": "ada@example.org", "email_verified": True}
    provider.userinfo = {"sub": "7", "realm_access": {"roles": ["hr"]}, "email": "ada@evil.example", "name": "Ada"}
    ours, attempt = provider_of(provider, tmp_path, userinfo=True, groups_claim="realm_access.roles")
    claims = claims_of(ours, attempt)
    config = OidcConfig(issuer=provider.issuer, client_id=CLIENT, groups_claim="realm_access.roles")
    assert groups_of(claims, config) == {"hr"}
    assert (claims["email"], claims["name"]) == ("ada@example.org", "Ada")
    silent, attempt = provider_of(provider, tmp_path, groups_claim="realm_access.roles")
    assert groups_of(claims_of(silent, attempt), config) == frozenset()  # nobody asked for it


@pytest.mark.parametrize("said", [{"sub": "8", "groups": ["board"]}, {"groups": ["board"]}, {}])
def test_userinfo_of_somebody_else_lets_nobody_in(provider: OidcProvider, tmp_path: Path, said: dict[str, Any]) -> None:
    provider.person = {"sub": "7"}
    provider.userinfo = said
    ours, attempt = provider_of(provider, tmp_path, userinfo=True)
    with pytest.raises(UnauthenticatedError, match="somebody else"):
        claims_of(ours, attempt)


def test_the_secret_goes_where_the_provider_takes_it(provider: OidcProvider, tmp_path: Path) -> None:
    provider.posts_secret = True
    assert claims_of(*provider_of(provider, tmp_path))["sub"] == "ada"
    provider.posts_secret = False
    provider.described = {"token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"]}
    assert claims_of(*provider_of(provider, tmp_path))["sub"] == "ada"
    provider.described = {}  # says nothing: then it is Basic
    assert claims_of(*provider_of(provider, tmp_path))["sub"] == "ada"
    (tmp_path / "wrong").write_text("wrong")
    with pytest.raises(UnauthenticatedError, match="refused the code"):
        claims_of(*provider_of(provider, tmp_path, client_secret=f"file:{tmp_path / 'wrong'}"))
    assert provider.refusals == ["client"]


def test_an_unknown_key_costs_one_look_whoever_waits(
    provider: OidcProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider_module, "LOOK_AGAIN_S", 1800.0)
    ours, _ = provider_of(provider, tmp_path)
    begun = [Attempts(bytes([n]) * 32).begin("/")[1] for n in range(8)]
    assert claims_of(ours, begun[0])["sub"] == "ada"
    fetches = provider.key_fetches
    provider.signing_key, provider.shown_keys = key("two"), [key("one"), key("two")]
    ours._keys_from -= 1801.0  # so much later
    with ThreadPoolExecutor(4) as threads:
        assert [one["sub"] for one in threads.map(lambda each: claims_of(ours, each), begun[:4])] == ["ada"] * 4
    assert provider.key_fetches == fetches + 1
    provider.signing_key = key("one")  # the older one is still shown
    assert claims_of(ours, begun[4])["sub"] == "ada"
    provider.shown_keys = [key("two")]
    ours._keys_from -= provider_module.FRESH_S  # and no longer, an hour later
    with pytest.raises(UnauthenticatedError, match="no key of the provider's"):
        claims_of(ours, begun[5])
    assert provider.key_fetches == fetches + 2


@pytest.mark.parametrize(("off_s", "let_in"), [(200, True), (400, False), (-200, True), (-400, False)])
def test_clocks_may_differ_by_what_is_allowed(
    provider: OidcProvider, tmp_path: Path, *, off_s: int, let_in: bool
) -> None:
    def shifted(claims: dict[str, Any]) -> None:
        """A token that is issued now by the provider's clock, and good for a moment."""
        now = int(time.time()) + off_s
        claims.update(iat=now, nbf=now, exp=now + 1)

    provider.change = shifted
    ours, attempt = provider_of(provider, tmp_path, leeway_s=300.0)
    if let_in:
        assert claims_of(ours, attempt)["sub"] == "ada"
        return
    with pytest.raises(UnauthenticatedError, match="does not hold"):
        claims_of(ours, attempt)


def test_what_was_shown_once_is_worth_nothing_again(place: Place, provider: OidcProvider) -> None:
    """A state belongs to one attempt, an identity token to its nonce, also where both were good before."""
    with place.browser() as browser:
        first = begun(browser)
        way = dict(browser.cookies)
        assert browser.get(first).status_code == 303
        used = provider.tokens[-2]
        second = begun(browser)
        state = parse_qs(urlsplit(first).query)["state"][0]
        code = parse_qs(urlsplit(second).query)["code"][0]
        assert browser.get("/auth/callback", params={"state": state, "code": code}).status_code == 401
        provider.sign = lambda _claims: used
        assert place.through_provider(browser).status_code == 401
        provider.sign = None
        third = begun(browser)
        code = parse_qs(urlsplit(third).query)["code"][0]
    with place.browser() as thief:  # an older way with a fresh code: the verifier is another's
        thief.cookies.update(way)
        assert thief.get("/auth/callback", params={"state": state, "code": code}).status_code == 401
        assert who(thief) is None


@pytest.mark.parametrize(
    ("claims", "settings", "groups"),
    [
        ({"groups": ["a", "b c", 7, ""]}, {}, {"a"}),
        ({"groups": "a"}, {}, {"a"}),
        ({"groups": ["X", "y"]}, {"groups": {"X": "hr", "z": "board"}}, {"hr"}),
        ({"realm_access": {"roles": ["a"]}}, {"groups_claim": "realm_access.roles"}, {"a"}),
        ({"https://x.example/groups": ["a"]}, {"groups_claim": "https://x.example/groups"}, {"a"}),
        ({"realm_access": 1}, {"groups_claim": "realm_access.roles.more"}, set()),
        ({"groups": ["a"]}, {"groups_claim": None}, set()),
    ],
)
def test_groups_come_from_a_claim(claims: dict[str, Any], settings: dict[str, Any], groups: set[str]) -> None:
    assert groups_of(claims, OidcConfig(issuer="https://id.example", client_id="x", **settings)) == groups


def test_a_name_is_one_line_of_text() -> None:
    assert name_of({"preferred_username": "", "email": " a\n\u202eb \0 "}) == "a b"
    assert name_of({}) == "somebody"
