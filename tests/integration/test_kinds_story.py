"""A prompt, and an index with a chain that follows it: refused where worse, promoted where better, and back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.docs_model import DocsModel
from tests.support.serving import eventually
from tests.support.upstream import running_upstream

from llmops.core.chain import ChainContext, Delta, Retrieval
from llmops.core.errors import UserError
from llmops.core.names import Ref
from llmops.core.state import StateConfig
from llmops.rag.config import RagConfig
from llmops.rag.ingest.refresh import refresh
from llmops.rag.packaging import Registered, register_chain
from llmops.registry import Registry
from llmops.registry.gates import ComparisonSpec, Report, ValidationSpec, compare, file_report, validate
from llmops.registry.promotion import Promoter
from llmops.registry.records import Candidate, Kind, PromptText, Version

ROOT = Path(__file__).parents[2]
FACTS = {
    "pump": "The Aurora pump was designed by Ingrid Halvorsen in 1987.",
    "hall": "The turbine hall was opened by the mayor of Tromso.",
    "leave": "Every employee has thirty days of paid leave a year.",
    "travel": "Hotels may cost at most 140 euros a night.",
    "garage": "The garage on Mill Street has forty places.",
    "badge": "A lost badge is reported to the porter within an hour.",
    "canteen": "The canteen serves fish on every second Friday.",
    "boiler": "The boiler is inspected by Lund and Sons each March.",
}
ASKED = [
    ("pump", "Who designed the Aurora pump?", "Ingrid Halvorsen"),
    ("hall", "Who opened the turbine hall?", "mayor of Tromso"),
    ("leave", "How many days of paid leave has every employee?", "thirty days"),
    ("travel", "How much may a hotel cost a night?", "140 euros"),
    ("garage", "How many places has the garage on Mill Street?", "forty"),
    ("badge", "To whom is a lost badge reported?", "porter"),
    ("canteen", "When does the canteen serve fish?", "Friday"),
    ("boiler", "Who inspects the boiler?", "Lund and Sons"),
]


class Office:
    """A folder with eight documents, eight questions, a model, and a registry over it."""

    def __init__(self, folder: Path, registry: Registry, llm: str) -> None:
        self.folder, self.registry, self.promoter = folder, registry, Promoter(registry)
        self.questions = str(folder / "questions.yaml")
        self.llm = {"model": "test", "url": llm}

    def made(self, size_chars: int = 800, **more: Any) -> Registered:
        index = {"sources": [{"path": str(self.folder / "docs")}], "chunking": {"size_chars": size_chars}}
        told = {"answer": {"llm": self.llm}, **more}
        job = RagConfig.model_validate({"state": self.registry.state, "index": index, **told})
        refresh(job.index, job.state)
        return register_chain(job, self.registry, description="answers about the office")

    def prompt(self, name: str, more: str = "") -> Version:
        text = (ROOT / "configs" / "prompts" / f"{name}.txt").read_text() + more
        candidate = Candidate(Kind.PROMPT, Ref.parse("docs.chat_prompt/1").name, PromptText(text), description=name)
        return self.registry.register(candidate, crown_first=False)

    def validated(self, version: Version, **questions: Any) -> Report:
        spec = ValidationSpec.model_validate(
            {"questions": {"file": self.questions, "refused_min": 0, **questions}, "limits": {"network": True}}
        )
        return self._filed(validate(version, spec, self.registry))

    def compared(self, version: Version, through: dict[str, Any] | None = None, **spec: Any) -> Report:
        given = {
            "questions": {"file": self.questions, "through": through or {}}, "min_rows": 6, "limits": {"network": True},
            "baseline": {"kind": "refuse"}, **spec,
        }  # fmt: skip
        return self._filed(compare(version, None, ComparisonSpec.model_validate(given), self.registry))

    def promoted(self, version: Version) -> str:
        return self.promoter.promote(version.ref).state.value

    def _filed(self, report: Report) -> Report:
        file_report(report, self.registry)
        return report


@pytest.fixture
def office(tmp_path: Path, embedder_cache: Path) -> Iterator[Office]:
    (tmp_path / "docs").mkdir()
    for name, fact in FACTS.items():
        (tmp_path / "docs" / f"{name}.md").write_text(f"# About the {name}\n\n{fact}\n")
    asked = [
        {"id": name, "question": question, "answer": answer, "relevant": [FACTS[name].split(" ", 1)[1].rstrip(".")]}
        for name, question, answer in ASKED
    ]
    (tmp_path / "questions.yaml").write_text(yaml.safe_dump(asked))
    shutil.copytree(embedder_cache, tmp_path / "state" / "cache")
    with running_upstream() as upstream, Registry(StateConfig(dir=tmp_path / "state")) as registry:
        upstream.answer = DocsModel(tmp_path / "questions.yaml")
        yield Office(tmp_path, registry, upstream.url)


def test_a_prompt_is_judged_in_the_chain_that_uses_it(office: Office) -> None:
    vague = {"prompt_file": str(ROOT / "configs" / "prompts" / "vague.txt"), "llm": office.llm}
    chain = office.made(name="docs.chat", answer=vague).chain
    through = {"chain": "docs.chat@champion"}

    better = office.prompt("exact")
    assert office.validated(better, through=through, cited_min=0.5).verdict == "pass"
    won = office.compared(better, through, metric="contains")
    assert won.verdict == "pass"
    assert won.facts["through"][str(better.ref)] == {"chain": str(chain.ref), "digest": chain.digest}
    assert office.promoted(better) == "promoted"

    worse = office.prompt("vague", "Be brief.")
    assert office.validated(worse, through=through, cited_min=0).verdict == "pass"
    assert office.compared(worse, through, metric="contains").verdict == "fail"
    assert office.promoted(worse) == "rejected"

    made = office.made(name="docs.chat", answer={"prompt": "docs.chat_prompt@champion", "llm": office.llm})
    assert made.prompt.ref == better.ref
    office.promoter.rollback("dev.docs.chat_prompt", reason="too terse")
    assert office.registry.resolve("docs.chat_prompt@champion").version == 1

    quoting = office.made(name="docs.quoting", answer={}).chain
    for wrong, told in (
        ({}, "which chain"),
        ({"chian": "docs.chat"}, "unknown key `chian`"),
        ({"chain": str(quoting.ref)}, "asks no model"),
    ):
        with pytest.raises(UserError, match=told):
            office.validated(better, through=wrong)


def test_a_following_chain_answers_from_the_generation_that_is_champion(office: Office) -> None:
    made = office.made(name="docs.chat", generation="champion", answer={})
    judged = {"answered_min": 0, "cited_min": 0, "scores": [{"metric": "recall@10", "min": 0.9}]}
    guards: dict[str, Any] = {"metric": "recall@10", "claim": "not_worse", "margin": 0.5}
    (chain, first), later = (
        (made.chain, made.index),
        office.made(size_chars=400, name="docs.chat", generation="champion", answer={}),
    )
    second = later.index
    assert (later.chain.ref, first.version, second.version) == (chain.ref, 1, 2)
    assert office.validated(chain, cited_min=0.5).facts["index"]["generation"] == first.source.partition("#")[2]

    running = office.registry.load_chain(chain.ref)
    try:
        assert answered(running) == first.source.partition("#")[2]
        assert office.validated(second, **judged).verdict == "pass"
        assert office.compared(second, **guards).verdict == "pass"
        assert answered(running) == first.source.partition("#")[2]
        assert office.promoted(second) == "promoted"
        eventually(lambda: answered(running) == second.source.partition("#")[2])
        office.promoter.rollback("dev.docs.index", reason="slower")
        eventually(lambda: answered(running) == first.source.partition("#")[2])
    finally:
        running.close()

    third = office.made(size_chars=50, name="docs.chat", generation="champion", answer={}).index
    assert office.validated(third, **judged).verdict == "fail"
    assert office.compared(third, **guards | {"margin": 0.1}).verdict != "pass"
    assert office.promoted(third) == "rejected"


def answered(chain: Any) -> str:
    """The generation of one answer, which must say what was asked."""
    events = list(chain.stream([{"role": "user", "content": "Who designed the Aurora pump?"}], ChainContext()))
    assert "Ingrid" in "".join(event.text for event in events if isinstance(event, Delta))
    return next(event.generation for event in events if isinstance(event, Retrieval))
