"""The search: planned, pruned, resumed after a kill to the same end, and taken by a training."""

from __future__ import annotations

import multiprocessing
import sqlite3
import time
from pathlib import Path

import pytest
from tests.support.transactions import context, searched

from llmops.core.errors import ConflictError, NotFoundError
from llmops.core.state import StateConfig
from llmops.finetune.classic import tasks
from llmops.finetune.classic.search import best

TRIALS = 9


@pytest.mark.kill
def test_a_killed_search_comes_to_the_same_end(fresh: StateConfig, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole.db", tmp_path / "killed.db"
    plain = searched(fresh.root, whole, TRIALS)
    process = multiprocessing.get_context("spawn").Process(target=searched, args=(fresh.root, killed, TRIALS))
    process.start()
    deadline = time.monotonic() + 120
    while _trials(killed) < 3:
        assert process.is_alive() or _trials(killed) == TRIALS, "it ended by itself"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.join()
    left = _trials(killed)

    resumed = searched(fresh.root, killed, TRIALS)

    assert 3 <= left <= TRIALS
    assert {key: resumed[key] for key in ("trees", "average_precision", "trials")} == {
        key: plain[key] for key in ("trees", "average_precision", "trials")
    }
    assert plain["average_precision"] >= plain["baseline"]


def _trials(study: Path) -> int:
    if not study.exists():
        return 0
    try:
        with sqlite3.connect(study) as connection:
            return int(connection.execute("SELECT count(*) FROM trials WHERE state != 'RUNNING'").fetchone()[0])
    except sqlite3.OperationalError:  # its tables are still being made
        return 0


def test_a_plan_tries_nothing_and_a_training_takes_the_best(fresh: StateConfig, tmp_path: Path) -> None:
    study = tmp_path / "study.db"
    plan = tasks.search(context(fresh, "search", study=str(study), trials=3, plan=True))
    assert (plan["done"], plan["to_try"]) == (0, 3)
    assert not study.exists()
    with pytest.raises(NotFoundError, match="no such study"):
        tasks.train(context(fresh, "train", study=str(study)))

    found = searched(fresh.root, study, trials=3)
    again = searched(fresh.root, study, trials=2)
    said = tasks.train(context(fresh, "train", study=str(study)))

    assert again["trials"] == 3, "a study that has its trials is only read"
    assert best(study).model_dump() == found["trees"]
    assert said["version"].startswith("dev.fraud.fraud_clf/")
    with pytest.raises(ConflictError, match="other data"):
        tasks.search(context(fresh, "search", study=str(study), trials=4, seed=8))
