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

STEPS = 24


def job(base: Path, folder: Path) -> FinetuneConfig:
    made = training.config(
        base,
        folder,
        launch={"kind": "torchrun", "processes": 2, "shared_dir": str(folder / "shared")},
        train={"lr": 1e-3, "budget": {"steps": STEPS}},
        eval={"max_examples": 2, "max_new_tokens": 2},
    )
    return made.model_copy(update={"state": type(made.state)()})


def started(config: FinetuneConfig, folder: Path) -> subprocess.Popen[bytes]:
    """Hand the job in, and start the script that is written, as its last line says."""
    done = submit(config)
    script = next(path for path in done.files if path.suffix == ".sh")
    assert done.next == f"bash {script}"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    with (folder / "said").open("wb") as said:
        return subprocess.Popen(["bash", str(script)], cwd=folder, env=environment, stdout=said, stderr=said)


def rank(number: int) -> int:
    """The process of a rank, by what torchrun told it."""
    wanted = {f"RANK={number}".encode(), b"TORCHELASTIC_RUN_ID=tiny"}
    for place in Path("/proc").glob("[0-9]*/environ"):
        try:
            found = set(place.read_bytes().split(b"\0"))
        except OSError:
            continue
        if wanted <= found:
            return int(place.parent.name)
    raise AssertionError("no such rank")


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
    while not (runs := list_runs(running_state(config))) or len(read_metrics(runs[0])) < 4:
        assert process.poll() is None, (killed / "said").read_text()
        assert time.monotonic() < until
        time.sleep(0.01)
    os.kill(rank(1), signal.SIGKILL)
    assert process.wait(120) == 0, (killed / "said").read_text()
    found = [list_runs(running_state(job(base, folder)))[0] for folder in (whole, killed)]
    for run in found:
        assert run.record().stage == "done"
        assert [line["step"] for line in read_metrics(run)] == list(range(1, STEPS + 1))
    assert any(one["kind"] == "resumed" for one in read_events(found[1]))
    assert training.weights(found[0]) == training.weights(found[1])
