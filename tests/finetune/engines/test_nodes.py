"""Two nodes with a rank each train one job: a whole node is killed, comes back, and the weights are the undisturbed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.nodes import ended, node
from tests.support.ports import free_port
from tests.support.training import config, weights

from llmops.finetune.config import FinetuneConfig
from llmops.finetune.engines.parallel import Learner
from llmops.finetune.journal import read_events, read_metrics
from llmops.finetune.launch import together
from llmops.finetune.launch.together import Patience
from llmops.finetune.runs import RunFolder, list_runs

STEPS = 12


def job(base: Path, folder: Path, strategy: str) -> FinetuneConfig:
    return config(
        base,
        folder,
        launch={"kind": "slurm", "nodes": 2, "shared_dir": str(folder)},
        parallel={"strategy": strategy},
        train={"lr": 1e-3, "budget": {"steps": STEPS}},
        eval={"max_examples": 2, "max_new_tokens": 2},
    )


def held_at(step: int, gate: Path) -> Callable[[], None]:
    """Ranks stand still before this step until the gate is there, so that there is time to kill."""

    def before() -> None:
        begin = Learner.begin

        def held(self: Learner, number: int) -> None:
            while number >= step and not gate.exists():
                time.sleep(0.02)
            begin(self, number)

        Learner.begin = held  # type: ignore[method-assign]

    return before


class Cluster:
    """Starts nodes of a job, each by itself; or its ranks, as torchrun does."""

    def __init__(self, job: FinetuneConfig, folder: Path, *, by_rank: bool = False) -> None:
        self.job, self.folder, self.port, self.by_rank = job, folder, free_port(), by_rank

    def start(self, number: int, before: Callable[[], None] = lambda: None) -> int:
        variables = {"LLMOPS_NODE": f"{number}/2@127.0.0.1:{self.port}"}
        if self.by_rank:
            variables = {
                "RANK": str(number), "WORLD_SIZE": "2", "LOCAL_RANK": str(number),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self.port),
            }  # fmt: skip
        return node(self.job, variables, self.folder / f"node-{number}.log", before)

    @property
    def run(self) -> RunFolder:
        (found,) = list_runs(self.job.state)
        return found

    def wait_for_step(self, step: int) -> None:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            runs = list_runs(self.job.state)
            if runs and any(line["step"] >= step for line in read_metrics(runs[0])):
                return
            time.sleep(0.02)
        raise AssertionError("it did not come so far")

    def log(self, number: int) -> str:
        return (self.folder / f"node-{number}.log").read_text()


@pytest.mark.kill
@pytest.mark.parametrize(("strategy", "victim", "by_rank"), [("ddp", 1, True), ("fsdp2", 0, False)])
def test_a_node_that_died_comes_back_and_nothing_is_lost(
    base: Path, tmp_path: Path, strategy: str, victim: int, by_rank: bool
) -> None:
    """The undisturbed run is started node by node, too, or rank by rank: it comes to the same."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole = Cluster(job(base, tmp_path / "whole", strategy), tmp_path / "whole", by_rank=by_rank)
    undisturbed = [whole.start(number) for number in (1, 0)]  # in any order
    killed = Cluster(job(base, tmp_path / "killed", strategy), tmp_path / "killed")
    gate = tmp_path / "go on"
    nodes = [killed.start(number, held_at(5, gate)) for number in (0, 1)]
    killed.wait_for_step(5)
    os.kill(nodes[victim], signal.SIGKILL)
    assert ended(nodes[victim]) == -signal.SIGKILL
    gate.touch()
    nodes[victim] = killed.start(victim)
    for cluster, started in ((whole, undisturbed), (killed, nodes)):
        assert [ended(one) for one in started] == [0, 0], cluster.log(0) + cluster.log(1)
        assert cluster.run.record().stage == "done"
    assert [line["step"] for line in read_metrics(killed.run)] == list(range(1, STEPS + 1))
    assert any(one["kind"] == "resumed" and one["step"] >= 2 for one in read_events(killed.run))
    assert killed.run.record().attempts == 2
    assert weights(killed.run) == weights(whole.run)
    said = killed.log(1 - victim)
    assert "starting all ranks again (1 of 3)" in said if victim == 1 else "node 0 is gone; waiting for it" in said


def test_nodes_that_see_other_folders_are_told_apart(base: Path, tmp_path: Path) -> None:
    cluster = Cluster(job(base, tmp_path, "ddp"), tmp_path)

    def elsewhere() -> None:
        together.WORD = "of-another-folder"  # what lies in node 0's folder is not in this one
        together.Patience = lambda: Patience(folder_s=0.5)  # type: ignore[assignment,misc]

    nodes = [cluster.start(0), cluster.start(1, elsewhere)]
    assert [ended(one) for one in nodes] == [1, 1]
    for number in (0, 1):
        assert "node 1 of 2 does not see the run's folder" in cluster.log(number)
        assert "launch.shared_dir has to be one folder that all nodes see" in cluster.log(number)
    assert cluster.run.record().stage == "failed"


def test_what_stops_node_0_before_training_stops_the_others(base: Path, tmp_path: Path) -> None:
    broken = job(base, tmp_path, "ddp").model_copy(update={"task": "dpo"})
    for by_rank in (False, True):
        cluster = Cluster(broken, tmp_path, by_rank=by_rank)
        nodes = [cluster.start(number) for number in (1, 0)]
        assert [ended(one) for one in nodes] == [3 if by_rank else 0, 3]
        assert "ended: preflight refused to start" in cluster.log(1)
