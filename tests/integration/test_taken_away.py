"""A document that was deleted, forgotten, closed to a reader, or left its source can't be made to answer by any door.

One running server with chains that were opened before: quoting, asking an LLM in several hops, pinned to an older
generation. The LLM repeats every word of its prompt, so whatever a chain has read comes out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.chain import Shelf
from tests.support.embedder import WordEmbedder
from tests.support.indexes import NAME, Workplace
from tests.support.serving import KEYS, Running, eventually, question, running, stream
from tests.support.upstream import Reply, Seen, Upstream

from llmops.core.chain import ChainContext
from llmops.core.identity import Principal
from llmops.rag.answer.prompt import DEFAULT_TEMPLATE
from llmops.rag.chain import RagChain
from llmops.rag.config import AnswerConfig, FolderSource, RetrievalConfig
from llmops.rag.forget import forget, request_of
from llmops.rag.index import open_index
from llmops.rag.ingest.documents import delete
from llmops.rag.ingest.refresh import Options, refresh
from llmops.rag.packaging import assemble
from llmops.rag.section import LlmConfig

SECRET = "The zeppelin hangar in Friedrichshafen opens at seven in the morning"
ASKED = "When does the zeppelin hangar open?"
SOMEBODY = KEYS.verify("lk_one", "serving")
BOARD = Principal("key:board", "key", frozenset({"board"}))
QUOTING, HOPPING, OLD = 1, 2, 3


@dataclass
class House:
    """Documents in two generations, an LLM, and the chains over them."""

    place: Workplace
    upstream: Upstream
    old: str = ""
    new: str = ""
    held: list[RagChain] = field(default_factory=list)

    @property
    def uri(self) -> str:
        return str(self.place.docs / "hangar.md")

    def build(self) -> None:
        self.place.write("hangar.md", f"# Hangar\n\n{SECRET}.\n")
        for n in range(4):
            self.place.write(f"d{n}.md", f"# Title {n}\n\nalpha {n} is opened by the mayor.\n")
        self.old = self.place.refresh().head.generation
        self.place.chunk_chars = 300
        self.new = self.place.refresh().head.generation
        self.held = [self.chain(kind) for kind in (QUOTING, HOPPING, OLD)]

    def chain(self, kind: int) -> RagChain:
        """Open a chain now, as a server or `llmops chat` would."""
        generation = self.old if kind == OLD else self.new
        index = open_index(self.place.state, NAME, generation)
        llm = LlmConfig(url=self.upstream.url, model="parrot") if kind == HOPPING else None
        pinned = {
            "answer": AnswerConfig(llm=llm).model_dump(),
            "retrieval": RetrievalConfig(hops=3 if llm else 1).model_dump(),
            "prompt": {"text": DEFAULT_TEMPLATE, "ref": "dev.docs.chat_prompt/1"},
            "index": {"name": NAME, "generation": generation},
        }
        return assemble(pinned, index.reader, WordEmbedder(), index.close)


def parrot(seen: Seen) -> Reply:
    """Says all it was told, and asks for one search more in words of its own."""
    told = "\n".join(message["content"] for message in seen.messages)
    if "JSON" in told:
        return Reply((json.dumps({"search": "hangar zeppelin seven morning"}),))
    return Reply((f"{told} [1]",))


def gone_from_source(house: House) -> None:
    (house.place.docs / "hangar.md").unlink()
    house.place.refresh()


def deleted(house: House) -> None:
    delete(house.place.state, NAME, [house.uri], actor="ann", reason="test")


def forgotten(house: House) -> None:
    forget(house.place.state, request_of([house.uri], None))


def closed(house: House) -> None:
    """The board alone may read it now; whoever asks below is not of the board."""
    config = house.place.config
    sources = (*config.sources, FolderSource(path=house.uri, acl=("board",)))
    refresh(config.model_copy(update={"sources": sources}), house.place.state, Options(embedder=house.place.embedder))


def texts(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def said_by_chain(chain: RagChain, asked: str, principal: Principal = SOMEBODY) -> str:
    return texts(list(chain.stream([{"role": "user", "content": asked}], ChainContext(principal=principal))))


def every_door(house: House, server: Running) -> Iterator[tuple[str, str]]:
    """What each door says to somebody who asks for the document, by the door's name; the question is not part of it."""
    one = {"Authorization": "Bearer lk_one"}
    with server.client(headers=one) as client:
        for asked in (ASKED, "zeppelin hangar Friedrichshafen", "hangar.md"):
            for version in (QUOTING, HOPPING, OLD, QUOTING):  # forth to another generation and back: a rollback
                server.shelf.aliases["champion"] = version
                eventually(lambda v=version: _serving(client) == v)
                body = question(asked)
                yield f"answer of {version}", client.post("/v1/chat/completions", json=body).text
                yield f"stream of {version}", texts(stream(client, body))
                history = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "Hi."}]
                follow = body | {"messages": [*history, *body["messages"]]}
                yield f"follow-up of {version}", client.post("/v1/chat/completions", json=follow).text
                narrow = body | {"llmops": {"settings": {"top_k": 50}}}
                yield f"wide search of {version}", client.post("/v1/chat/completions", json=narrow).text
        for start, end, words in ((0, 60, ""), (10, 40, SECRET), (0, 4000, "zeppelin")):
            link = {"model": "chat", "uri": house.uri, "start": start, "end": end, "text": words}
            yield "passage link", client.get("/v1/passages", params=link).text
        yield "session and suggestions", client.post("/v1/session").text
        yield "documents, without the right", client.get(f"/v1/indexes/{NAME}/documents").text
    for number, chain in enumerate(house.held):
        yield f"held chain {number}", said_by_chain(chain, ASKED)
        fresh = house.chain((QUOTING, HOPPING, OLD)[number])
        yield f"chain opened now {number}", said_by_chain(fresh, ASKED)
        fresh.close()


def _serving(client: httpx.Client) -> int:
    served = client.get("/readyz").json()["endpoints"]["chat"]["serving"]
    return int(str(served).rpartition("/")[2]) if served else 0


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(Workplace.at(tmp_path), Upstream())
    house.upstream.answer = parrot
    house.build()
    yield house
    for chain in house.held:
        chain.close()
    house.upstream.close()


def test_each_door_does_answer_before(house: House) -> None:
    """So that what follows can fail."""
    for number, chain in enumerate(house.held):
        assert SECRET in said_by_chain(chain, ASKED), number
    assert {seen.headers.get("cache-control") for seen in house.upstream.requests} == {"no-store"}


@pytest.mark.parametrize("taken", [gone_from_source, deleted, forgotten, closed])
def test_no_door_answers_from_a_document_that_was_taken_away(house: House, taken: Callable[[House], None]) -> None:
    chains = {kind: (lambda kind=kind: house.chain(kind)) for kind in (QUOTING, HOPPING, OLD)}
    folder = house.place.state.root.parent / "server"
    with running(folder, Shelf(chains), require_keys=True) as server:  # type: ignore[arg-type]
        with server.client(headers={"Authorization": "Bearer lk_one"}) as client:
            before = client.post("/v1/chat/completions", json=question(ASKED)).text
            assert "seven in the morning" in before
        taken(house)
        eventually(lambda: all(SECRET not in said_by_chain(chain, ASKED) for chain in house.held))
        with server.client(headers={"Authorization": "Bearer lk_one"}) as client:  # an index is 2 s behind at most
            asked = question(ASKED)
            eventually(lambda: "seven in" not in client.post("/v1/chat/completions", json=asked).text)
        seen, logged = len(house.upstream.requests), len(server.log())
        for door, said in every_door(house, server):
            assert "seven in the morning" not in said, door
            assert "# Hangar" not in said, door
        told = texts([row["response_json"] for row in server.log()[logged:]])
        assert "seven in the morning" not in told
    prompts = texts([request.body for request in house.upstream.requests[seen:]])
    assert "opens at seven" not in prompts
    if taken is closed:
        assert SECRET in said_by_chain(house.held[0], ASKED, BOARD)
