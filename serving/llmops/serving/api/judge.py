"""What a reader does after the answer: judge it, and open a passage it cites."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query

from llmops.core.chain import PassageRef
from llmops.core.errors import UserError
from llmops.serving.api.door import RequesterDep, ServiceDep
from llmops.serving.api.wire import FeedbackRequest
from llmops.serving.record import Thumb

router = APIRouter(prefix="/v1", tags=["after the answer"])


@router.post("/feedback")
async def feedback(body: FeedbackRequest, service: ServiceDep, requester: RequesterDep) -> dict[str, Any]:
    """Judge an answer of one's own. It is on the disk when this returns.

    A repeated `feedback_id` changes nothing; a new one for the same request supersedes the last.
    """
    accepted = await service.give_feedback(requester, Thumb(**body.model_dump()))
    return {"feedback_id": body.feedback_id, "request_id": body.request_id, "repeated": not accepted}


@router.get("/passages")
async def passage(  # noqa: PLR0913 - each is a field of the URL
    service: ServiceDep,
    requester: RequesterDep,
    *,
    model: Annotated[str, Query(max_length=64, description="Endpoint that cited it")],
    uri: Annotated[str, Query(max_length=4096)],
    start: Annotated[int, Query(ge=0)],
    end: Annotated[int, Query(ge=0)],
    page: Annotated[int | None, Query(ge=1)] = None,
    text: Annotated[str, Query(max_length=20_000, description="The cited words")] = "",
) -> dict[str, Any]:
    """Open a cited passage where it stands, if the requester may read its document."""
    if end < start:
        raise UserError("a passage ends after it starts", where="end")
    view = await service.open_passage(requester, model, PassageRef(uri, start, end, text, page))
    return asdict(view)
