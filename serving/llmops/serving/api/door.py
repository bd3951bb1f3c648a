"""What every route starts from: the server's service, and the requester behind the request."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Request

from llmops.serving.identity import Identities, Requester
from llmops.serving.service import Service


def service_of(request: Request) -> Service:
    return cast("Service", request.app.state.service)


def identities_of(request: Request) -> Identities:
    return cast("Identities", request.app.state.identities)


async def requester_of(request: Request) -> Requester:
    """Who asks.

    Raises:
        UnauthenticatedError: a wrong key, or nothing to be known by where that is required.
        DeniedError: a change that a page of this server did not ask for.
    """
    changing = request.method not in ("GET", "HEAD")
    return await identities_of(request).identify(request.headers, request.cookies, changing=changing)


ServiceDep = Annotated[Service, Depends(service_of)]
RequesterDep = Annotated[Requester, Depends(requester_of)]
