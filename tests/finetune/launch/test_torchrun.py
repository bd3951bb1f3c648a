"""The script for torchrun, run as it is written: two real ranks, of which one is killed, end in undisturbed bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.support import training
from tests.support.nodes import ended, node
from tests.support.ports import free_port

from llmops.finetune.config import FinetuneConfig
from llmops.finetune.journal import read_events, read_metrics
from llmops.finetune.launch import running_state, submit
from llmops.finetune.runs import list_runs

STEPS = 10


def job(base: Path, folder: Path) -> FinetuneConfig:
    made = training.config(
        base,
        folder,
        launch={"kind": "torchrun", "processes": 2, "shared_dir": str(folder / "shared")},
        train={"lr": 1e-3, "budget": {"steps": STEPS}},
        eval={"max_examples": 2, "max_new_tokens": 2},
    )
    return made.model_copy(update={"state": type(made.state)()})


HELD = """
import os, pathlib, sys, time

if os.environ.get("RANK") == "1" and pathlib.Path(sys.argv[0]).name == "llmops":
    from llmops.finetune.engines.parallel import Learner

    begin, here = Learner.begin, pathlib.Path(__file__).parent

    def held(self, step):
        if step == 6 and not (here / "pid").exists():
            (here / "pid.new").write_text(str(os.getpid()))
            (here / "pid.new").replace(here / "pid")
            time.sleep(3600)
        begin(self, step)

    Learner.begin = held
"""
"""A `sitecustomize`: rank 1 stands still before its seventh step, the first time, and says which process it is."""


def started(config: FinetuneConfig, folder: Path) -> subprocess.Popen[bytes]:
    """Hand the job in, and start the script that is written, as its last line says."""
    (folder / "hook").mkdir()
    (folder / "hook" / "sitecustomize.py").write_text(HELD)
    done = submit(config)
    script = next(path for path in done.files if path.suffix == ".sh")
    assert done.next == f"bash {script}"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    python = os.pathsep.join([str(folder / "hook"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": python, "PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    with (folder / "said").open("wb") as said:
        return subprocess.Popen(["bash", str(script)], cwd=folder, env=environment, stdout=said, stderr=said)


def undisturbed(config: FinetuneConfig, folder: Path) -> None:
    """The same two ranks, forked from this process, which is quicker than torchrun starts them."""
    port, here = str(free_port()), config.model_copy(update={"state": running_state(config)})
    told = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    ranks = [
        node(here, {**told, "RANK": str(one), "LOCAL_RANK": str(one)}, folder / f"rank-{one}.log") for one in (0, 1)
    ]
    assert [ended(one) for one in ranks] == [0, 0], (folder / "rank-0.log").read_text()


@pytest.mark.kill
def test_a_rank_that_is_killed_under_torchrun_costs_no_bit(base: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    undisturbed(job(base, whole), whole)
    config = job(base, killed)
    process = started(config, killed)
    until = time.monotonic() + 120
    held = killed / "hook" / "pid"
    while not held.exists():
        assert process.poll() is None, (killed / "said").read_text()
        assert time.monotonic() < until
        time.sleep(0.01)
    os.kill(int(held.read_text()), signal.SIGKILL)
    assert process.wait(120) == 0, (killed / "said").read_text()
    found = [list_runs(running_state(job(base, folder)))[0] for folder in (whole, killed)]
    for run in found:
        assert run.record().stage == "done"
        assert [line["step"] for line in read_metrics(run)] == list(range(1, STEPS + 1))
    assert any(one["kind"] == "resumed" for one in read_events(found[1]))
    assert training.weights(found[0]) == training.weights(found[1])
