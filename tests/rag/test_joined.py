"""Several indexes asked as one: each under its own access lists and embedder, told apart in every citation."""

from __future__ import annotations

import pytest
from tests.support.embedder import WordEmbedder

from llmops.core.chain import ChainContext, Citation, PassageRef, Retrieval
from llmops.core.errors import ConfigError, IntegrityError, NotFoundError, UserError
from llmops.core.identity import Principal
from llmops.core.state import StateConfig
from llmops.rag.config import AlsoIndex, AnswerConfig, FolderSource, IndexConfig, RagConfig, RetrievalConfig
from llmops.rag.index import open_index
from llmops.rag.ingest.refresh import Options, refresh
from llmops.rag.joined import JoinedRetriever, Member
from llmops.rag.packaging import assemble, register_chain
from llmops.rag.retrieve import Retriever
from llmops.registry.assets import Registry

DOCS, WIKI, BOARD = "dev.docs.index", "dev.wiki.index", "dev.board.index"
ANN = Principal("ann", groups=frozenset())
EVE = Principal("eve", groups=frozenset({"board"}))
TEXTS = {
    DOCS: {"pump.md": "The Aurora pump was designed by Ingrid Halvorsen in 1987.", "shared.md": "Old words on valves."},
    WIKI: {"hall.md": "The turbine hall was opened by the mayor of Tromso.", "shared.md": "New words on valves."},
    BOARD: {"pay.md": "The Aurora pump cost nine million, said Ingrid Halvorsen to the board."},
}
EMBEDDERS = {DOCS: WordEmbedder(), WIKI: WordEmbedder(), BOARD: WordEmbedder("words-2", 96)}


@pytest.fixture(scope="module")
def state(tmp_path_factory) -> StateConfig:
    root = tmp_path_factory.mktemp("joined")
    state = StateConfig(dir=root / "state")
    for name, texts in TEXTS.items():
        folder = root / name
        folder.mkdir()
        for file, text in texts.items():
            (folder / file).write_text(f"# {file}\n\n{text}\n", encoding="utf-8")
        acl = ("board",) if name == BOARD else ("everyone",)
        source = FolderSource(path=str(folder), acl=acl, metadata={"wiki": True} if name == WIKI else {})
        refresh(IndexConfig(name=name, sources=(source,)), state, Options(embedder=EMBEDDERS[name]))
    return state


@pytest.fixture
def joined(state):
    """Makes a retriever of all three, with these weights."""
    indexes = {name: open_index(state, name) for name in TEXTS}

    def make(config: RetrievalConfig | None = None, **weights: float) -> JoinedRetriever:
        members = [
            Member(
                name,
                Retriever(index.reader, EMBEDDERS[name]),
                index.reader,
                EMBEDDERS[name].fingerprint,
                weights.get(name.split(".")[1], 1.0),
            )
            for name, index in indexes.items()
        ]
        return JoinedRetriever(members, config or RetrievalConfig())

    yield make
    for index in indexes.values():
        index.close()


def found(retrieved) -> list[tuple[str | None, str]]:
    return [(one.index, one.chunk.uri.rpartition("/")[2]) for one in retrieved.passages]


def test_the_best_passage_of_all_indexes_comes_first_and_names_its_own(joined):
    retriever = joined()
    assert found(retriever.retrieve("Who opened the turbine hall?", EVE))[0] == (WIKI, "hall.md")
    assert {(DOCS, "pump.md"), (BOARD, "pay.md")} == set(found(retriever.retrieve("Aurora pump Ingrid", EVE))[:2])


def test_each_index_keeps_its_own_access_lists(joined):
    retriever = joined()
    for question in ("What did the Aurora pump cost?", "nine million board", "pay.md"):
        assert BOARD not in {index for index, _ in found(retriever.retrieve(question, ANN))}
        assert BOARD in {index for index, _ in found(retriever.retrieve(question, EVE))}
    secret = next(p.chunk.uri for p in retriever.retrieve("nine million", EVE).passages if p.index == BOARD)
    assert "nine million" in retriever.joined().document(secret, EVE).text
    with pytest.raises(NotFoundError):
        retriever.joined().document(secret, ANN)


def test_a_weight_moves_an_index_up_or_down(joined):
    question = "Aurora pump Ingrid"
    assert found(joined(board=50.0).retrieve(question, EVE))[0][0] == BOARD
    assert found(joined(board=0.02).retrieve(question, EVE))[0][0] == DOCS


def test_a_filter_leaves_out_the_indexes_that_have_no_such_fact(joined):
    assert {index for index, _ in found(joined().retrieve("words on valves", EVE, {"wiki": True}))} == {WIKI}
    with pytest.raises(UserError, match="no document has the metadata `nonsense`"):
        joined().retrieve("words", EVE, {"nonsense": 1})
    assert joined().joined().values(EVE, ["wiki"], 5) == {"wiki": [True]}


def test_the_state_of_every_index_is_told(joined):
    retrieved = joined().retrieve("pump", EVE)
    assert retrieved.generation.count("+") == 2
    assert retrieved.index_seq == 3


def test_a_registered_chain_asks_them_all_and_cites_by_index(state, monkeypatch):
    with pytest.raises(ValueError, match="named twice"):
        RagConfig(state=state, also=(AlsoIndex(name="docs.index"),))
    config = RagConfig(state=state, also=(AlsoIndex(name="wiki.index", weight=1.5), AlsoIndex(name="board.index")))
    with Registry(config.state) as registry:
        registered = register_chain(config, registry)
        assert register_chain(config, registry).chain == registered.chain
        nodes = {found.node for found in registry.lineage(registered.chain.ref) if found.edge.relation.value == "index"}
        assert {node.split("/")[0] for node in nodes} == {DOCS, WIKI, BOARD}
    indexes = {name: open_index(state, name) for name in TEXTS}
    members = [
        Member(name, Retriever(index.reader, EMBEDDERS[name]), index.reader, EMBEDDERS[name].fingerprint)
        for name, index in indexes.items()
    ]
    configuration = {
        "answer": AnswerConfig().model_dump(mode="json"),
        "retrieval": RetrievalConfig().model_dump(mode="json"),
        "prompt": {"ref": "builtin", "text": ""},
        "index": {"name": DOCS, "generation": "g"},
    }

    def close() -> None:
        for index in indexes.values():
            index.close()

    chain = assemble(configuration, indexes[DOCS].reader, EMBEDDERS[DOCS], close, members)
    try:
        for question, principal, expected in (
            ("Who opened the turbine hall?", ANN, WIKI),
            ("Who designed the Aurora pump?", ANN, DOCS),
        ):
            asked = [{"role": "user", "content": question}]
            events = list(chain.stream(asked, ChainContext(principal=principal)))
            cited = [event for event in events if isinstance(event, Citation)]
            assert cited[0].index == expected
            shown = next(event for event in events if isinstance(event, Retrieval))
            assert BOARD not in {passage.index for passage in shown.passages}
            ref = PassageRef(cited[0].uri, cited[0].start, cited[0].end, cited[0].text)
            assert cited[0].text in chain.passage(ref, principal).text
    finally:
        chain.close()


def test_opening_a_chain_checks_the_embedder_of_every_index(state):
    from llmops.rag.packaging import open_chain

    held = open_index(state, DOCS)
    generation = held.generation
    held.close()
    configuration = {
        "format": 1,
        "state": {"dir": str(state.root)},
        "index": {"name": DOCS, "generation": generation},
        "embedder": "another",
        "also": [{"name": WIKI, "generation": generation, "embedder": "another", "weight": 1.0}],
    }
    with pytest.raises((IntegrityError, NotFoundError, ConfigError)):
        open_chain(configuration)
