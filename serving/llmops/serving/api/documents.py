"""What operators ask of an index over HTTP: its documents, page by page; to delete some, to restore some.

It takes a key with the scope `index`, or, where no keys are required, a program of this machine; a browser's session is
no operator. Deleting and restoring also takes MANAGE on the index, and is on record.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from llmops.core.identity import Principal
from llmops.rag.curation import Curator
from llmops.rag.ingest import documents
from llmops.rag.ingest.documents import State
from llmops.rag.ingest.status import inspect
from llmops.registry.audit.entries import Origin
from llmops.serving.api.door import ServiceDep, identities_of

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


OperatorDep = Annotated[Principal, Depends(operator_of)]


@router.get("")
async def list_documents(  # noqa: PLR0913 - each is a field of the URL
    index: str,
    service: ServiceDep,
    operator: OperatorDep,
    *,
    match: Annotated[str, Query(max_length=4096, description="Part of the uri, or a pattern")] = "",
    state: State | None = None,
    group: Annotated[str | None, Query(max_length=64)] = None,
    after: Annotated[str, Query(max_length=4096, description="The last uri of the page before")] = "",
    limit: Annotated[int, Query(ge=1, le=documents.MOST)] = 100,
) -> dict[str, Any]:
    """The documents of an index with state, chunks, groups, source and last change."""
    wanted = documents.Query(match, state, group, after, limit)
    page = await asyncio.to_thread(documents.listing, service.config.state, index, wanted)
    return page.as_json()


@router.get("/inspect")
async def inspect_document(
    index: str, service: ServiceDep, operator: OperatorDep, *, uri: Annotated[str, Query(max_length=4096)]
) -> dict[str, Any]:
    """One document as it was cut, or why it was refused."""
    view = await asyncio.to_thread(inspect, service.config.state, index, uri)
    return view.as_json()


@router.post("/delete")
async def delete_documents(
    index: str, body: DeleteRequest, request: Request, service: ServiceDep, operator: OperatorDep
) -> dict[str, Any]:
    """Take documents out of every generation now; they stay out until they are restored."""
    curator = Curator(service.config.state, operator, _origin(request))
    done = await asyncio.to_thread(curator.delete, index, body.uris, reason=body.reason, plan=body.plan)
    return done.as_json()


@router.post("/restore")
async def restore_documents(
    index: str, body: RestoreRequest, request: Request, service: ServiceDep, operator: OperatorDep
) -> dict[str, Any]:
    """Lift tombstones; the documents are back with the next refresh."""
    curator = Curator(service.config.state, operator, _origin(request))
    done = await asyncio.to_thread(curator.restore, index, body.uris, plan=body.plan)
    return {"index": index, "restored": done}


def _origin(request: Request) -> Origin:
    host = request.client.host if request.client else None
    return Origin("serving", host, request.headers.get("user-agent", "")[:200] or None)
