"""Random readers, documents and questions: nobody is ever told a word of what they may not read, by whatever way.

`fuzz` counts leaks; that it can find one is shown by leaks that are planted, one for each way.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.embedder import WordEmbedder

from llmops.core.chain import Chain, ChainContext, PassageRef
from llmops.core.errors import LlmopsError
from llmops.core.identity import EVERYONE, Principal
from llmops.core.state import StateConfig
from llmops.rag.answer.prompt import DEFAULT_TEMPLATE
from llmops.rag.chain import RagChain
from llmops.rag.config import AnswerConfig, FolderSource, IndexConfig, RetrievalConfig
from llmops.rag.index import open_index
from llmops.rag.index.access import Access
from llmops.rag.index.snapshot import Snapshot
from llmops.rag.index.types import StoredDocument
from llmops.rag.ingest.refresh import Options, refresh
from llmops.rag.packaging import assemble

NAME = "dev.docs.index"
DOCUMENTS, ROUNDS = 48, 1000
GROUPS = ("hr", "board", "staff", "legal", "sales", "plant")
TOPICS = ("pump", "hangar", "budget", "turbine", "contract", "river")


@dataclass
class Archive:
    """Documents, each with a word that stands in no other and a fact of that word's name, and who may read them."""

    chain: RagChain
    uris: list[str]
    acls: list[frozenset[str]]
    words: list[str]
    records: list[str] = field(default_factory=list)

    def forbidden(self, principal: Principal) -> list[str]:
        return [
            w
            for w, acl in zip(self.words, self.acls, strict=True)
            if not principal.groups & acl and EVERYONE not in acl
        ]


def build(folder: Path) -> tuple[IndexConfig, StateConfig, list[str], list[frozenset[str]], list[str]]:
    random = np.random.default_rng(20)
    words = [f"zq{n:02}{''.join(random.choice(list('bcdfghklm'), 6))}" for n in range(DOCUMENTS)]
    acls, sources, uris = [], [], []
    for n, word in enumerate(words):
        groups = (
            (EVERYONE,) if n % 8 == 0 else tuple(sorted(random.choice(GROUPS, random.integers(1, 3), replace=False)))
        )
        path = folder / f"docs/{word}.md"
        path.parent.mkdir(exist_ok=True)
        topic = TOPICS[n % len(TOPICS)]
        path.write_text(f"# The {topic} {word}\n\nThe {topic} called {word} is opened by {word} at noon.\n")
        sources.append(FolderSource(path=str(path), acl=groups, metadata={f"fact_{word}": word, "topic": topic}))
        acls.append(frozenset(groups))
        uris.append(str(path))
    state = StateConfig(dir=folder / "state")
    config = IndexConfig(name=NAME, sources=tuple(sources))
    refresh(config, state, Options(embedder=WordEmbedder()))
    return config, state, uris, acls, words


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    _, state, uris, acls, words = build(tmp_path_factory.mktemp("archive"))
    index = open_index(state, NAME)
    pinned = {
        "answer": AnswerConfig().model_dump(),
        "retrieval": RetrievalConfig().model_dump(),
        "prompt": {"text": DEFAULT_TEMPLATE, "ref": "p/1"},
        "index": {"name": NAME, "generation": index.generation},
    }
    chain = assemble(pinned, index.reader, WordEmbedder(), index.close)
    yield Archive(chain, uris, acls, words)
    chain.close()


@pytest.fixture(autouse=True)
def listening(archive: Archive) -> Iterator[None]:
    """Whatever is logged is read along."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            archive.records.append(record.getMessage())

    handler = Handler()
    logging.getLogger("llmops").addHandler(handler)
    archive.records.clear()
    yield
    logging.getLogger("llmops").removeHandler(handler)


def fuzz(archive: Archive, rounds: int, seed: int = 7) -> list[str]:
    """Leaks, each by its way. Most questions ask for exactly what the reader may not know."""
    random = np.random.default_rng(seed)
    leaks = []
    for n in range(rounds):
        groups = frozenset(random.choice(GROUPS, random.integers(0, 4), replace=False).tolist())
        principal = Principal(f"p{n}", "person", groups | ({EVERYONE} if n % 3 else frozenset()))
        hidden = archive.forbidden(principal)
        target = str(random.choice(hidden))
        shown = str(random.choice(archive.words))
        topic = str(random.choice(TOPICS))
        asked = (
            f"Who opens the {topic}?", f"What is {target[:4]}?", f"the {topic} opened at noon by whom", topic,
        )[n % 4]  # fmt: skip
        unknown = {f"fact_{target[:7]}": target} if n % 8 < 4 else {f"fact_{target}x": 1}
        filters = ({}, {"topic": topic}, {}, unknown)[(n // 4) % 4]
        archive.records.clear()
        told = {"answer": ask(archive.chain, asked, principal, {"filters": filters, "top_k": 50 if n % 2 else 5})}
        told["passage"] = opened(archive.chain, archive.uris[archive.words.index(target)], target, principal)
        told["passage of anything"] = opened(archive.chain, archive.uris[archive.words.index(shown)], "", principal)
        told["log"] = "\n".join(archive.records)
        for way, text in told.items():
            said = asked + json.dumps(filters) + target + shown
            leaks += [f"{way}: {word}" for word in hidden if word in text and word not in said]
            named = [
                word for word in {target, shown} & set(hidden) if f"called {word}" in text or f"fact_{word}`" in text
            ]
            leaks += [f"{way}: {word}" for word in named]
    return leaks


def ask(chain: Chain, asked: str, principal: Principal, settings: dict[str, Any]) -> str:
    """Everything an answer says: words, citations, passages, and an error's own words."""
    context = ChainContext(principal=principal, settings=settings)
    try:
        return repr(list(chain.stream([{"role": "user", "content": asked}], context)))
    except LlmopsError as error:
        return repr((error.what, error.hint))


def opened(chain: Chain, uri: str, words: str, principal: Principal) -> str:
    try:
        view = chain.passage(PassageRef(uri, 0, 40, words), principal)
    except LlmopsError as error:
        return repr((error.what, error.hint))
    return view.text


def test_a_thousand_readers_are_told_nothing_they_may_not_read(archive: Archive) -> None:
    assert fuzz(archive, ROUNDS) == []


def test_readers_are_told_what_they_may_read(archive: Archive) -> None:
    """So that silence is not what passes."""
    for word, acl, uri in zip(archive.words, archive.acls, archive.uris, strict=True):
        reader = Principal("r", "person", frozenset({min(acl)}))
        assert f"called {word}" in ask(archive.chain, f"Who opens {word}?", reader, {})
        assert word in opened(archive.chain, uri, "", reader)


def unmasked(self: Access, principal: Principal, filters: Any) -> None:
    return None


def indiscreet(self: Access, principal: Principal, filters: Any) -> None:
    raise LlmopsError("no such fact", hint=f"there are {sorted(self._facts.names)}")


def open_to_all(self: Snapshot, uri: str, principal: Principal) -> StoredDocument:
    return TRUE_DOCUMENT(self, uri, Principal("root", groups=frozenset(GROUPS)))


def talkative(self: Access, principal: Principal, filters: Any) -> Any:
    every = self.values(Principal("root", groups=frozenset(GROUPS)), self._facts.names, 1000)
    logging.getLogger("llmops.rag").warning("judging %s", every)
    return TRUE_MASK(self, principal, filters)


TRUE_DOCUMENT, TRUE_MASK = Snapshot.document, Access.mask


@pytest.mark.parametrize(
    ("owner", "name", "planted", "way"),
    [
        (Access, "mask", unmasked, "answer"),
        (Access, "mask", indiscreet, "answer"),
        (Snapshot, "document", open_to_all, "passage"),
        (Snapshot, "document", open_to_all, "passage of anything"),
        (Access, "mask", talkative, "log"),
    ],
)
def test_a_planted_leak_is_found(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, planted: Any, way: str
) -> None:
    monkeypatch.setattr(owner, name, planted)
    assert any(leak.startswith(f"{way}: ") for leak in fuzz(archive, 40))


def test_of_two_readers_who_ask_the_same_at_once_each_is_told_their_own(archive: Archive) -> None:
    """What one was told must not be kept for the other: the chain's own memory of sentences knows no reader."""
    n = next(n for n, acl in enumerate(archive.acls) if EVERYONE not in acl)
    insider = Principal("in", "person", archive.acls[n])
    outsider = Principal("out", "person", frozenset(GROUPS) - archive.acls[n])
    asked = f"Who opens {archive.words[n]}?"
    for reader, may in ((insider, True), (outsider, False), (insider, True), (outsider, False)):
        assert (f"called {archive.words[n]}" in ask(archive.chain, asked, reader, {})) is may
