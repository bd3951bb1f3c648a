"""A real run of four steps: its report adds up, and what it learned is in its export."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.tiny_lm import tiny_base

from llmops.core.state import StateConfig
from llmops.finetune.config import FinetuneConfig
from llmops.finetune.export import export
from llmops.finetune.export.found import locate_result
from llmops.finetune.quiet import quiet_transformers
from llmops.finetune.runs import find_run
from llmops.finetune.train import run_job
from llmops.registry.mlflow_adapter import MlflowStore


def tracked_runs(state: StateConfig, experiment: str) -> list[str]:
    store = MlflowStore(state, "dev")
    with store.client() as (_, client):
        found = client.search_runs([store.experiment(client, experiment)])
        return [run.data.tags["llmops.run"] for run in found if run.data.metrics["goodput.goodput"] > 0]


def test_report_and_export_of_a_real_run(tmp_path: Path) -> None:
    with quiet_transformers():
        base = tiny_base(tmp_path / "base")
    rows = [{"messages": [{"role": "user", "content": f"say {n}"}, {"role": "assistant", "content": f"{n} it is"}]}
            for n in range(40)]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = FinetuneConfig.model_validate(
        {
            "name": "bot",
            "model": {"path": str(base)},
            "method": {"r": 4},
            "data": {"sources": [{"uri": str(tmp_path / "rows.jsonl")}], "max_length": 64},
            "train": {"global_tokens_per_step": 256, "lr": 0.02, "budget": {"steps": 4}},
            "track": {"experiment": "docs.bot"},
            "eval": {"gate": {"beat_base": False}, "max_new_tokens": 4},
            "state": {"dir": str(tmp_path / "state")},
        }
    )
    record = run_job(config)
    folder = find_run(config.state, record.run_id)
    figures = folder.read("report.json")
    assert figures["steps"] == 4
    assert 0 < figures["mfu"] <= figures["hfu"] < 1
    assert 0 < figures["supervised_tokens"] < figures["tokens"]
    assert 0 < figures["goodput"]["goodput"] <= 1
    assert "MFU (4N FLOPs a token)" in (folder.path / "report.md").read_text()
    assert tracked_runs(config.state, "docs.bot") == [record.run_id]
    model, at = locate_result(record.run_id[:6], config.state)
    assert at == base
    done = export(model, at, tmp_path / "out", verify=False)
    assert done.figures["export.merged"]["adapter_moves"] > done.figures["export.merged"]["tolerance"]
