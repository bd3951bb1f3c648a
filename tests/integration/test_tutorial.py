"""The tutorial of promotion, read from its page and run as it stands there, in prod; only the model is a test's own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support import page_commands
from tests.support.obedient_llm import obey
from tests.support.page_commands import Ran
from tests.support.upstream import running_upstream

ROOT = Path(__file__).parents[2]
READ = ("answers.md", "getting-started.md", "ingest.md", "promotion.md", "validation.md")
"""Documents that the questions are about; all of docs/ would say no more and take longer."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "configs", made / "configs")
    (made / "docs").mkdir()
    for name in READ:
        shutil.copy(ROOT / "docs" / name, made / "docs" / name)
    return made


@pytest.fixture(scope="module")
def environment(folder: Path) -> Iterator[dict[str, str]]:
    program = folder / "bin" / "llmops"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m llmops.cli.main "$@"\n')
    program.chmod(0o755)
    with running_upstream() as upstream:
        upstream.answer = obey
        yield {
            "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
            "NO_COLOR": "1",
            "LLMOPS_ANSWER__LLM__MODEL": "fast",
            "LLMOPS_ANSWER__LLM__URL": upstream.url,
        }


@pytest.fixture(scope="module")
def ran(folder: Path, environment: dict[str, str]) -> list[Ran]:
    page = (ROOT / "docs" / "tutorial-promotion.md").read_text()
    return page_commands.run(page_commands.commands(page), folder, environment, timeout_s=500)


def told(folder: Path, environment: dict[str, str], *arguments: str) -> Any:
    done = subprocess.run(
        ["llmops", *arguments, "--json"], cwd=folder, env={**os.environ, **environment, "LLMOPS_ENV": "prod"},
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return json.loads(done.stdout)


@pytest.mark.timeout(600)
def test_every_command_of_the_page_does_what_the_page_shows(ran: list[Ran]) -> None:
    assert len(ran) > 20
    assert [(one.command.text, problem) for one in ran if (problem := one.problem())] == []


@pytest.mark.parametrize(
    ("asset", "reason"),
    [("prod.fraud.fraud_clf", "too many alarms"), ("prod.docs.chat", "too terse")],
)
def test_the_history_tells_the_story_with_its_evidence(
    ran: list[Ran], folder: Path, environment: dict[str, str], asset: str, reason: str
) -> None:
    story = told(folder, environment, "models", "history", asset)
    states = [(entry["version"], entry["to"]) for entry in reversed(story) if entry["kind"] == "state"]
    ended = [one for one in states if one[1] in ("promoted", "rejected", "rolled_back")]
    first = [(1, "promoted")] if asset == "prod.fraud.fraud_clf" else []  # a chain's first version is bootstrapped
    assert ended[: len(first) + 3] == [*first, (2, "rejected"), (3, "promoted"), (3, "rolled_back")]
    assert all(entry["evidence"] for entry in story if entry["kind"] == "alias")
    assert any(reason in entry["why"] for entry in story)


def test_the_prompt_stands_on_the_evidence_of_the_chain(
    ran: list[Ran], folder: Path, environment: dict[str, str]
) -> None:
    shown = told(folder, environment, "models", "show", "prod.docs.chat_prompt/3")
    (comparison,) = [record for record in shown["evidence"] if record["gate"] == "comparison"]
    chain = told(folder, environment, "models", "show", "prod.docs.chat/3")
    assert comparison["method"]["name"] == "inherited"
    assert comparison["parents"][0] in {record["evidence_id"] for record in chain["evidence"]}
    assert comparison["baseline"]["version"] == 1
    assert told(folder, environment, "audit", "verify")["ok"] is True
