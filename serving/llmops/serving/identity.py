"""Who is asking: a key, a person who signed in, a browser's session, or a program on this machine.

Without required keys a browser gets a signed session cookie and is a person; a program without one is `local`. It knows
headers and secrets; what a requester may read is decided by the groups of the principal it gives.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Final, Protocol
from uuid import UUID

from llmops.core.errors import DeniedError, UnauthenticatedError, UserError
from llmops.core.identity import LOCAL, Principal
from llmops.core.ids import id_time, new_id
from llmops.core.people.accounts import Person
from llmops.core.people.sessions import SignedIn
from llmops.core.signing import signing_key
from llmops.serving.config import ServeConfig
from llmops.serving.sign_in.reception import Reception
from llmops.serving.sign_in.routes import require_own

SERVING: Final = "serving"
"""Scope of a key that may ask, give feedback and open passages."""
REQUEST_ID: Final = "request_id"
"""Scope of a key whose own request ids are taken over."""
INDEX: Final = "index"
"""Scope of a key that may list, delete and restore the documents of indexes."""

SESSION_LIFE: Final = timedelta(days=180)


@dataclass(frozen=True)
class Requester:
    """A principal at this door; `trusted` is a gateway or program whose request ids are taken over, `person` who signed
    in. `still` raises UnauthenticatedError once that ends, while an answer is written."""

    principal: Principal
    trusted: bool = False
    person: Person | None = None
    still: Callable[[], object] | None = None

    @property
    def is_person(self) -> bool:
        """Whether it is a person who signed in, with a history of their own."""
        return self.person is not None


class KeyVerifier(Protocol):
    """The key table, as far as a door needs it."""

    def verify(self, token: str, scope: str) -> Principal:
        """Who shows this token.

        Raises:
            UnauthenticatedError: it is not valid.
            DeniedError: it is, but not for this scope.
        """
        ...


class Sessions:
    """Browser sessions that need no table: a random id with its HMAC, valid for `SESSION_LIFE`."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self.cookie = f"llmops_session_{sha256(b'cookie' + secret).hexdigest()[:8]}"

    @classmethod
    def open(cls, folder: Path) -> Sessions:
        """Read the signing key of a state folder, or make it (0600, never overwritten).

        Raises:
            IntegrityError: the file is there but is no key, or others may read it.
        """
        return cls(signing_key(folder / "session.key", lost="delete it: browsers then begin new sessions"))

    def issue(self) -> str:
        """A new session's cookie value."""
        session_id = new_id()
        return f"{session_id}.{self._sign(session_id)}"

    def read(self, value: str | None) -> str | None:
        """The session id of a cookie value, or None where it is absent, forged or too old."""
        if not value:
            return None
        session_id, _, signature = value.partition(".")
        if not hmac.compare_digest(signature.encode(), self._sign(session_id).encode()):
            return None
        return session_id if datetime.now(tz=UTC) - id_time(session_id) < SESSION_LIFE else None

    def _sign(self, session_id: str) -> str:
        return hmac.new(self._secret, b"session\0" + session_id.encode(), sha256).hexdigest()


class Identities:
    """Turns a request's headers into its requester."""

    def __init__(
        self, config: ServeConfig, sessions: Sessions, keys: KeyVerifier, reception: Reception | None = None
    ) -> None:
        self._require_keys = config.require_keys or reception is not None
        self._reception = reception
        self._groups = frozenset(config.local_groups)
        self._sessions = sessions
        self._keys = keys

    @property
    def sessions(self) -> Sessions:
        return self._sessions

    async def identify(
        self, headers: Mapping[str, str], cookies: Mapping[str, str], *, changing: bool = False
    ) -> Requester:
        """Who sent this request.

        Args:
            changing: it may change something, so that a cookie alone does not speak for its bearer.

        Raises:
            UnauthenticatedError: a wrong key, or nothing to be known by where that is required.
            DeniedError: a change that does not show that a page of this server asked for it.
        """
        authorization = headers.get("authorization")
        if authorization is not None:
            return await self._by_key(authorization)
        if self._reception is not None:
            return await self._by_cookie(self._reception, headers, cookies, changing)
        if self._require_keys:
            raise UnauthenticatedError(
                "this server needs a program key",
                hint="send `Authorization: Bearer lk_...`; `llmops keys create` makes one",
            )
        session_id = self._sessions.read(cookies.get(self._sessions.cookie))
        if session_id is not None:
            return Requester(Principal(id=f"session:{session_id}", kind="person", groups=self._groups))
        return Requester(Principal(id=LOCAL.id, kind=LOCAL.kind, groups=self._groups))

    async def operator(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> Principal:
        """Who operates: the holder of a key for it, or, where none is required, a program of this machine.

        Raises:
            UnauthenticatedError: a wrong key, or none where one is required.
            DeniedError: the key is not for this, or a browser asks.
        """
        token = headers.get("authorization", "").partition(" ")[2].strip()
        if token.startswith("lk_"):
            return await asyncio.to_thread(self._keys.verify, token, INDEX)
        requester = await self.identify(headers, cookies)
        if requester.principal.kind == "person":
            raise DeniedError("a browser's session may not operate the index", hint="send a key with the scope `index`")
        return requester.principal

    @staticmethod
    async def _by_cookie(
        reception: Reception, headers: Mapping[str, str], cookies: Mapping[str, str], changing: bool
    ) -> Requester:
        signed_in = await asyncio.to_thread(_signed_in, reception, cookies)
        if changing:
            require_own(headers)
        return Requester(signed_in.principal, person=signed_in.person, still=partial(_signed_in, reception, cookies))

    async def _by_key(self, authorization: str) -> Requester:
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise UnauthenticatedError("the Authorization header holds no bearer key", hint="write `Bearer lk_...`")
        if not token.startswith("lk_") and not self._require_keys:
            # OpenAI's clients can't be built without a key; where none is needed they send some word.
            return await self.identify({}, {})
        return await asyncio.to_thread(self._verify, token)

    def _verify(self, token: str) -> Requester:
        still = partial(self._keys.verify, token, SERVING)
        principal = still()
        try:
            self._keys.verify(token, REQUEST_ID)
        except DeniedError:
            return Requester(principal, still=still)
        return Requester(principal, trusted=True, still=still)


def _signed_in(reception: Reception, cookies: Mapping[str, str]) -> SignedIn:
    signed_in = reception.who(cookies)
    if signed_in is None:
        raise UnauthenticatedError(
            "sign in to go on", code="sign_in_needed", hint="people sign in at /auth/sign-in; programs send a key"
        )
    return signed_in


def request_ids(requester: Requester, incoming: str | None) -> tuple[str, str | None]:
    """The request's id, and the client's own where that is not trusted to be it.

    Raises:
        UserError: a trusted caller's id is no UUID.
    """
    if incoming is None:
        return new_id(), None
    if not requester.trusted:
        return new_id(), incoming[:128]
    try:
        return str(UUID(incoming)), None
    except ValueError:
        raise UserError("the request id is no UUID", where="x-request-id", hint="send a UUIDv7, or none") from None
