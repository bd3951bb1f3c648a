"""Comparison of real models and chains in real processes: verdicts, evidence, heuristics, and whose fault it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tests.registry.gates.conftest import Register, found
from tests.support.fraud import Fraud

from llmops.core.errors import ConflictError, UserError
from llmops.core.identity import LOCAL
from llmops.registry import Kind, Registry
from llmops.registry.gates import ComparisonSpec, ValidationSpec, baseline, compare, validate
from llmops.registry.gates.heldout import read_heldout
from llmops.registry.gates.spec import Baseline, DataConfig

QUESTIONS = [
    {
        "id": "rename",
        "question": "What does a renamed document embed?",
        "answer": "A renamed document embeds nothing",
        "cites": "guide/ingest.pdf",
        "tags": {"topic": "ingest"},
    },
    {
        "id": "thumbs",
        "question": "What is kept with every thumb?",
        "answer": "the request it judges",
        "cites": "guide/feedback.md",
        "tags": {"topic": "feedback"},
    },
    {"id": "salary", "question": "Whether zebras yodel?", "refuse": True, "tags": {"topic": "other"}},
]


def rows(fraud: Fraud, **asked: Any) -> ComparisonSpec:
    values = {"data": {"table": str(fraud.rows), "label": "fraud"}, "metric": "log_loss", "resamples": 300}
    return ComparisonSpec.model_validate(values | asked)


@pytest.fixture
def asked(tmp_path: Path) -> dict[str, Any]:
    """The questions, many times over so that they say enough."""
    many = [entry | {"id": f"{entry['id']} {number}"} for number in range(12) for entry in QUESTIONS]
    (tmp_path / "questions.yaml").write_text(yaml.safe_dump(many))
    return {"questions": {"file": str(tmp_path / "questions.yaml")}, "resamples": 300, "min_rows": 10}


def test_a_worse_model_is_refused_and_a_better_one_passes(fraud: Fraud, fraud_registry: Registry) -> None:
    spec = rows(fraud, slices=["region"], margin=0.02, guardrails=[{"metric": "roc_auc", "margin": 0.05}])
    better = compare(fraud.good, fraud.weak, spec, fraud_registry)
    assert better.verdict == "pass"
    assert {(f.check, f.slice) for f in better.findings} == {
        ("effect:log_loss", None),
        ("guard:roc_auc", None),
        ("guard:log_loss", "region = north"),
        ("guard:log_loss", "region = south"),
    }
    record = better.evidence(LOCAL)
    assert (record.gate, record.alpha, record.method.seed) == ("comparison", 0.05, 0)
    assert record.baseline is not None
    assert record.baseline.digest == fraud.weak.digest
    assert record.effect is not None
    assert record.ci_low is not None
    assert record.ci_high is not None
    assert record.ci_low < record.effect < record.ci_high < 0  # a loss: less is better
    assert record.n is not None
    assert record.n.champion == record.n.challenger == 2000
    worse = compare("dev.fraud.clf/2", "dev.fraud.clf/1", spec, fraud_registry)
    assert worse.verdict == "fail"
    assert found(worse, "effect:log_loss").verdict == "fail"
    assert worse.data == better.data


def test_the_first_version_has_to_beat_a_heuristic(fraud: Fraud, fraud_registry: Registry) -> None:
    with pytest.raises(UserError, match="no champion to compare with"):
        compare(fraud.good, None, rows(fraud), fraud_registry)
    report = compare(fraud.good, None, rows(fraud, baseline={"kind": "majority"}), fraud_registry)
    assert report.verdict == "pass"
    assert report.baseline is None
    assert report.evidence(LOCAL).method.params["heuristic"] == {"kind": "majority"}


def test_heuristics_are_what_they_say(fraud: Fraud) -> None:
    config = DataConfig(table=str(fraud.rows), label="fraud")
    heldout = read_heldout(config, fraud.state)
    above = [int(amount > 150) for amount in heldout.table.column("amount").to_pylist()]
    for heuristic, predicted in [
        ({"kind": "majority"}, [0] * 2000),
        ({"kind": "constant", "value": 1}, [1] * 2000),
        ({"kind": "rule", "expression": "amount > 150"}, above),
        ({"kind": "rule", "expression": "CASE WHEN amount > 150 THEN 1 ELSE 0 END"}, above),
        ({"kind": "function", "function": "tests.support.gate_plugins:by_amount"}, above),
    ]:
        judged = baseline.predicted(Baseline.model_validate(heuristic), heldout, config)
        assert judged.predicted.tolist() == predicted
        assert judged.scores is not None  # so that they can be compared by any metric
    numbers = config.model_copy(update={"label": "amount"})
    rows_ = read_heldout(numbers, fraud.state)
    mean, median = (baseline.predicted(Baseline(kind=kind), rows_, numbers) for kind in ("mean", "median"))
    assert mean.predicted[0] == pytest.approx(rows_.labels.mean())
    assert median.predicted[7] == pytest.approx(np.median(rows_.labels))
    for kind, words in [("mean", "none for classification"), ("refuse", "one for chains")]:
        with pytest.raises(UserError, match=words):
            baseline.predicted(Baseline(kind=kind), heldout, config)


def test_two_that_cannot_be_compared_say_so(
    fraud: Fraud, fraud_registry: Registry, register: Register, asked: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match="compared with itself"):
        compare(fraud.good, fraud.good, rows(fraud), fraud_registry)
    with pytest.raises(UserError, match="is a chain: it predicts no rows"):
        compare(register("small_chain", Kind.CHAIN), fraud.good, rows(fraud), fraud_registry)
    with pytest.raises(UserError, match="answers no questions"):
        compare(fraud.good, fraud.weak, ComparisonSpec.model_validate(asked | {"metric": "contains"}), fraud_registry)
    with pytest.raises(UserError, match="does not give what `roc_auc` needs"):
        compare(fraud.labels, fraud.good, rows(fraud, metric="roc_auc"), fraud_registry)


def test_whose_fault_it_is_decides(fraud: Fraud, register: Register, registry: Registry) -> None:
    """A challenger that fails is refused; a champion that fails leaves the question open."""
    odd, other = register("odd"), register("odd", again=1)
    report = compare(other, odd, rows(fraud, metric="accuracy"), registry)
    assert found(report, "champion").verdict == "inconclusive"
    assert found(report, "challenger").verdict == "fail"
    assert report.verdict == "fail"
    assert report.effect is None
    stored = registry.state.root / other.source
    (stored / "odd.py").write_text("changed")
    changed = compare(other, odd, rows(fraud, metric="accuracy"), registry)
    assert (found(changed, "challenger").verdict, found(changed, "challenger").measured) == ("fail", "integrity")


def test_a_chain_that_lost_a_document_is_refused(register: Register, registry: Registry, asked: dict[str, Any]) -> None:
    whole = register("small_chain", Kind.CHAIN)
    less = register("small_chain", Kind.CHAIN, without=["guide/feedback.md"])
    spec = ComparisonSpec.model_validate(
        asked | {"metric": "contains", "slices": ["topic"], "guardrails": [{"metric": "cites"}], "margin": 0.3}
    )
    worse = compare(less, whole, spec, registry)
    assert worse.verdict == "fail"
    assert found(worse, "effect:contains").measured == -0.5
    assert found(worse, "guard:contains", "topic = feedback").verdict == "fail"
    assert found(worse, "guard:cites").verdict == "fail"
    assert worse.facts["index"] == {who: {"generation": "g1", "seq": 12} for who in ("champion", "challenger")}
    record = worse.evidence(LOCAL)
    assert record.data is not None
    assert (record.data.rows, record.data.table) == (36, asked["questions"]["file"])
    assert record.method.params["facts"]["index"]["champion"]["seq"] == 12
    assert compare(whole, less, spec, registry).verdict == "pass"


def test_a_first_chain_has_to_beat_one_that_always_refuses(
    register: Register, registry: Registry, asked: dict[str, Any]
) -> None:
    spec = ComparisonSpec.model_validate(asked | {"metric": "refusal", "baseline": {"kind": "refuse"}})
    assert compare(register("small_chain", Kind.CHAIN), None, spec, registry).verdict == "pass"


def test_an_index_that_moves_voids_the_comparison(
    register: Register, registry: Registry, asked: dict[str, Any]
) -> None:
    chain = register("small_chain", Kind.CHAIN)
    spec = ComparisonSpec.model_validate(asked | {"metric": "contains"})
    with pytest.raises(ConflictError, match="moved from 13 to 48 while"):
        compare(register("small_chain", Kind.CHAIN, moving=True), chain, spec, registry)
    with pytest.raises(ConflictError, match="moved from 12 to 20 between"):
        compare(register("small_chain", Kind.CHAIN, seq=20), chain, spec, registry)


def test_a_chain_is_validated_by_its_answers(register: Register, registry: Registry, asked: dict[str, Any]) -> None:
    questions = asked["questions"] | {
        "scores": [{"metric": "contains", "min": 0.9}, {"metric": "token_f1", "min": 0.99}],
        "answer_p95_ms": 60_000,
    }
    spec = ValidationSpec.model_validate({"questions": questions})
    report = validate(register("small_chain", Kind.CHAIN), spec, registry)
    verdicts = {finding.check: finding.verdict for finding in report.findings}
    assert verdicts == {
        "documentation:description": "pass",
        "files": "pass",
        "load": "pass",
        "answers": "pass",
        "citations": "pass",
        "refusals": "pass",
        "score:contains": "pass",
        "score:token_f1": "fail",
        "latency:answer_p95_ms": "pass",
    }
    assert report.facts["index"] == {"generation": "g1", "seq": 12}
    broken = validate(register("small_chain", Kind.CHAIN, endless=True), spec, registry)
    assert found(broken, "answer:rename 0").what == "its stream ends without `done`"
    untrue = validate(register("small_chain", Kind.CHAIN, untrue=True), spec, registry)
    assert found(untrue, "citations").verdict == "fail"
    assert found(untrue, "citations:stand").verdict == "fail"
