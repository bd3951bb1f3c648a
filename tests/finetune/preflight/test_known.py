"""The list of checks, the page that explains them, and what a job of each task is really looked at for, are one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from tests.finetune.preflight.test_task_checks import base, jobs, one_thread, place, prepared
from tests.support.training import config

from llmops.finetune.config import SUPERVISED
from llmops.finetune.preflight import Check
from llmops.finetune.preflight.everything import look
from llmops.finetune.preflight.known import CHECKS, EVERY

__all__ = ["base", "jobs", "one_thread", "place"]

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "finetune-preflight.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\|[^|]+\| `([a-z]+\.[a-z_]+)` \|([^|]+)\|$", PAGE, flags=re.MULTILINE)
TESTS = re.compile(r"`([a-z_/]+\.py)::([a-z_0-9]+)`")


def test_the_page_explains_every_check_and_no_other() -> None:
    assert sorted(check for check, _ in ROWS) == sorted(CHECKS)


def test_every_test_that_the_page_names_is_there() -> None:
    for file, function in TESTS.findall(PAGE):
        tree = ast.parse((ROOT / "tests" / "finetune" / file).read_text(encoding="utf-8"))
        assert function in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, (file, function)
    assert all(TESTS.search(tests) for _, tests in ROWS)


@pytest.mark.parametrize("task", EVERY)
def test_a_sound_job_is_looked_at_for_all_that_its_task_can_get_wrong(
    task: str, request: pytest.FixtureRequest
) -> None:
    made = request.getfixturevalue("jobs")
    if task in SUPERVISED:
        job = prepared(config(request.getfixturevalue("base"), request.getfixturevalue("tmp_path"), task=task))
    else:
        job = prepared(made(task))
    found = look(job)
    found.require()
    assert {one.name for one in found.checks} == {name for name, tasks in CHECKS.items() if task in tasks}


def test_a_check_by_another_name_cannot_be_made() -> None:
    with pytest.raises(ValueError, match=r"no check is known as data\.typo"):
        Check("data.typo", "pass", "")
