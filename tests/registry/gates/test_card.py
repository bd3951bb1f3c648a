"""The card: complete, content-addressed, beside its run in MLflow, and safe to open whatever a version is called."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tests.support.fraud import FEATURES, Fraud, payments, save

from llmops.core.errors import IntegrityError
from llmops.core.names import Name
from llmops.registry import Candidate, Kind, Registry, SavedModel
from llmops.registry.gates import ComparisonSpec, Report, compare, file_report, write_card
from llmops.registry.gates import page as pages
from llmops.registry.gates.card import card
from llmops.registry.gates.filing import filed_reports
from llmops.registry.gates.markdown import render, text
from llmops.registry.mlflow_adapter import MlflowStore, quiet_mlflow

EVIL = "<script>alert(1)</script>[x](javascript:alert(1)) | `*_ http://evil.example www.evil.example"


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


@pytest.fixture
def filed(full_report: Report, fraud: Fraud, fraud_registry: Registry) -> list[str]:
    """Both gates' reports on file about the good model."""
    asked = ComparisonSpec.model_validate(
        {
            "data": {"table": str(fraud.rows), "label": "fraud"},
            "metric": "log_loss",
            "resamples": 200,
            "baseline": {"kind": "majority"},
        }
    )
    validation = file_report(full_report, fraud_registry)
    return [validation, file_report(compare(fraud.good, None, asked, fraud_registry), fraud_registry, [validation])]


def test_a_card_holds_what_was_filed(fraud: Fraud, fraud_registry: Registry, filed: list[str]) -> None:
    approval = {"group": "risk", "decision": "approve", "by": "ada", "at": "2026-01-01", "comment": "looks fine"}
    written = write_card(fraud.good, fraud_registry, approvals=[approval])
    assert not written.in_mlflow  # no run made it
    contents = json.loads((written.folder / "card.json").read_text())
    assert [report["gate"] for report in contents["reports"]] == ["validation", "comparison"]
    assert [report["evidence_id"] for report in contents["reports"]] == filed
    assert {record["evidence_id"] for record in contents["evidence"]} >= set(filed)
    assert contents["statements"] == {"owner": "risk team", "intended_use": "payments in shops"}
    page, text_ = written.page.read_text(), (written.folder / "card.md").read_text()
    for shown in ("risk team", "roc_auc", "region = north", "looks fine", "log_loss", "majority", filed[0]):
        assert shown in page
        assert shown.replace("_", "\\_") in text_
    assert {"svg", "polyline", "circle", "table"} <= set(Tags(page).tags)
    assert write_card(fraud.good, fraud_registry, approvals=[approval]).digest == written.digest


def test_a_report_that_was_changed_is_told(fraud: Fraud, fraud_registry: Registry, filed: list[str]) -> None:
    folder = fraud_registry.state.root / "cards" / "dev.fraud.clf" / "1" / "reports"
    kept = {path: path.read_bytes() for path in folder.iterdir()}
    for path, before in kept.items():
        path.write_bytes(before.replace(b'"verdict":"fail"', b'"verdict":"pass"'))
    with pytest.raises(IntegrityError, match="changed after its evidence was filed"):
        filed_reports(fraud.good, fraud_registry)
    for path, before in kept.items():
        path.write_bytes(before)
    assert len(filed_reports(fraud.good, fraud_registry)) == 2


def test_no_text_of_a_version_becomes_more_than_text(full_report: Report, fraud: Fraud) -> None:
    version = replace(fraud.good, description=EVIL, tags={"owner": EVIL, EVIL: EVIL}, params={EVIL: EVIL})
    findings = [replace(full_report.findings[0], what=EVIL, slice=EVIL, hint=EVIL, measured=EVIL)]
    figures: dict[str, Any] = {
        "metrics": [
            {"metric": EVIL, "better": "high", "slice": EVIL, "n": 3, "value": None, "interval": None, "side": EVIL},
            {
                "metric": EVIL,
                "better": "high",
                "slice": EVIL,
                "n": 3,
                "value": -1.5,
                "interval": [-2.0, 1.0],
                "side": EVIL,
            },
        ],
        "confusion": {"classes": [EVIL, "b"], "counts": [[1, 2], [3, 4]]},
        "calibration": [{"score": 0.5, "share": 0.5, "n": 2}],
    }
    report = replace(full_report, version=version, findings=findings, figures=figures)
    contents = card(
        version,
        reports=[report.as_json()],
        evidence=[],
        lineage=[{"upstream": EVIL, "relation": EVIL, "downstream": EVIL}],
        approvals=[{"comment": EVIL}],
    )
    page = Tags(pages.render(contents))
    assert not {"script", "a", "img", "iframe", "link", "object"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in {"href", "src", "xlink:href"}]
    shown = render(contents)
    assert not re.search(r"(?<!\\)<script|(?<!\\)\[x|http://|www\.", shown)
    assert all(line.count("|") - line.count("\\|") >= 3 for line in shown.splitlines() if line.startswith("|"))


def test_cells_stay_cells() -> None:
    assert text("a|b\n# c") == "a\\|b \\# c"
    assert text(None) == ""


def test_the_card_lies_beside_the_run_that_made_the_model(registry: Registry, fraud: Fraud, tmp_path: Path) -> None:
    """A model logged in a run, as most training code does."""
    store = MlflowStore(registry.state, "dev")
    table = payments(50, 9)
    save(tmp_path / "saved", table.select(FEATURES).to_pandas(), table.column("fraud").to_numpy(), "predict")
    with quiet_mlflow() as mlflow, store.client() as (_, client):
        import mlflow.sklearn

        with mlflow.start_run(experiment_id=client.create_experiment("training")) as run:
            model = mlflow.sklearn.load_model(str(tmp_path / "saved"))
            info = mlflow.sklearn.log_model(
                model, name="clf", pip_requirements=["scikit-learn"], serialization_format="cloudpickle"
            )
    made = Candidate(Kind.MODEL, Name.parse("dev.fraud.logged"), SavedModel(info.model_uri))
    version = registry.register(made, crown_first=False)
    written = write_card(version, registry)
    assert written.in_mlflow
    with store.client() as (_, client):
        files = client.list_artifacts(run.info.run_id, f"llmops-card/{written.digest[:12]}")
    assert sorted(Path(file.path).name for file in files) == ["card.html", "card.json", "card.md"]
