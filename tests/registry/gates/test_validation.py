"""Validation of real MLflow models in real processes: every check, each once passing and once not."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet
from tests.registry.gates.conftest import Register, found
from tests.support.fraud import Fraud, payments

from llmops.core.errors import NotFoundError, UserError
from llmops.core.identity import Principal
from llmops.core.names import Name
from llmops.registry import Candidate, Kind, Pointer, PromptText, Registry, SavedModel
from llmops.registry.gates import Report, ValidationSpec, validate


def spec(**asked: object) -> ValidationSpec:
    return ValidationSpec.model_validate({"documentation": {"description": False}, **asked})


def test_a_good_model_passes_what_it_should(full_report: Report, fraud: Fraud) -> None:
    passed = {(f.check, f.slice) for f in full_report.findings if f.verdict == "pass"}
    assert passed >= {
        ("documentation:description", None),
        ("documentation:owner", None),
        ("files", None),
        ("load", None),
        ("signature", None),
        ("example", None),
        ("schema", None),
        ("outputs", None),
        ("determinism", None),
        ("metric:roc_auc", None),
        ("metric:roc_auc", "region = north"),
        ("metric:roc_auc", "region = south"),
        ("metric:tests.support.gate_plugins:mean_score", None),
        ("latency:row_p95_ms", None),
        ("size_mb", None),
        ("peak_memory_mb", None),
        ("amount", None),
    }
    assert full_report.facts["isolation"] == {"network": "seccomp", "files": "landlock"}
    assert 1e3 < full_report.facts["size_bytes"] < 1e6
    assert 5e7 < full_report.facts["peak_memory_bytes"] < 2e9


def test_what_is_not_met_says_what_where_and_by_how_much(full_report: Report) -> None:
    recall = found(full_report, "metric:recall")
    assert (recall.verdict, recall.limit) == ("fail", ">= 0.99")
    assert recall.interval is not None
    assert recall.interval[0] < recall.measured < recall.interval[1] < 0.99
    slow = found(full_report, "latency:batch_p50_ms")
    assert slow.verdict == "fail"
    assert slow.measured > 0.001
    broken = found(full_report, "own:tests.support.gate_plugins:breaks")
    assert (broken.verdict, broken.what) == ("fail", "the check itself failed: ValueError: no such thing")


def test_a_slice_of_few_rows_decides_nothing(full_report: Report) -> None:
    few = found(full_report, "metric:roc_auc", "amount > 700")
    assert few.verdict == "inconclusive"
    assert few.n is not None
    assert 0 < few.n < 30
    assert full_report.verdict == "fail"  # one failure outweighs what is open


def test_the_evidence_tells_all_that_another_needs(full_report: Report, fraud: Fraud) -> None:
    record = full_report.evidence(Principal("key:ci", "service"), parents=["a" * 64])
    assert (record.gate, record.verdict, record.actor, record.parents) == ("validation", "fail", "key:ci", ("a" * 64,))
    assert record.asset.digest == fraud.good.digest
    assert record.data is not None
    assert record.data.filter == "hour >= 1"
    assert 1800 < record.data.rows < 2000
    assert record.env.lock_digest
    assert record.method.params["spec"]["data"]["label"] == "fraud"
    assert len(record.method.params["findings"]) == len(full_report.findings)
    assert record == full_report.evidence(Principal("key:ci", "service"), parents=["a" * 64])


def test_labels_only_give_no_probabilities(fraud: Fraud, fraud_registry: Registry) -> None:
    asked = spec(
        data={"table": str(fraud.rows), "label": "fraud"},
        metrics=[{"metric": "roc_auc", "min": 0.5}, {"metric": "accuracy", "min": 0.7}],
    )
    report = validate("dev.fraud.clf/3", asked, fraud_registry)
    auc = found(report, "metric:roc_auc")
    assert (auc.verdict, auc.what) == ("fail", "`roc_auc` needs probabilities; the version gives labels only")
    assert found(report, "metric:accuracy").verdict == "pass"


def test_rows_that_drifted_from_the_signature_are_told(fraud: Fraud, fraud_registry: Registry, tmp_path: Path) -> None:
    table = payments(100, 5).drop_columns(["region"])
    table = table.set_column(
        0, "amount", pa.array([f"{value:.2f} EUR" for value in table.column("amount").to_pylist()])
    )
    parquet.write_table(table, tmp_path / "drifted.parquet")
    asked = spec(data={"table": str(tmp_path / "drifted.parquet"), "label": "fraud"})
    report = validate(fraud.good, asked, fraud_registry)
    schema = found(report, "schema")
    assert schema.verdict == "fail"
    assert schema.measured == [
        "`amount` is double in the signature and string in the rows",
        "`region` (string) is missing",
    ]
    assert found(report, "predict").verdict == "fail"  # and MLflow itself refuses them


def test_an_odd_model_is_seen_through(register: Register, registry: Registry, fraud: Fraud) -> None:
    asked = spec(data={"table": str(fraud.rows), "label": "fraud"}, metrics=[{"metric": "accuracy", "min": 0.1}])
    report = validate(register("odd"), asked, registry)
    assert found(report, "signature").verdict == "fail"
    assert found(report, "example").verdict == "fail"
    missing = found(report, "outputs")
    assert missing.verdict == "fail"
    assert missing.measured > 0
    assert found(report, "determinism").verdict == "fail"
    assert not [f for f in report.findings if f.check == "metric:accuracy"]  # there is nothing to measure
    assert report.verdict == "fail"


def test_prompts_are_checked_as_texts(registry: Registry) -> None:
    text = "Answer {question} from {{ passages }}."
    version = registry.register(Candidate(Kind.PROMPT, Name.parse("dev.docs.prompt"), PromptText(text)))
    asked = spec(prompt={"variables": ["question", "passages", "language"]})
    report = validate(version, asked, registry)
    assert [(f.check, f.verdict) for f in report.findings] == [
        ("files", "pass"),
        ("prompt:question", "pass"),
        ("prompt:passages", "pass"),
        ("prompt:language", "fail"),
    ]


def test_places_are_looked_at(registry: Registry) -> None:
    (registry.state.root / "index" / "dev.docs.index").mkdir(parents=True)
    for number, (place, verdict) in enumerate(
        [("index/dev.docs.index#g1", "pass"), ("index/gone#g1", "fail"), ("s3://bucket/index", "pass")]
    ):
        candidate = Candidate(Kind.ROUTE, Name.parse("dev.docs.route"), Pointer(place), digest=f"{number:064x}")
        report = validate(registry.register(candidate), spec(), registry)
        assert found(report, "place").verdict == verdict


def test_what_the_asker_gets_wrong_is_an_error(fraud: Fraud, fraud_registry: Registry, tmp_path: Path) -> None:
    rows = {"table": str(fraud.rows), "label": "fraud"}
    for asked, error, words in [
        ({"data": {"table": "gone.parquet", "label": "fraud"}}, NotFoundError, "no such file"),
        ({"data": {"table": str(fraud.rows), "label": "frau"}}, UserError, "no column `frau`"),
        ({"data": rows | {"filter": "amuont > 3"}}, UserError, "does not fit the table"),
        ({"data": rows | {"filter": "amount < 0"}}, UserError, "no row is left"),
        ({"data": rows, "slices": ["amount"]}, UserError, "2,000 values"),
        ({"data": rows, "slices": ["amount + 1"]}, UserError, "neither a column nor a condition"),
        ({"data": rows, "metrics": [{"metric": "acuracy", "min": 1}]}, NotFoundError, "no metric `acuracy`"),
        ({"questions": {"file": "q.yaml"}}, UserError, "answers no questions"),
    ]:
        with pytest.raises(error, match=words):
            validate(fraud.good, spec(**asked), fraud_registry)


def test_a_file_of_another_format_is_told(fraud: Fraud, fraud_registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match="cannot be read"):
        validate(fraud.good, spec(data={"table": str(tmp_path / "rows.parquet"), "label": "fraud"}), fraud_registry)


def test_an_artefact_that_was_changed_fails_before_any_process(
    registry: Registry, fraud: Fraud, tmp_path: Path
) -> None:
    version = registry.register(
        Candidate(Kind.MODEL, Name.parse("dev.fraud.copy"), SavedModel(str(fraud.rows.parent / "good")))
    )
    stored = registry.state.root / version.source
    (stored / "model.pkl").write_bytes(b"changed")
    report = validate(version, spec(), registry)
    files = found(report, "files")
    assert (files.verdict, files.measured) == ("fail", "integrity")
    assert "`model.pkl` was changed" in files.what
    assert not [f for f in report.findings if f.check == "load"]


def test_a_specification_is_checked_by_its_own_rules() -> None:
    for asked, words in [
        ({"data": {"table": "x", "label": "y"}, "metrics": [{"metric": "f1"}]}, "give `min`"),
        ({"slices": ["region"]}, "need `data`"),
        ({"metrics": [{"metric": "f1", "min": 1}]}, "need `data`"),
    ]:
        with pytest.raises(ValueError, match=words):
            spec(**asked)
