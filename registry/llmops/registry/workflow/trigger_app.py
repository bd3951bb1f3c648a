"""The HTTP door of triggers: `POST /v1/workflows/<name>/trigger`, as a small ASGI application.

Refuses foreign hosts, pages of other sites, large, slow and too many bodies before it looks at a signature. What a
request does is `trigger`'s.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from llmops.core.addresses import is_wildcard
from llmops.core.errors import (
    ConfigError,
    DeniedError,
    LlmopsError,
    RateLimitedError,
    UserError,
)
from llmops.core.web.asgi import BodyTimeoutError, check_length, too_large
from llmops.core.web.hosts import hostname, names_of
from llmops.registry.workflow.door import Workflows
from llmops.registry.workflow.job import Job
from llmops.registry.workflow.trigger import Admitted, Sender, admit, parse, verify

BODY_BYTES = 64 * 1024
BODY_S = 10.0
REQUESTS_A_MINUTE = 240
"""Of one address, signed or not: what it costs to check a signature must not be free of charge."""
_ADDRESSES = 10_000
_SEALS = {
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'",
}


def trigger_app(jobs: Sequence[Job], flows: Workflows, *, host: str, hosts: Iterable[str] = ()) -> Starlette:
    """The application.

    Args:
        host: the address it is bound to.
        hosts: further names by which clients may call it.
    """
    door = _Door({job.config.name: job for job in jobs}, flows, names_of(host, hosts))
    return Starlette(
        routes=[
            Route("/v1/workflows/{name}/trigger", door.trigger, methods=["POST"]),
            Route("/healthz", door.health, methods=["GET"]),
        ],
        exception_handlers={LlmopsError: _refusal},
    )


def parse_address(listen: str) -> tuple[str, int]:
    """`127.0.0.1:8100`, `[::1]:8100` or `:8100` (loopback) as host and port."""
    host, _, port = listen.rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"`{listen}` is not an address", where="--listen", hint="write 127.0.0.1:8100")
    return host.strip("[]") or "127.0.0.1", int(port)


def refuse_open_door(host: str, hosts: Sequence[str]) -> None:
    """A wildcard address needs the names by which it is called; every trigger needs a signature anyway."""
    if is_wildcard(host) and not hosts:
        raise ConfigError(
            f"listening on {host or 'every address'} needs the names by which clients call this server",
            where="--listen",
            hint="name them: --allow-host workflows.example.org",
        )


class _Door:
    def __init__(self, jobs: dict[str, Job], flows: Workflows, names: frozenset[str]) -> None:
        self._jobs = jobs
        self._flows = flows
        self._names = names
        self._minute = 0
        self._seen: dict[str, int] = {}

    async def health(self, request: Request) -> Response:
        self._check(request)
        return JSONResponse({"status": "ok"}, headers=_SEALS)

    async def trigger(self, request: Request) -> Response:
        self._check(request)
        address = request.client.host if request.client else ""
        self._count(address)
        body = await _body(request)
        job = self._jobs.get(request.path_params["name"])
        # An unknown workflow is refused like a wrong signature: who has no key learns no names.
        key_id = await run_in_threadpool(verify, job.config.trigger if job else None, request.headers, body)
        assert job is not None
        wanted = parse(body)
        found = await run_in_threadpool(admit, self._flows, job, wanted, Sender.by_key(key_id, address))
        return _answer(found)

    def _check(self, request: Request) -> None:
        host = request.headers.get("host", "")
        if len(request.headers.getlist("host")) != 1 or hostname(host) not in self._names:
            raise DeniedError(
                f"this server is not called `{host[:100]}`", code="foreign_host", hint="--allow-host NAME"
            )
        if "origin" in request.headers or request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise DeniedError("pages may not call this server", code="foreign_origin")

    def _count(self, address: str) -> None:
        minute = int(time.monotonic() // 60)
        if minute != self._minute or len(self._seen) > _ADDRESSES:
            self._minute, self._seen = minute, {}
        self._seen[address] = self._seen.get(address, 0) + 1
        if self._seen[address] > REQUESTS_A_MINUTE:
            raise RateLimitedError("too many requests from this address")


async def _body(request: Request) -> bytes:
    check_length(request.headers.get("content-length", "0"), BODY_BYTES)
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.stream():
                data += chunk
                if len(data) > BODY_BYTES:
                    raise too_large(BODY_BYTES)
    except TimeoutError:
        raise BodyTimeoutError(f"the body did not arrive within {BODY_S:g} s") from None
    except ClientDisconnect:
        raise UserError("the client left") from None
    return bytes(data)


def _answer(found: Admitted) -> Response:
    content = {"status": found.outcome, "run_id": found.run_id}
    if found.outcome == "cooling":
        seconds = max(1, round(found.retry_after_s))
        error = RateLimitedError(
            "a run was started a short while ago", code="cooling", hint=f"ask again in {seconds} s"
        )
        return JSONResponse(error.as_json() | content, 429, {**_SEALS, "retry-after": str(seconds)})
    return JSONResponse(content, 202 if found.outcome == "accepted" else 200, _SEALS)


async def _refusal(_request: Request, error: Exception) -> Response:
    assert isinstance(error, LlmopsError)
    headers = dict(_SEALS)
    if error.http_status == 401:
        headers["www-authenticate"] = "llmops-signature"
    if error.http_status in (429, 503):
        headers["retry-after"] = "60" if error.http_status == 429 else "1"
    return JSONResponse(error.as_json(), error.http_status, headers)
