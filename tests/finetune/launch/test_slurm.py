"""A real controller of Slurm reads the script: every option, and whether the job could run. Skipped without Slurm."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.ports import free_port

from llmops.finetune.config import FinetuneConfig
from llmops.finetune.launch import render, submit

pytestmark = pytest.mark.skipif(
    shutil.which("slurmctld") is None or shutil.which("sbatch") is None, reason="Slurm is not installed (slurm-wlm)"
)
# Nodes that are powered down until a job wants them: the controller plans with them, and no node has to be there.
CONF = """
ClusterName=tried
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/none
CredType=cred/none
SlurmUser={user}
StateSaveLocation={place}
SlurmdSpoolDir={place}
SlurmctldPidFile={place}/pid
SlurmctldLogFile={place}/log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
SuspendProgram=/bin/true
ResumeProgram=/bin/true
SuspendTime=600
ResumeTimeout=3600
NodeName=n[1-2] CPUs=16 RealMemory=100000 Gres=gpu:8 State=CLOUD
PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which Slurm's commands find a cluster of two nodes with eight GPUs each."""
    place = tmp_path_factory.mktemp("slurm")
    conf = place / "slurm.conf"
    conf.write_text(CONF.format(host=socket.gethostname(), port=free_port(), user=getpass.getuser(), place=place))
    environment = {**os.environ, "SLURM_CONF": str(conf)}
    with (place / "said").open("w") as said:
        process = subprocess.Popen(
            ["slurmctld", "-D", "-c", "-f", str(conf)], env=environment, stdout=said, stderr=said
        )
    try:
        until = time.monotonic() + 60
        while "is UP" not in slurm(environment, "scontrol", "ping").stdout:
            assert process.poll() is None, (place / "said").read_text()
            assert time.monotonic() < until, (place / "said").read_text()
            time.sleep(0.05)
        yield environment
    finally:
        process.terminate()
        process.wait(60)


def slurm(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=60)


def job(shared: Path, **launch: Any) -> FinetuneConfig:
    asked = {"kind": "slurm", "nodes": 2, "gpus": 8, "shared_dir": str(shared), "hours": 12, "queue": "gpu", **launch}
    return FinetuneConfig.model_validate(
        {
            "name": "support_bot",
            "model": {"path": "org/model"},
            "data": {"sources": [{"uri": "/data/a.jsonl"}]},
            "launch": asked,
        }
    )


@pytest.mark.parametrize("launch", [{}, {"gpus": 0, "processes": 4, "queue": None, "nodes": 1}])
def test_slurm_would_run_what_is_handed_in(
    controller: dict[str, str], launch: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", controller["SLURM_CONF"])
    done = submit(job(tmp_path, **launch))
    script = str(done.files[0])
    tested = slurm(controller, "sbatch", "--test-only", script)
    assert tested.returncode == 0, tested.stderr
    assert done.job_id is not None
    shown = slurm(controller, "scontrol", "show", "job", done.job_id).stdout
    slurm(controller, "scancel", done.job_id)
    said = dict(one.split("=", 1) for one in shown.split() if "=" in one)
    ranks = launch.get("processes", 8)
    assert (said["JobName"], said["Requeue"], said["TimeLimit"]) == ("support-bot", "1", "12:00:00")
    assert (said["NumTasks"], said["CPUs/Task"]) == (str(launch.get("nodes", 2)), str(ranks))  # each rank its own core
    assert said.get("TresPerNode") == (None if launch else "gres:gpu:8")
    assert said["StdOut"] == f"{tmp_path}/support-bot-{done.job_id}.log"


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("--open-mode", "--openmode", "unrecognized option"),
        ("gpu:8", "gpuu:8", "Invalid generic resource"),
        ("B:USR1@180", "B:USR9@180", "Invalid --signal"),
        ("--nodes=2", "--nodes=3", "not available"),
        ("--partition=gpu", "--partition=none", "invalid partition"),
    ],
)
def test_it_tells_an_option_that_is_wrong(
    controller: dict[str, str], right: str, wrong: str, told: str, tmp_path: Path
) -> None:
    text = render(job(tmp_path))["support-bot.sbatch"]
    assert right in text
    (tmp_path / "wrong.sbatch").write_text(text.replace(right, wrong))
    tested = slurm(controller, "sbatch", "--test-only", str(tmp_path / "wrong.sbatch"))
    assert tested.returncode != 0
    assert re.search(told, tested.stderr), tested.stderr
