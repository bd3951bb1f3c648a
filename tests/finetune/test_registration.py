"""From a run's folder to a challenger: versions, lineage, evidence, verdicts; and what is refused on the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.trained import NAME, base_in, job, scores, trained

from llmops.core.chain import Chain, ChainContext, Delta, Done, Retrieval
from llmops.core.errors import GateFailedError, IntegrityError, UserError
from llmops.core.state import StateConfig
from llmops.finetune import registration
from llmops.finetune.artefact import PLACE, tensors
from llmops.finetune.results import Result
from llmops.registry import Kind, Registry
from llmops.registry.promotion import Promoter, State


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> StateConfig:
    return StateConfig(dir=tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_in(tmp_path_factory.mktemp("models"))


@pytest.fixture
def registry(state: StateConfig) -> Iterator[Registry]:
    with Registry(state) as opened:
        yield opened


def said(chain: Chain, question: str = "what is it") -> str:
    events = list(chain.stream([{"role": "user", "content": question}], ChainContext(settings={"max_tokens": 8})))
    assert isinstance(events[0], Retrieval)
    assert isinstance(events[-1], Done)
    return "".join(event.text for event in events if isinstance(event, Delta))


def test_a_better_result_becomes_challenger_with_evidence_and_answers(
    state: StateConfig, base: Path, registry: Registry
) -> None:
    config = job(base)
    folder = trained(state, config)
    version = registration.register(folder, config, registry)
    assert (str(version.name), version.kind, version.version) == (NAME, Kind.ADAPTER, 1)
    assert "challenger" in version.aliases
    assert folder.record().version == str(version.ref)
    gates = {record.gate: record.verdict for record in registry.evidence(version)}
    assert gates == {"finetune": "pass", "comparison": "pass", "validation": "pass"}
    judged = next(record for record in registry.evidence(version) if record.gate == "finetune")
    assert (judged.effect, judged.n.challenger if judged.n else 0) == (pytest.approx(0.8), 60)
    relations = {found.edge.relation.value for found in registry.lineage(version.ref)}
    assert {"base_model", "dataset", "code"} <= relations
    chain = registry.load_chain(version)
    assert said(chain)
    chain.close()
    # Nothing new comes of a repeat, whatever was interrupted; and the default policy lets it become champion.
    assert registration.register(folder, config, registry).version == 1
    assert len(registry.evidence(version)) == 3
    assert Promoter(registry).promote(version.ref).state is State.PROMOTED


def test_a_worse_result_is_registered_and_refused_with_evidence(
    state: StateConfig, base: Path, registry: Registry
) -> None:
    config = job(base, eval={"gate": {"exact_match_min": 0.8}})
    folder = trained(state, config, seed=2, found=scores(before=0.9, after=0.5))
    with pytest.raises(GateFailedError, match=r"exact_match is 0\.5 on 60.*not better than its base") as refused:
        registration.register(folder, config, registry)
    assert refused.value.exit_code == 3
    version = registry.resolve(str(folder.record().version))
    assert "challenger" not in version.aliases
    assert [record.verdict for record in registry.evidence(version) if record.gate == "finetune"] == ["fail"]
    # Validating it by hand is no way around: the kind's own check reads the gate's verdict.
    with pytest.raises(GateFailedError, match="refused by the fine-tuning gate"):
        registration.offer(version, registry)


@pytest.mark.parametrize(
    ("found", "gate", "words"),
    [
        (scores(before=0.5, after=0.52), {}, "not shown to be better"),
        (scores(before=0.0, after=1.0, n=12), {}, "12 held-out examples say too little"),
        (scores(n=0), {}, "nothing was measured that could be compared"),
        (scores(), {"preference_accuracy_min": 0.9}, "preference_accuracy was not measured"),
    ],
)
def test_what_cannot_be_told_is_no_pass(
    state: StateConfig, base: Path, registry: Registry, found: tuple[object, ...], gate: dict[str, float], words: str
) -> None:
    config = job(base, eval={"gate": gate})
    folder = trained(state, config, seed=3, found=found)  # type: ignore[arg-type]
    with pytest.raises(GateFailedError, match=words):
        registration.register(folder, config, registry)


def test_the_same_weights_are_one_version_and_paths_stay_outside(
    state: StateConfig, base: Path, registry: Registry, tmp_path: Path
) -> None:
    config = job(base, name="again")
    folder = trained(state, config)
    version = registration.made(folder, config, Result.load(folder), registry)
    assert version.version == 1
    files = registry.files(version)
    told = [path for path in files.rglob("*") if path.is_file() and str(tmp_path.parent).encode() in path.read_bytes()]
    assert [path.name for path in told] in ([], ["MLmodel", "adapter_config.json"], ["adapter_config.json", "MLmodel"])


def test_another_base_under_the_same_name_is_refused(state: StateConfig, registry: Registry, tmp_path: Path) -> None:
    mine = base_in(tmp_path)
    config = job(mine, name="moved", track={"register_as": "dev.support.moved"})
    version = registration.made(folder := trained(state, config), config, Result.load(folder), registry)
    weights = mine / "model.safetensors"
    bytes_ = bytearray(weights.read_bytes())
    bytes_[-1] ^= 1
    weights.write_bytes(bytes_)
    with pytest.raises(IntegrityError, match="not the model that this adapter was trained on"):
        registry.load_chain(version)


def test_files_that_would_be_run_are_refused(state: StateConfig, base: Path, registry: Registry) -> None:
    config = job(base, name="unsafe")
    folder = trained(state, config, seed=4)
    (folder.model / "training_args.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(UserError, match=r"training_args\.bin.* would be run or unpickled"):
        registration.register(folder, config, registry)


def test_whole_weights_are_an_llm_that_answers(state: StateConfig, base: Path, registry: Registry) -> None:
    config = job(base, name="whole", method={"kind": "full"}, track={"register_as": "dev.support.whole"})
    folder = trained(state, config, seed=5)
    version = registration.made(folder, config, Result.load(folder), registry)
    assert version.kind is Kind.LLM
    chain = registry.load_chain(version)
    assert said(chain) == said(chain)
    loaded = registry.load_model(version)  # by MLflow itself
    asked = {"messages": [{"role": "user", "content": "what is it"}]}
    assert loaded.predict(asked)[0].startswith(said(chain)[:5])
    with pytest.raises(UserError, match="unknown setting `filters`"):
        list(chain.stream([{"role": "user", "content": "a"}], ChainContext(settings={"filters": {"a": 1}})))


def test_a_header_that_lies_is_told(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.safetensors"
    for data in (b"", b"\xff" * 8, (10).to_bytes(8, "little") + b"not json!!", b"\x02" + b"\0" * 7 + b"{}extra"):
        path.write_bytes(data)
        with pytest.raises(IntegrityError):
            list(tensors(path))
    assert PLACE == "model"
