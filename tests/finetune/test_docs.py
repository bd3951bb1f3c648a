"""Every block of YAML on the pages and every shipped job is what it says: read, planned with all checks, rendered."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import orjson
import pytest
import yaml
from tests.support import preferences, training
from tests.support.snippets import DOCS
from tests.support.tiny_lm import tiny_base

from llmops.core.errors import UserError
from llmops.finetune.config import SUPERVISED, FinetuneConfig, LaunchConfig, MethodConfig, Task
from llmops.finetune.launch import render
from llmops.finetune.preflight import Preflight
from llmops.finetune.train import plan_job, run_job

CONFIGS = DOCS.parent / "configs" / "finetune"
PAGES = sorted(DOCS.glob("finetune*.md"))
SMALLEST: dict[str, Any] = {
    "job": "finetune",
    "model": {"path": "org/model"},
    "data": {"sources": [{"uri": "/shared/ft/chats.jsonl"}], "max_length": 96},
    "train": {"global_tokens_per_step": 4096, "budget": {"steps": 2}},
}


def blocks(page: Path) -> list[Any]:
    """A page's blocks of YAML."""
    found = re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [pytest.param(yaml.safe_load(text), id=f"{page.stem}-{number}") for number, text in enumerate(found)]


BLOCKS = [block for page in PAGES for block in blocks(page)]
WHOLE = [block for block in BLOCKS if "task" in block.values[0] and "model" in block.values[0]]
PARTS = [block for block in BLOCKS if block not in WHOLE]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with what the pages name: data of each kind, a reward, and a base."""
    place = tmp_path_factory.mktemp("project")
    tiny_base(place / "base", max_position_embeddings=4096)
    (place / "data").mkdir()
    preferences.pairs(place / "data" / "pairs.jsonl")
    preferences.thumbs(place / "data" / "thumbs.jsonl")
    preferences.asked(place / "data" / "questions.jsonl")
    written = {
        "data/chats.jsonl": training.rows(120),
        "tickets.jsonl": training.rows(120),
        "data/texts.jsonl": [{"text": f"on day {number} the order is {number % 7} foxes"} for number in range(120)],
    }
    for name, rows in written.items():
        (place / name).write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    (place / "shop").mkdir()
    (reward,) = re.findall(r"^```python\n(.*?)^```", (DOCS / "finetune-tasks.md").read_text(), re.MULTILINE | re.DOTALL)
    (place / "shop" / "rewards.py").write_text(reward)
    return place


def here(values: dict[str, Any], project: Path, **more: Any) -> FinetuneConfig:
    """A job as it stands, on a base that is here."""
    job = yaml.safe_load(yaml.safe_dump(values))
    if "path" in job["model"]:
        job["model"] = {"path": str(project / "base")}
    if "teacher" in job.get("generation", {}):
        job["generation"]["teacher"] = str(project / "base")
    return FinetuneConfig.model_validate({**job, "state": {"dir": str(project / "state")}, **more})


def planned(values: dict[str, Any], project: Path) -> Preflight:
    return plan_job(here(values, project)).preflight


@pytest.mark.parametrize("block", WHOLE)
def test_a_job_of_the_pages_is_ready_to_train(
    block: dict[str, Any], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    found = planned(block, project)
    assert found.failures == ()
    assert len(found.checks) > 10


@pytest.mark.parametrize("block", [block for block in WHOLE if block.values[0]["task"] in SUPERVISED])
def test_a_supervised_job_of_the_pages_trains(
    block: dict[str, Any], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of it; those of the other tasks are trained to their end in `test_trl`."""
    monkeypatch.chdir(project)
    train = {**block["train"], "budget": {"steps": 1}, "global_tokens_per_step": 4096}
    config = here(block, project, train=train, track={}, eval={"max_examples": 2, "max_new_tokens": 2})
    record = run_job(config)
    assert (record.stage, record.step) == ("done", 1)


@pytest.mark.parametrize("block", PARTS)
def test_a_part_of_the_pages_fits_into_a_job(
    block: dict[str, Any], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    sections = {name: {**SMALLEST.get(name, {}), **section} for name, section in block.items()}
    values = {**SMALLEST, **sections}
    config = FinetuneConfig.model_validate(values)
    if config.launch.kind != "local":
        assert render(config)
    elif "method" in block:
        job = {**values, "data": {**SMALLEST["data"], "sources": [{"uri": "data/chats.jsonl"}]}}
        if config.method.kind == "qlora":
            with pytest.raises(UserError, match="bitsandbytes"):
                planned(job, project)
        else:
            assert planned(job, project).failures == ()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_job_says_how_it_is_started_and_is_whole(path: Path) -> None:
    text = path.read_text()
    config = FinetuneConfig.model_validate(yaml.safe_load(text))
    assert config.launch.kind == "local" or render(config, path)
    assert config.model.job is None or (DOCS.parent / config.model.job).is_file()
    assert f"configs/finetune/{path.name}" in text + (CONFIGS / "quickstart.yaml").read_text()


def test_each_task_method_and_launcher_has_its_section() -> None:
    tasks, launchers = (DOCS / "finetune-tasks.md").read_text(), (DOCS / "finetune-launch.md").read_text()
    shown = [block.values[0] for block in blocks(DOCS / "finetune-tasks.md")]
    launched = [block.values[0]["launch"]["kind"] for block in blocks(DOCS / "finetune-launch.md")]
    assert sorted(one["task"] for one in shown if "task" in one) == sorted(get_args(Task))
    assert [one["method"]["kind"] for one in shown if "task" not in one] == kinds(MethodConfig)
    assert launched[1:] == kinds(LaunchConfig)
    for name in (*get_args(Task), *kinds(MethodConfig)):
        assert re.search(rf"^## {name}: ", tasks, re.MULTILINE), name
    for name in kinds(LaunchConfig):
        assert re.search(rf"^## {name}: ", launchers, re.MULTILINE), name


def kinds(section: Any) -> list[str]:
    return list(get_args(section.model_fields["kind"].annotation))
