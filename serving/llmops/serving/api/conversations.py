"""A person's own conversations: listed, opened, renamed, deleted, and shown to others where that is allowed.

Every address is answered for whoever is signed in: somebody else's conversation is answered like one that is not there.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from llmops.core.errors import DeniedError
from llmops.core.people.conversations import TITLE_CHARS, Place, Summary, Turn
from llmops.serving.api.door import RequesterDep, ServiceDep
from llmops.serving.history import History
from llmops.serving.identity import Requester

router = APIRouter(prefix="/v1", tags=["conversations"])


class Changes(BaseModel):
    """`PATCH /v1/conversations/{id}`."""

    model_config = ConfigDict(extra="forbid")
    title: str = Field(min_length=1, max_length=TITLE_CHARS, description="What the conversation is called")


class Reader:
    """A person who signed in, and the history of this server."""

    def __init__(self, requester: Requester, history: History) -> None:
        self.principal = requester.principal
        self.history = history

    def place(self, conversation_id: str) -> Place:
        return Place(self.principal.id, conversation_id)


async def reader_of(service: ServiceDep, requester: RequesterDep) -> Reader:
    """Who asks, where it is a person.

    Raises:
        DeniedError: a program, or somebody anonymous: their browser keeps what they asked, if anything does.
    """
    if service.history is None or not requester.is_person:
        raise DeniedError(
            "only people who sign in have a history here", code="no_history", hint="`sign_in` lets people sign in"
        )
    return Reader(requester, service.history)


ReaderDep = Annotated[Reader, Depends(reader_of)]
Id = Annotated[str, Path(max_length=64, description="Id of a conversation of one's own")]


@router.get("/conversations")
async def conversations(
    reader: ReaderDep,
    words: Annotated[str, Query(max_length=200, description="Words of the title or the questions, in any order")] = "",
    before: Annotated[str | None, Query(max_length=64, description="Id of the last one that is known")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 100,
) -> dict[str, Any]:
    """One's conversations, newest first. `more` says that there are older ones: ask with `before`."""
    found = await reader.history.list(reader.principal.id, words, before, limit + 1)
    return {"data": [_summary(item) for item in found[:limit]], "more": len(found) > limit}


@router.delete("/conversations")
async def delete_all(reader: ReaderDep) -> dict[str, Any]:
    """Delete all of one's conversations for good."""
    return {"deleted": await reader.history.remove_all(reader.principal.id)}


@router.get("/conversations/{conversation_id}")
async def conversation(conversation_id: Id, reader: ReaderDep) -> dict[str, Any]:
    """A conversation with its answers, citations and thumbs.

    An answer that rests on a document one may no longer read, or that is gone, is `withheld`.
    """
    shown = await reader.history.read(reader.place(conversation_id), reader.principal)
    turns = [_turn(turn, withheld=turn.turn_id in shown.withheld) for turn in shown.conversation.turns]
    return {**_summary(shown.conversation.summary), "turns": turns}


@router.patch("/conversations/{conversation_id}")
async def rename(conversation_id: Id, changes: Changes, reader: ReaderDep) -> dict[str, Any]:
    """Give a conversation another title."""
    return _summary(await reader.history.rename(reader.place(conversation_id), changes.title))


@router.delete("/conversations/{conversation_id}")
async def delete(conversation_id: Id, reader: ReaderDep) -> dict[str, Any]:
    """Delete a conversation for good, and its link."""
    await reader.history.remove(reader.place(conversation_id))
    return {"deleted": 1}


@router.post("/conversations/{conversation_id}/share")
async def share(conversation_id: Id, reader: ReaderDep) -> dict[str, Any]:
    """Make a link to what has been said so far; an earlier one ends. It is shown this once.

    Only people who sign in here, and may read every document the conversation rests on, can open it.
    """
    word = await reader.history.share(reader.place(conversation_id))
    return {"path": f"/?shared={word}", "word": word}


@router.delete("/conversations/{conversation_id}/share")
async def revoke(conversation_id: Id, reader: ReaderDep) -> dict[str, Any]:
    """End the link to a conversation."""
    await reader.history.revoke(reader.place(conversation_id))
    return {"shared_at": None}


@router.get("/shared/{word}")
async def shared(word: Annotated[str, Path(max_length=100)], reader: ReaderDep) -> dict[str, Any]:
    """A conversation that somebody made a link to, as far as it had come then. Whose it is, is not told."""
    found = await reader.history.open(word, reader.principal)
    turns = [_turn(turn, withheld=False) | {"thumb": None} for turn in found.turns]
    return {"title": found.summary.title, "turns": turns}


def _summary(summary: Summary) -> dict[str, Any]:
    return {
        "id": summary.conversation_id,
        "title": summary.title,
        "created_at": summary.created_at.isoformat(),
        "updated_at": summary.updated_at.isoformat(),
        "shared_at": summary.shared_at.isoformat() if summary.shared_at else None,
    }


def _turn(turn: Turn, *, withheld: bool) -> dict[str, Any]:
    body = {} if withheld else turn.body
    erased = bool(turn.body.get("erased"))
    return {
        "id": turn.turn_id,
        "model": turn.endpoint,
        "asked_at": turn.asked_at.isoformat(),
        "question": turn.question,
        "status": turn.status,
        "withheld": withheld or erased,
        "answer": body.get("answer", ""),
        "citations": body.get("citations", []),
        "steps": body.get("steps", []),
        "error": body.get("error"),
        "llmops": body.get("info"),
        "thumb": turn.thumb,
    }
