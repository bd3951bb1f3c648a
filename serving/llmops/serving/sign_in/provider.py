"""A provider of identities, as OpenID Connect knows it: where to send a browser, and what its answer proves.

Knows the wire and what must hold of an identity token. Which groups that makes is `claims`'; cookies are `routes`'.
Nothing here logs, and no error shows a code, a token or a secret.

Source: OpenID Connect Core 1.0, Discovery 1.0, RP-Initiated Logout 1.0; RFC 7636 (PKCE); RFC 9207 (`iss`).
"""

from __future__ import annotations

import hmac
import threading
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

import httpx
import orjson

from llmops.core.errors import UnauthenticatedError, UpstreamError
from llmops.core.secret import resolve_secret
from llmops.serving.sign_in.attempts import Attempt
from llmops.serving.sign_in.config import OidcConfig, _web_address

TIMEOUT_S: Final = 10.0
MOST_BYTES: Final = 1_000_000
FRESH_S: Final = 3600.0
"""How long the provider's description and keys are believed; an unknown key is looked for at once."""
LOOK_AGAIN_S: Final = 5.0
"""Tokens with unknown keys make the keys be fetched no more often than this."""

ENDED: Final = "http://schemas.openid.net/event/backchannel-logout"
"""The event that a logout token tells of. Source: OpenID Connect Back-Channel Logout 1.0, 2.4."""


class Provider:
    """One configured provider. Thread-safe; every method may wait for the network.

    Raises, everywhere:
        UpstreamError: the provider does not answer, or not as it should.
    """

    def __init__(self, config: OidcConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._described: dict[str, Any] = {}
        self._described_until = 0.0
        self._keys: list[dict[str, Any]] = []
        self._keys_from = -FRESH_S

    def authorize_url(self, attempt: Attempt, redirect_uri: str) -> str:
        """Where a browser goes to sign in."""
        asked = {
            "response_type": "code", "client_id": self._config.client_id, "redirect_uri": redirect_uri,
            "scope": " ".join(self._config.scopes), "state": attempt.state, "nonce": attempt.nonce,
            "code_challenge": attempt.challenge, "code_challenge_method": "S256",
        }  # fmt: skip
        return _with_query(self._endpoint("authorization_endpoint"), asked)

    def end_url(self, hint: str | None, back: str) -> str | None:
        """Where a browser goes to sign out there, too; None where the provider offers no such thing."""
        if "end_session_endpoint" not in self._description():
            return None
        asked = {"client_id": self._config.client_id, "post_logout_redirect_uri": back}
        return _with_query(
            self._endpoint("end_session_endpoint"), {**asked, **({"id_token_hint": hint} if hint else {})}
        )

    def redeem(
        self, code: str, attempt: Attempt, redirect_uri: str, said_issuer: str | None
    ) -> tuple[str, dict[str, Any]]:
        """The identity token that a code stands for, and its claims, every one of them checked.

        Raises:
            UnauthenticatedError: the code or the token proves nothing.
        """
        required = self._description().get("authorization_response_iss_parameter_supported") is True
        if said_issuer != self._config.issuer and (required or said_issuer is not None):
            raise _unproven("the answer is another provider's")
        answer = self._exchange(code, attempt, redirect_uri)
        token = answer.get("id_token")
        if not isinstance(token, str):
            raise UpstreamError("the provider sent no identity token", where=self._config.issuer)
        claims = self._checked(token, attempt)
        access = answer.get("access_token")
        if self._config.userinfo and isinstance(access, str):
            claims = {**self._userinfo(access, claims["sub"]), **claims}
        return token, claims

    def ended(self, logout_token: str) -> tuple[str, str]:
        """(issuer, subject) of whose session at the provider has ended, as it tells us itself.

        A token that names a session and nobody's subject is refused: which browser that is, is not kept here.

        Raises:
            UnauthenticatedError: the token proves nothing, or names nobody.
        """
        claims = self._signed(logout_token, ["iss", "aud", "exp", "iat", "jti", "events"])
        events = claims["events"]
        if not isinstance(events, dict) or ENDED not in events or "nonce" in claims:
            raise _unproven("the token is not about a session's end")
        _require_somebody(claims)
        return self._config.issuer, claims["sub"]

    def _exchange(self, code: str, attempt: Attempt, redirect_uri: str) -> dict[str, Any]:
        form = {
            "grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri,
            "code_verifier": attempt.verifier, "client_id": self._config.client_id,
        }  # fmt: skip
        auth = None
        if self._config.client_secret is not None:
            secret = resolve_secret(self._config.client_secret)
            if "client_secret_basic" in self._description().get(
                "token_endpoint_auth_methods_supported", ["client_secret_basic"]
            ):
                auth = httpx.BasicAuth(quote(self._config.client_id, safe=""), quote(secret, safe=""))
            else:
                form["client_secret"] = secret
        status, answer = self._call("POST", self._endpoint("token_endpoint"), form=form, auth=auth)
        if status in (400, 401):
            raise _unproven(f"the provider refused the code ({_word(answer.get('error'))})")
        if status != 200:
            raise UpstreamError(f"the provider answered {status} to the code", where=self._config.issuer)
        return answer

    def _checked(self, token: str, attempt: Attempt) -> dict[str, Any]:
        """The claims of an identity token that is this provider's, for us, of this attempt, and valid now."""
        claims = self._signed(token, ["iss", "sub", "aud", "exp", "iat", "nonce"])
        several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
        if claims.get("azp", self._config.client_id if not several else None) != self._config.client_id:
            raise _unproven("the identity token was made for another client")
        if not hmac.compare_digest(str(claims["nonce"]).encode(), attempt.nonce.encode()):
            raise _unproven("the identity token belongs to another sign-in")
        _require_somebody(claims)
        return claims

    def _signed(self, token: str, required: list[str]) -> dict[str, Any]:
        """The claims of a token that this provider signed for us and that is valid now."""
        import jwt

        try:
            key = self._key_for(jwt.get_unverified_header(token))
            claims: dict[str, Any] = jwt.decode(
                token, key, algorithms=list(self._config.algorithms), audience=self._config.client_id,
                issuer=self._config.issuer, leeway=self._config.leeway_s, options={"require": required},
            )  # fmt: skip
        except jwt.PyJWTError as error:
            raise _unproven(f"the provider's token does not hold ({type(error).__name__})") from None
        return claims

    def _key_for(self, header: Mapping[str, Any]) -> Any:
        """The provider's key for a token; an unknown one makes the keys be fetched again, since they are changed."""
        import jwt

        algorithm = header.get("alg")
        if algorithm not in self._config.algorithms:
            raise _unproven(f"the identity token is signed by `{_word(algorithm)}`, which does not count here")
        found = self._matching(header, self._known_keys(FRESH_S)) or self._matching(
            header, self._known_keys(LOOK_AGAIN_S)
        )
        if len(found) != 1:
            raise _unproven("the identity token is signed with no key of the provider's")
        return jwt.PyJWK(found[0], algorithm=algorithm)

    def _matching(self, header: Mapping[str, Any], keys: list[dict[str, Any]]) -> list[dict[str, Any]]:
        kind = {"R": "RSA", "P": "RSA", "E": "EC"}[header["alg"][0]] if header["alg"] != "EdDSA" else "OKP"
        wanted = {"kty": kind, "use": "sig", "alg": header["alg"]}
        fitting = [key for key in keys if all(key.get(name, value) == value for name, value in wanted.items())]
        return fitting if "kid" not in header else [key for key in fitting if key.get("kid") == header["kid"]]

    def _known_keys(self, age_s: float) -> list[dict[str, Any]]:
        address = self._endpoint("jwks_uri")
        with self._lock:
            if time.monotonic() - self._keys_from >= age_s:
                status, answer = self._call("GET", address)
                keys = answer.get("keys")
                if status != 200 or not isinstance(keys, list):
                    raise UpstreamError("the provider does not show its keys", where=self._config.issuer)
                self._keys, self._keys_from = [key for key in keys if isinstance(key, dict)], time.monotonic()
            return self._keys

    def _userinfo(self, access_token: str, subject: str) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {access_token}"}
        status, answer = self._call("GET", self._endpoint("userinfo_endpoint"), headers=headers)
        if status != 200 or answer.get("sub") != subject:
            raise _unproven("the provider tells of somebody else than its token")
        return answer

    def _endpoint(self, name: str) -> str:
        address = self._description().get(name)
        try:
            return _web_address(str(address).partition("?")[0]) and str(address)
        except ValueError:
            raise UpstreamError(f"the provider has no usable {name}", where=self._config.issuer) from None

    def _description(self) -> dict[str, Any]:
        with self._lock:
            if time.monotonic() >= self._described_until:
                issuer = self._config.issuer
                status, found = self._call("GET", f"{issuer.rstrip('/')}/.well-known/openid-configuration")
                if status != 200 or found.get("issuer") != issuer:
                    what = f"answered {status}" if status != 200 else f"calls itself `{str(found.get('issuer'))[:200]}`"
                    raise UpstreamError(
                        f"the provider {what}", where=issuer, hint="`sign_in.oidc.issuer` is to be as it writes itself"
                    )
                self._described, self._described_until = found, time.monotonic() + FRESH_S
            return self._described

    def _call(
        self, method: str, url: str, *, form: dict[str, str] | None = None, auth: httpx.Auth | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, dict[str, Any]]:  # fmt: skip
        """(status, JSON object): bounded in time and size, redirects not followed."""
        sent = {"accept": "application/json", **(headers or {})}
        try:
            with (
                httpx.Client(timeout=TIMEOUT_S) as client,
                client.stream(method, url, data=form, auth=auth, headers=sent) as answer,
            ):
                body = b""
                for block in answer.iter_bytes():
                    body += block
                    if len(body) > MOST_BYTES:
                        raise UpstreamError("the provider answers without end", where=self._config.issuer)
                value = orjson.loads(body) if body else {}
        except (httpx.HTTPError, orjson.JSONDecodeError) as error:
            what = f"the provider does not answer as it should ({type(error).__name__})"
            raise UpstreamError(what, where=self._config.issuer, hint="try again in a moment") from None
        return answer.status_code, value if isinstance(value, dict) else {}


def _require_somebody(claims: Mapping[str, Any]) -> None:
    if not isinstance(claims.get("sub"), str) or not 0 < len(claims["sub"]) <= 255:
        raise _unproven("the provider's token names nobody")


def _unproven(why: str) -> UnauthenticatedError:
    return UnauthenticatedError(why, code="not_proven", hint="sign in again")


def _with_query(address: str, query: Mapping[str, str]) -> str:
    return f"{address}{'&' if '?' in address else '?'}{urlencode(query)}"


def _word(value: Any) -> str:
    """A provider's error code, as far as it is one."""
    word = str(value)[:40]
    return word if word.replace("_", "").isalnum() and word.isascii() else "no reason given"
