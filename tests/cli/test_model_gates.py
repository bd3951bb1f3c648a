"""`llmops models validate` and `compare` as people start them: exit codes, evidence on file, cards, configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from tests.support import fraud as payments
from tests.support.fraud import Fraud

from llmops.cli import main as entry
from llmops.core.state import StateConfig
from llmops.registry import Registry
from llmops.registry.mlflow_adapter import MlflowStore


@pytest.fixture(scope="module")
def fraud(tmp_path_factory: pytest.TempPathFactory) -> Fraud:
    state = StateConfig(dir=tmp_path_factory.mktemp("mlflow"))
    MlflowStore(state, "dev").aliases()
    return payments.make(tmp_path_factory.mktemp("fraud"), state.root / "mlflow" / "dev.db")


def job(folder: Path, fraud: Fraud, **asked: object) -> str:
    values = {"state": {"dir": str(fraud.state.root)}, "data": {"table": str(fraud.rows), "label": "fraud"}, **asked}
    path = folder / f"{asked['job']}.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


def models(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = entry.run(["models", *arguments])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_validate(fraud: Fraud, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = job(tmp_path, fraud, job="validation", metrics=[{"metric": "roc_auc", "min": 0.7}])
    code, out, err = models(capsys, "validate", "dev.fraud.clf/1", "--config", config, "--json")
    told = json.loads(out)
    assert (code, told["verdict"], err) == (0, "pass", "")
    assert Path(told["card"]["page"]).is_file()
    code, out, err = models(capsys, "validate", "dev.fraud.clf/1", "--config", config, "--set", "metrics.0.min=0.999")
    assert code == 3
    assert "fail\tmetric:roc_auc\tall\t0.8" in out
    assert "dev.fraud.clf/1: validation fail; evidence " in err
    with Registry(fraud.state) as registry:
        filed = registry.evidence(registry.resolve("dev.fraud.clf/1"))
        assert [record.verdict for record in filed if record.gate == "validation"] == ["pass", "fail"]
        assert registry.show("dev.fraud.clf").aliases == {}  # nothing moved


def test_compare(fraud: Fraud, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = job(tmp_path, fraud, job="comparison", metric="log_loss", resamples=200, baseline={"kind": "majority"})
    code, out, _ = models(capsys, "compare", "dev.fraud.clf/2", "dev.fraud.clf/1", "--config", config, "--json")
    told = json.loads(out)
    assert (code, told["verdict"], told["baseline"]) == (3, "fail", "dev.fraud.clf/1")
    code, _, err = models(capsys, "compare", "dev.fraud.clf/1", "--config", config)
    assert code == 0
    assert "comparison pass" in err
    assert entry.run(["config", "validate", config]) == 0
    code, _, err = models(capsys, "compare", "dev.fraud.clf/1", "--config", config, "--set", "metrik=f1")
    assert code == 1
    assert "unknown key `metrik`" in err
