"""Registered chains: what is pinned decides the version, what is not does not, and secrets are never in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.embedder import WordEmbedder

from llmops.core.chain import ChainContext, Citation
from llmops.core.errors import NotFoundError, UserError
from llmops.core.state import StateConfig
from llmops.rag.answer.prompt import DEFAULT_TEMPLATE
from llmops.rag.config import AnswerConfig, FolderSource, IndexConfig, RagConfig, RetrievalConfig
from llmops.rag.index import open_index
from llmops.rag.ingest.refresh import Options, refresh
from llmops.rag.packaging import assemble, open_chain, register_chain
from llmops.rag.section import LlmConfig
from llmops.registry.assets import Registry
from llmops.registry.gates import ValidationSpec, validate
from llmops.registry.gates.spec import Documentation
from llmops.registry.records import Candidate, Kind, Pointer

KEY = "sk-never-shown-98765"
LLM = LlmConfig(url="http://127.0.0.1:1/v1", model="small", api_key="env:LLMOPS_TEST_LLM_KEY")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RagConfig:
    """A small index, ingested for real with an embedder that needs no model."""
    root = tmp_path_factory.mktemp("packaging")
    (root / "docs").mkdir()
    (root / "docs" / "pump.md").write_text("# Aurora\n\nThe Aurora pump was designed by Ingrid Halvorsen in 1987.\n")
    (root / "docs" / "hall.md").write_text("# Hall\n\nThe turbine hall was opened by the mayor of Tromso.\n")
    config = RagConfig(
        state=StateConfig(dir=root / "state"), index=IndexConfig(sources=(FolderSource(path=str(root / "docs")),))
    )
    refresh(config.index, config.state, Options(embedder=WordEmbedder()))
    return config


@pytest.fixture(scope="module")
def registry(config: RagConfig) -> Iterator[Registry]:
    with Registry(config.state) as registry:
        register_chain(config, registry)  # version 1, whichever test comes first
        yield registry


def changed(config: RagConfig, **sections: Any) -> RagConfig:
    return config.model_copy(update=sections)


def test_unchanged_settings_keep_their_version(config: RagConfig, registry: Registry) -> None:
    first, again = register_chain(config, registry), register_chain(config, registry)
    assert first == again
    assert first.chain.aliases == ("champion",)
    assert str(first.chain.ref) == "dev.docs.chat/1"
    assert str(first.prompt.ref) == "dev.docs.chat_prompt/1"
    assert first.chain.params["index_version"] == str(first.index.ref) == "dev.docs.index/1"
    assert first.chain.params["generation"] == first.index.params["generation"]
    made_of = {(found.edge.relation.value, found.node) for found in registry.lineage(first.chain.ref)}
    assert made_of == {("prompt", str(first.prompt.ref)), ("index", str(first.index.ref))}
    assert str(first.chain.ref) in {found.node for found in registry.lineage(first.prompt.ref, impact=True)}


@pytest.mark.parametrize(
    "sections",
    [
        {"retrieval": RetrievalConfig(top_k=3)},
        {"retrieval": RetrievalConfig(dense_weight=0.5)},
        {"answer": AnswerConfig(llm=LLM)},
        {"answer": AnswerConfig(llm=LLM.model_copy(update={"model": "large"}))},
    ],
)
def test_changed_settings_are_a_new_version(config: RagConfig, registry: Registry, sections: dict[str, Any]) -> None:
    before = register_chain(config, registry).chain
    after = register_chain(changed(config, **sections), registry).chain
    assert after.digest != before.digest
    assert after.version > before.version
    assert registry.resolve("dev.docs.chat@champion").version == before.version  # a new version moves no alias


def test_own_prompt_is_a_version_of_its_own(config: RagConfig, registry: Registry, tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text(DEFAULT_TEMPLATE.replace("briefly", "at length"))
    own = register_chain(changed(config, answer=AnswerConfig(llm=LLM, prompt_file=str(file))), registry)
    assert "at length" in registry.load_prompt(own.prompt)
    assert own.chain.params["prompt_version"] == str(own.prompt.ref) != "dev.docs.chat_prompt/1"


def test_unfit_prompt_file_is_refused(config: RagConfig, registry: Registry, tmp_path: Path) -> None:
    for file in (tmp_path / "missing.txt", tmp_path / "unfit.txt"):
        if file.stem == "unfit":
            file.write_text("just {question}")
        with pytest.raises(UserError):
            register_chain(changed(config, answer=AnswerConfig(prompt_file=str(file))), registry)


def test_artefact_holds_references_only(config: RagConfig, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMOPS_TEST_LLM_KEY", KEY)
    version = register_chain(changed(config, answer=AnswerConfig(llm=LLM)), registry).chain
    texts = [
        path.read_text(errors="replace") for path in (config.state.root / version.source).rglob("*") if path.is_file()
    ]
    assert any("env:LLMOPS_TEST_LLM_KEY" in text for text in texts)
    assert not any(KEY in text for text in texts)
    assert "LLMOPS_TEST_LLM_KEY" not in str(version.params)


def test_key_written_out_is_refused_by_the_configuration() -> None:
    with pytest.raises(ValueError, match="by reference"):
        LlmConfig(url="http://127.0.0.1:1/v1", model="small", api_key=KEY)


def test_index_that_was_never_ingested_cannot_be_registered(config: RagConfig, registry: Registry) -> None:
    with pytest.raises(NotFoundError):
        register_chain(changed(config, index=IndexConfig(name="dev.docs.nothing")), registry)


def test_pinned_chain_answers_from_the_real_index(config: RagConfig, registry: Registry) -> None:
    pinned = _pinned(config, registry)
    index = open_index(config.state, config.index.name, pinned["index"]["generation"])
    chain = assemble(pinned, index.reader, WordEmbedder(), index.close)
    try:
        question = "Who designed the Aurora pump?"
        events = list(chain.stream([{"role": "user", "content": question}], ChainContext()))
        citation = next(event for event in events if isinstance(event, Citation))
        assert citation.text == "The Aurora pump was designed by Ingrid Halvorsen in 1987."
        assert chain.version_info["generation"] == pinned["index"]["generation"]
        assert chain.version_info["model"] == "llmops/quoting"
    finally:
        chain.close()


def test_chain_of_another_format_or_embedder_is_not_opened(config: RagConfig, registry: Registry) -> None:
    pinned = _pinned(config, registry) | {"state": config.state.model_dump(mode="json")}
    with pytest.raises(UserError, match="format"):
        open_chain(pinned | {"format": 999})
    with pytest.raises(NotFoundError):  # this index was made by an embedder that no configuration names
        open_chain(pinned)


def _pinned(config: RagConfig, registry: Registry) -> dict[str, Any]:
    """The configuration as the artefact holds it."""
    import yaml

    version = register_chain(config, registry).chain
    described = yaml.safe_load((config.state.root / version.source / "MLmodel").read_text())
    pinned: dict[str, Any] = described["flavors"]["python_function"]["config"]
    return pinned


def test_validation_looks_into_a_registered_index(config: RagConfig, registry: Registry) -> None:
    """Found by entry point: registry knows no index."""
    asked = ValidationSpec(documentation=Documentation(description=False))
    index = register_chain(config, registry).index
    report = validate(index, asked, registry)
    found = {finding.check: finding for finding in report.findings}
    assert {check: finding.verdict for check, finding in found.items()} == {"place": "pass", "index": "pass"}
    assert found["index"].measured["chunks"] == 2
    gone = Candidate(Kind.INDEX, index.name, Pointer(f"index/{index.name}#gone"), digest="0" * 64)
    report = validate(registry.register(gone), asked, registry)
    assert [(f.check, f.verdict) for f in report.findings] == [("place", "pass"), ("index", "fail")]


def test_a_chain_of_ours_is_validated_in_a_confined_process(
    config: RagConfig, registry: Registry, tmp_path: Path
) -> None:
    """It opens its index, behind fences; the tests' embedder is in no release, so that is what it says."""
    report = validate(register_chain(config, registry).chain, ValidationSpec(), registry)
    (load,) = [finding for finding in report.findings if finding.check == "load"]
    assert load.verdict == "fail"
    assert "embed" in load.what
