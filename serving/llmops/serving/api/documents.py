"""What operators ask of an index over HTTP: its documents, page by page; to delete some, to restore some.

It takes a key with the scope `index`, or, where no keys are required, a program of this machine; a browser's session is
no operator. Deleting and restoring also takes MANAGE on the index, and is on record.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal, cast

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from llmops.core.errors import NotFoundError
from llmops.core.identity import Principal
from llmops.registry.audit.entries import Origin
from llmops.serving.api.door import identities_of
from llmops.serving.indexes import IndexDesk

router = APIRouter(prefix="/v1/indexes/{index}/documents", tags=["operate"])

Uris = Annotated[list[Annotated[str, Field(min_length=1, max_length=4096)]], Field(min_length=1, max_length=1000)]


class DeleteRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    uris: Uris
    reason: str = Field(min_length=1, max_length=500)
    plan: bool = Field(False, description="Say what would be done; change nothing")


class RestoreRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    uris: Uris
    plan: bool = Field(False, description="Say what would be done; change nothing")


async def operator_of(request: Request) -> Principal:
    """Who operates.

    Raises:
        UnauthenticatedError: a wrong key, or none where one is required.
        DeniedError: a key without the scope, or a browser's session.
    """
    return await identities_of(request).operator(request.headers, request.cookies)


def desk_of(request: Request) -> IndexDesk:
    """Whoever keeps the indexes.

    Raises:
        NotFoundError: the server was started without.
    """
    if request.app.state.indexes is None:
        raise NotFoundError("this server keeps no indexes")
    return cast("IndexDesk", request.app.state.indexes)


DeskDep = Annotated[IndexDesk, Depends(desk_of)]
OperatorDep = Annotated[Principal, Depends(operator_of)]


@router.get("")
async def list_documents(  # noqa: PLR0913 - each is a field of the URL
    index: str,
    operator: OperatorDep,
    desk: DeskDep,
    *,
    match: Annotated[str, Query(max_length=4096, description="Part of the uri, or a pattern")] = "",
    state: Literal["indexed", "quarantined", "deleted"] | None = None,
    group: Annotated[str | None, Query(max_length=64)] = None,
    after: Annotated[str, Query(max_length=4096, description="The last uri of the page before")] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """The documents of an index with state, chunks, groups, source and last change."""
    wanted = {"match": match, "state": state, "group": group, "after": after, "limit": limit}
    return await asyncio.to_thread(desk.listing, index, wanted)


@router.get("/inspect")
async def inspect_document(
    index: str, operator: OperatorDep, desk: DeskDep, *, uri: Annotated[str, Query(max_length=4096)]
) -> dict[str, Any]:
    """One document as it was cut, or why it was refused."""
    return await asyncio.to_thread(desk.inspect, index, uri)


@router.post("/delete")
async def delete_documents(
    index: str, body: DeleteRequest, request: Request, operator: OperatorDep, desk: DeskDep
) -> dict[str, Any]:
    """Take documents out of every generation now; they stay out until they are restored."""
    by = (operator, _origin(request))
    return await asyncio.to_thread(desk.delete, index, body.uris, reason=body.reason, plan=body.plan, by=by)


@router.post("/restore")
async def restore_documents(
    index: str, body: RestoreRequest, request: Request, operator: OperatorDep, desk: DeskDep
) -> dict[str, Any]:
    """Lift tombstones; the documents are back with the next refresh."""
    return await asyncio.to_thread(desk.restore, index, body.uris, plan=body.plan, by=(operator, _origin(request)))


def _origin(request: Request) -> Origin:
    host = request.client.host if request.client else None
    return Origin("serving", host, request.headers.get("user-agent", "")[:200] or None)
