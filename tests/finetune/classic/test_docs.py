"""The page and the workflow files of classic models do what they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.support.snippets import DOCS, run_python

from llmops.finetune.classic.features import INPUTS
from llmops.finetune.classic.settings import TrainSettings, Trees, WorldSettings, read_settings
from llmops.registry.gates import ComparisonSpec, ValidationSpec
from llmops.registry.workflow.job import load_job

WORKFLOWS = DOCS.parent / "configs" / "workflows"


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert run_python("classic-models.md") == 3


def test_every_setting_is_named() -> None:
    page = (DOCS / "classic-models.md").read_text()

    for model in (TrainSettings, Trees, WorldSettings):
        for name in model.model_fields:
            assert f"`{name}`" in page, name


def test_the_workflow_says_what_its_tasks_understand() -> None:
    job = load_job(WORKFLOWS / "fraud.yaml", [], {})
    tasks = {task.name: task for task in job.config.tasks}
    params = job.params()

    assert list(tasks) == ["data", "train", "validate", "compare", "approval_risk", "deploy"]
    for name in ("data", "train"):
        given = {key: params.get(key, "fraud.fraud_clf") for key in tasks[name].settings}
        assert read_settings(given)
    for name, spec in (("validate", ValidationSpec), ("compare", ComparisonSpec)):
        given = {key: value for key, value in tasks[name].settings.items() if key != "version"}
        given["data"] = {**given["data"], "version": 1}  # type: ignore[dict-item] - a mapping in the file
        assert spec.model_validate(given)


def test_the_variants_of_the_comments_are_settings() -> None:
    text = (WORKFLOWS / "fraud.yaml").read_text()
    (left,) = re.findall(r"params\.leave_out=\[(.*?)\]", text)

    assert set(left.split(", ")) <= set(INPUTS)
    job = load_job(
        WORKFLOWS / "fraud.yaml", ["params.months=1", "params.train_until=2025-03", f"params.leave_out=[{left}]"], {}
    )
    assert read_settings({key: value for key, value in job.params().items() if key != "asset"}).months == 1


def test_the_exploration_is_a_workflow() -> None:
    job = load_job(WORKFLOWS / "fraud-explore.yaml", ["params.trials=3"], {})

    assert [task.name for task in job.config.tasks] == ["data", "explore", "search"]
