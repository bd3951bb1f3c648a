"""Where people become known: by password, or by what a provider says of them; and where they leave again.

It joins accounts, tries, sign-ins and provider, and knows neither HTTP nor HTML. Methods block: call them in a thread.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Final

from cryptography.fernet import Fernet, InvalidToken

from llmops.core.errors import UnauthenticatedError, UpstreamError
from llmops.core.people.accounts import Accounts, person_id_of
from llmops.core.people.passwords import is_right
from llmops.core.people.sessions import Proof, SignedIn, SignIns, new_token
from llmops.core.people.tries import Tries
from llmops.core.sql import Sql
from llmops.serving.sign_in.attempts import Attempts
from llmops.serving.sign_in.claims import groups_of, name_of, require_admitted
from llmops.serving.sign_in.config import SignInConfig
from llmops.serving.sign_in.provider import Provider

log = logging.getLogger(__name__)

CALLBACK: Final = "/auth/callback"
SIGNED_OUT: Final = "/auth/signed-out"


@dataclass(frozen=True)
class Answer:
    """What a browser brings back from a provider."""

    cookie: str
    query: Mapping[str, str]
    base_url: str


class Reception:
    """One server's sign-in. `https` says that browsers reach it so, and only so."""

    def __init__(self, config: SignInConfig, sql: Sql, secret: bytes, *, https: bool = False) -> None:
        self.config = config
        self.secure = https or config.secure
        self.cookie = "__Host-llmops_person" if self.secure else f"llmops_person_{_short(secret)}"
        self.attempt_cookie = "__Host-llmops_way" if self.secure else f"llmops_way_{_short(secret)}"
        self._accounts = Accounts(sql)
        self._tries = Tries(sql)
        self._sign_ins = SignIns(
            sql, life=timedelta(seconds=config.session_s), idle=timedelta(seconds=min(config.idle_s, config.session_s))
        )
        self._attempts = Attempts(secret)
        self._provider = Provider(config.oidc) if config.oidc else None

    def who(self, cookies: Mapping[str, str]) -> SignedIn | None:
        """Who is signed in in a browser with these cookies."""
        return self._sign_ins.read(cookies.get(self.cookie))

    def has_accounts(self) -> bool:
        """Whether anybody can sign in with a password yet."""
        return self._accounts.any_local()

    def by_password(self, login: str, password: str, address: str) -> str:
        """A new cookie's value for whoever knows the password. A wrong name takes as long as a wrong password.

        Raises:
            RateLimitedError: too many tries.
            UnauthenticatedError: wrong, unknown and disabled are not told apart.
        """
        self._tries.take(login, address)
        person_id, kept = self._accounts.password_of(login)
        if not is_right(password, kept) or person_id is None:
            log.warning("a sign-in from %s failed", address)
            raise UnauthenticatedError("name or password is wrong", code="wrong_password")
        self._tries.forget(login, address)
        token = new_token()
        self._sign_ins.begin(person_id, token)
        log.info("person:%s signed in from %s", person_id, address)
        return token

    def way_to_provider(self, wanted: str, base_url: str) -> tuple[str, str]:
        """(cookie's value, address) with which a browser goes to the provider."""
        cookie, attempt = self._attempts.begin(wanted)
        return cookie, self._known_provider().authorize_url(attempt, base_url + CALLBACK)

    def by_provider(self, answer: Answer) -> tuple[str, str]:
        """(new cookie's value, wanted path) for whom the provider vouches.

        Raises:
            UnauthenticatedError: the answer proves nothing, is not this browser's, or was used before.
            DeniedError: it does, but this person may not come in.
            UpstreamError: the provider does not answer.
        """
        provider, config, query = self._known_provider(), self.config.oidc, answer.query
        assert config is not None
        attempt = self._attempts.read(answer.cookie, query.get("state", ""))
        if "code" not in query:
            raise UnauthenticatedError("the provider let you not in", code="refused_there", hint="sign in again")
        id_token, claims = provider.redeem(query["code"], attempt, answer.base_url + CALLBACK, query.get("iss"))
        groups = groups_of(claims, config)
        require_admitted(claims, groups, config)
        person = self._accounts.vouched(config.issuer, claims["sub"], name_of(claims), groups)
        if person.disabled_at is not None:
            raise UnauthenticatedError("this account is shut", code="disabled")
        token = new_token()
        self._sign_ins.begin(person.person_id, token, Proof(groups, attempt.seed, _sealed(token, id_token)))
        log.info("%s signed in at the provider", person.principal_id)
        return token, attempt.next

    def leave(self, cookies: Mapping[str, str], base_url: str, *, everywhere: bool = False) -> str | None:
        """Sign a browser out, or all of its person's; gives the address where the provider is told of it, too."""
        token = cookies.get(self.cookie, "")
        signed_in = self._sign_ins.read(token)
        self._sign_ins.end(token)
        if everywhere and signed_in is not None:
            browsers = self._accounts.sign_out(signed_in.person.person_id)
            log.info("%s signed out everywhere, of %d browsers", signed_in.person.principal_id, browsers + 1)
        if signed_in is None or signed_in.person.issuer is None or self._provider is None:
            return None
        try:
            return self._provider.end_url(_opened(token, signed_in.sealed_hint), base_url + SIGNED_OUT)
        except UpstreamError as error:
            log.warning("signed out here, but the provider is not told: %s", error.what)
            return None

    def ended_there(self, logout_token: str) -> None:
        """The provider says that somebody's session there has ended: every browser of theirs is signed out here.

        Raises:
            UnauthenticatedError: the token proves nothing, or names nobody.
            UpstreamError: the provider does not show its keys.
        """
        issuer, subject = self._known_provider().ended(logout_token)
        person_id = person_id_of(issuer, subject)
        log.info("person:%s signed out at the provider, of %d browsers", person_id, self._accounts.sign_out(person_id))

    def end_earlier(self, cookies: Mapping[str, str]) -> None:
        """End what this browser was signed in with before it signed in anew."""
        if earlier := cookies.get(self.cookie):
            self._sign_ins.end(earlier)

    def _known_provider(self) -> Provider:
        if self._provider is None:
            raise UnauthenticatedError("no provider is configured here", code="no_provider")
        return self._provider


def _sealed(token: str, hint: str) -> str:
    """The identity token as it may lie in the database: only the browser's cookie opens it."""
    return Fernet(_key(token)).encrypt(hint.encode()).decode()


def _opened(token: str, sealed: str | None) -> str | None:
    try:
        return Fernet(_key(token)).decrypt(sealed.encode()).decode() if sealed else None
    except InvalidToken:
        return None


def _key(token: str) -> bytes:
    return base64.urlsafe_b64encode(sha256(b"hint\0" + token.encode()).digest())


def _short(secret: bytes) -> str:
    return sha256(b"cookie\0person\0" + secret).hexdigest()[:8]
