"""Who asks, and what of a request's head and body may be believed: keys, tags, session, ids, JSON.

Everything here comes from a client: it is bounded and checked before it is looked at. Ceilings and targets come later.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

import orjson

from llmops.core.errors import did_you_mean
from llmops.core.identity import LOCAL
from llmops.gateway.calls import Fault, Headers, Json, KeyPolicy, Meter, Operation
from llmops.gateway.config import BudgetConfig, LimitsConfig, TeamConfig
from llmops.gateway.engine.faults import refusal
from llmops.gateway.engine.metrics import Tally
from llmops.gateway.engine.plan import Plan, Route, Target

SCOPE: Final = "gateway"
IDS_SCOPE: Final = "gateway:ids"
_DEEPEST: Final = 64
_TAGS_BYTES, _MOST_TAGS = 2048, 16
_TAG: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.:-]{0,63})=([\x20-\x7e]{0,256})")
OWN_TAGS: Final = frozenset(
    (
        "asked_ms", "attempts", "cache", "cache_write_tokens", "cached_tokens", "estimated", "findings", "model",
        "operation", "parent_span", "provider", "reasoning_tokens", "searches", "target", "team", "unpriced", "user",
    )
)  # fmt: skip
"""Tags that the gateway writes itself: reports go by them, so that no caller may."""

_SAYING_MORE: Final = frozenset(
    (b"x-request-id", b"x-llmops-parent-invocation", b"x-llmops-tags", b"x-llmops-session", b"traceparent")
)
_SESSION: Final = re.compile(r"[\x21-\x7e]{1,200}")
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")
_NAMING_USERS: Final = frozenset(("user", "safety_identifier", "metadata"))
_USER_BYTES: Final = 200
_REMEMBERED_USERS: Final = 10_000
_WHAT: Final = {"requests_per_minute": "requests", "tokens_per_minute": "tokens", "concurrent": "concurrent"}


class Epoch:
    """The time between two changes of keys or configuration; it says nothing but which one it is."""

    __slots__ = ()


@dataclass(slots=True, eq=False)
class Caller:
    """What a request's head says of who asks for what. Worked out once for all requests of a connection with that head.

    Good as long as the gate is in the same `epoch`: with the keys and the configuration of now. `says_more`: there are
    headers with ids, tags or a session, to be read for each request.
    """

    operation: Operation
    policy: KeyPolicy | None
    epoch: Epoch | None = None
    says_more: bool = False
    expires_at: float | None = None
    grants: dict[str, Grant] = field(default_factory=dict)

    @classmethod
    def of(cls, operation: Operation, policy: KeyPolicy | None, headers: Mapping[bytes, bytes], epoch: Epoch) -> Caller:
        expires_at = policy.expires_at if policy is not None else None
        return cls(operation, policy, epoch, not _SAYING_MORE.isdisjoint(headers), expires_at)


@dataclass(slots=True, eq=False)
class Grant:
    """What one key may do on one route, worked out once."""

    route: Route
    requester: str
    team: str | None
    groups: frozenset[str]
    trusted: bool
    meters: tuple[Meter, ...]
    tags: dict[str, str]
    per_user: TeamConfig | None
    key_id: str | None
    rate_headers: tuple[tuple[bytes, bytes], ...] = ()
    users: dict[str, tuple[Meter, ...]] = field(default_factory=dict)
    tallies: dict[tuple[Target | None, int], Tally] = field(default_factory=dict)
    templates: dict[tuple[Target | None, Operation], Json] = field(default_factory=dict)
    standing: dict[Target, Headers] = field(default_factory=dict)
    """Headers of all whole replies by one target."""

    def __post_init__(self) -> None:
        self.rate_headers = _rate_headers(self.meters)

    def meters_of(self, user: str | None) -> tuple[Meter, ...]:
        """All ceilings over a request, those of its user included."""
        if self.per_user is None or user is None:
            return self.meters
        found = self.users.get(user)
        if found is None:
            if len(self.users) >= _REMEMBERED_USERS:
                self.users.clear()
            subject = f"user:{self.team}:{user}"
            own = _meters(subject, self.per_user.user_limits, self.per_user.user_budgets)
            found = self.users[user] = (*self.meters, *own)
        return found


def token_of(headers: Mapping[bytes, bytes]) -> bytes | None:
    """The key a client shows, in whichever of the headers its SDK uses."""
    shown = headers.get(b"authorization")
    if shown is not None:
        scheme, _, token = shown.partition(b" ")
        return token.strip() if scheme.lower() == b"bearer" else b""
    return headers.get(b"x-api-key") or headers.get(b"api-key")


def unauthenticated() -> Fault:
    return refusal(
        401, "invalid_api_key", "the key is missing or not valid", "send it as `Authorization: Bearer lk_...`"
    )


def no_scope(policy: KeyPolicy) -> Fault:
    return refusal(403, "denied", f"the key `{policy.key_id}` may not be used for the gateway")


def route_of(plan: Plan, policy: KeyPolicy | None, body: Json, operation: Operation) -> Route:
    """The route a body names as its `model`.

    Raises:
        Fault: no such route, or this key or operation may not use it.
    """
    name = body.get("model")
    if type(name) is not str or not name:
        raise refusal(400, "missing_model", "the body names no `model`", "give the name of a route", "model")
    route = plan.routes.get(name)
    if policy is not None and policy.routes and name not in policy.routes:
        if route is not None:
            raise refusal(403, "route_denied", f"the key `{policy.key_id}` may not use `{name[:128]}`", None, "model")
        known = policy.routes.intersection(plan.routes)
        raise refusal(404, "model_not_found", f"no route is named `{name[:128]}`", _near(name, known), "model")
    if route is None:
        raise refusal(404, "model_not_found", f"no route is named `{name[:128]}`", _near(name, plan.routes), "model")
    if operation not in route.operations:
        offered = ", ".join(sorted(route.operations))
        raise refusal(404, "operation_not_offered", f"`{name}` does not offer {operation}", f"it offers {offered}")
    return route


def grant(plan: Plan, policy: KeyPolicy | None, route: Route) -> Grant:
    """Work out what a key, or the program on this machine that needs none, may do on a route."""
    config = route.config
    meters = _meters(f"route:{route.name}", config.limits, config.budgets)
    if policy is None:
        return Grant(route, LOCAL.id, None, LOCAL.groups, True, tuple(meters), dict(config.tags), None, None)
    team = plan.config.teams.get(policy.team) if policy.team else None
    if team is not None:
        meters = [*_meters(f"team:{policy.team}", team.limits, team.budgets), *meters]
    own = [Meter(f"key:{policy.key_id}", _WHAT[name], ceiling) for name, ceiling in policy.limits.items()]  # type: ignore[arg-type]
    own += [Meter(f"key:{policy.key_id}", "usd", nano, period) for nano, period in policy.budgets]
    per_user = team if team is not None and (team.user_budgets or team.user_limits != LimitsConfig()) else None
    return Grant(
        route=route,
        requester=f"key:{policy.key_id}",
        team=policy.team,
        groups=policy.groups,
        trusted=plan.config.trusted_ids and IDS_SCOPE in policy.scopes,
        meters=(*own, *meters),
        tags={**config.tags, **policy.tags},
        per_user=per_user,
        key_id=policy.key_id,
    )


def read_body(raw: bytes) -> Json:
    """The JSON object of a body. Raises Fault."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise refusal(400, "invalid_json", f"the body is not JSON: {error}") from None
    if type(body) is not dict:
        raise refusal(400, "invalid_json", "the body is no JSON object")
    return body


def check_depth(body: Json, raw: bytes, plain: bool) -> None:
    """Refuse what is nested deeper than any request is: whoever walks it would run out of stack.

    Args:
        plain: the messages are known to be flat, which spares a long conversation the walk.

    Raises:
        Fault: it is too deep.
    """
    flat = 0
    if plain:
        kinds = list(map(type, body.values()))
        if kinds.count(list) + kinds.count(dict) == 1:
            return  # that one is the messages
        flat = len(body["messages"])
    if raw.count(b"[") + raw.count(b"{") >= _DEEPEST + flat and _deeper(body, _DEEPEST):
        raise refusal(400, "invalid_json", f"the body is nested more than {_DEEPEST} deep")


def read_tags(header: bytes) -> dict[str, str]:
    """`k=v,k2=v2` of the header x-llmops-tags."""
    if len(header) > _TAGS_BYTES:
        raise refusal(400, "invalid_tags", f"x-llmops-tags is longer than {_TAGS_BYTES} bytes")
    tags: dict[str, str] = {}
    for part in header.decode("latin-1").split(","):
        if not part.strip():
            continue
        match = _TAG.fullmatch(part.strip())
        if match is None or len(tags) >= _MOST_TAGS:
            raise refusal(400, "invalid_tags", f"x-llmops-tags is not read: `{part[:80]}`", "write k=v,k2=v2")
        if match[1] in OWN_TAGS:
            raise refusal(400, "invalid_tags", f"the tag `{match[1]}` is written by the gateway alone")
        tags[match[1]] = match[2]
    return tags


def read_session(header: bytes) -> str:
    session = header.decode("latin-1")
    if not _SESSION.fullmatch(session):
        raise refusal(400, "invalid_session", "x-llmops-session is a word of at most 200 characters")
    return session


def read_id(header: bytes) -> str | None:
    """A client's id for its request; None where it is nothing to keep."""
    text = header.decode("latin-1")
    return text if _ID.fullmatch(text) else None


def read_client_id(headers: Mapping[bytes, bytes]) -> str | None:
    shown = headers.get(b"x-request-id")
    return read_id(shown) if shown is not None else None


def user_of(body: Json) -> str | None:
    """Whom the caller acts for: `user` or `safety_identifier` (OpenAI), `metadata.user_id` (Anthropic)."""
    if _NAMING_USERS.isdisjoint(body):
        return None
    user = body.get("user") or body.get("safety_identifier")
    if user is None:
        metadata = body.get("metadata")
        user = metadata.get("user_id") if type(metadata) is dict else None
    if type(user) is not str or not user:
        return None
    if len(user) > _USER_BYTES:
        raise refusal(400, "invalid_user", f"`user` is longer than {_USER_BYTES} characters", None, "user")
    return user


def _meters(subject: str, limits: LimitsConfig, budgets: tuple[BudgetConfig, ...]) -> list[Meter]:
    found = []
    if limits.requests_per_minute is not None:
        found.append(Meter(subject, "requests", limits.requests_per_minute))
    if limits.tokens_per_minute is not None:
        found.append(Meter(subject, "tokens", limits.tokens_per_minute))
    if limits.concurrent is not None:
        found.append(Meter(subject, "concurrent", limits.concurrent))
    found += [Meter(subject, "usd", nano_of(budget.usd), budget.period) for budget in budgets]
    return found


def _rate_headers(meters: tuple[Meter, ...]) -> tuple[tuple[bytes, bytes], ...]:
    """The lowest ceilings a minute, in the headers of OpenAI's API.

    What remains is told only with a refusal: a worker knows its share of a ceiling, not the others'.
    """
    found = []
    for what in ("requests", "tokens"):
        ceilings = [meter.ceiling for meter in meters if meter.what == what]
        if ceilings:
            found.append((f"x-ratelimit-limit-{what}".encode(), str(min(ceilings)).encode()))
    return tuple(found)


def nano_of(usd: Decimal) -> int:
    return int(usd * 1_000_000_000)


def _near(name: str, known: Any) -> str:
    return did_you_mean(name[:128], known) or "GET /v1/models lists the routes"


def _deeper(value: Any, left: int) -> bool:
    """Whether a value is nested deeper; breadth first, since a stack is what deep JSON is meant to exhaust."""
    level = [value]
    while level:
        if left < 0:
            return True
        left -= 1
        below: list[Any] = []
        for item in level:
            children = item.values() if type(item) is dict else item
            below.extend(child for child in children if type(child) is dict or type(child) is list)
        level = below
    return False
