"""What is written for each launcher fits that launcher's schema, carries no secret, and can be handed in."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from tests.support.launch_schemas import RAYJOB, SKYPILOT, TRAINJOB, unknown_keys

from llmops.core.errors import ConfigError, NotFoundError, UnavailableError
from llmops.finetune.config import FinetuneConfig
from llmops.finetune.launch import inside, render, submit
from llmops.finetune.launch.slurm import wall_time

KINDS = ("torchrun", "slurm", "trainjob", "ray", "skypilot")
SECRET = "hf_" + "abcdefgh" * 4


def job(kind: str, shared: str = "/shared/ft", **launch: Any) -> FinetuneConfig:
    asked = {"kind": kind, "nodes": 2, "gpus": 8, "shared_dir": shared, "hours": 30, "image": "registry/train:1"}
    variables = {"NCCL_DEBUG": "INFO it's", "TOKEN": "env:HF_TOKEN"}
    return FinetuneConfig.model_validate(
        {
            "name": "support_bot",
            "model": {"path": "org/model"},
            "data": {"sources": [{"uri": "/data/a.jsonl"}]},
            "launch": {**asked, "environment": variables, **launch},
        }
    )


def documents(kind: str, **launch: Any) -> list[dict[str, Any]]:
    (text,) = render(job(kind, **launch)).values()
    return list(yaml.safe_load_all(text))


@pytest.mark.parametrize("gpus", [0, 8])
@pytest.mark.parametrize(("kind", "schema"), [("trainjob", TRAINJOB), ("ray", RAYJOB), ("skypilot", SKYPILOT)])
def test_a_document_fits_its_schema(kind: str, schema: dict[str, Any], gpus: int) -> None:
    found = documents(kind, gpus=gpus, queue="H200")
    jsonschema.validate(found[-1], schema)


def test_a_wrong_key_would_be_seen() -> None:
    found = documents("trainjob")[-1]
    found["spec"]["trainer"]["numProcsPerNode"] = 8
    with pytest.raises(jsonschema.ValidationError, match="numProcsPerNode"):
        jsonschema.validate(found, TRAINJOB)


def test_pods_hold_what_kubernetes_knows() -> None:
    cluster = documents("ray")[-1]["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert unknown_keys(group["template"]["spec"]) == []
    patch = documents("trainjob")[-1]["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]
    assert unknown_keys(patch["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]) == []
    assert unknown_keys({"containers": [{"name": "a", "imagee": "b"}]}) == ["spec.containers[0].imagee"]


@pytest.mark.parametrize("kind", ["torchrun", "slurm"])
def test_scripts_are_bash(kind: str) -> None:
    texts = [text for text in render(job(kind)).values() if text.startswith("#!")]
    assert len(texts) == 1
    done = subprocess.run(["bash", "-n"], input=texts[0], text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("kind", KINDS)
def test_the_job_that_nodes_read_is_the_job(kind: str) -> None:
    texts = render(job(kind))
    if kind in ("torchrun", "slurm"):
        inner = texts["support-bot.yaml"]
    elif kind == "skypilot":
        inner = documents(kind)[0]["setup"].split("'END_OF_JOB'\n")[1].removesuffix("END_OF_JOB\n")
    else:
        inner = documents(kind)[0]["data"]["support-bot.yaml"]
    read = FinetuneConfig.model_validate(yaml.safe_load(inner))
    assert read.identity == job(kind).identity
    assert str(read.state.dir) == "/shared/ft/state"


@pytest.mark.parametrize("kind", KINDS)
def test_no_secret_is_written_down(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    texts = "".join(render(job(kind)).values())
    assert SECRET not in texts
    assert "HF_TOKEN" in texts


def test_slurm_tasks_learn_who_they_are_and_the_job_asks_for_itself_again(tmp_path: Path) -> None:
    """Run the script with commands of Slurm's names that do what Slurm's do, ending by code 130, as if time was up."""
    bin_, said = tmp_path / "bin", tmp_path / "said"
    bin_.mkdir()
    fakes = {
        "scontrol": f'[ "$1" = show ] && echo node7 && echo node8 || echo "$@" >> {said}',
        "srun": 'while [[ "$1" == --* ]]; do shift; done; exec "$@"',
        "llmops": f'trap "exit 130" USR1; echo "$LLMOPS_NODE $TOKEN $*" >> {said}; while true; do sleep 0.02; done',
    }
    for name, body in fakes.items():
        (bin_ / name).write_text(f"#!/bin/bash\n{body}\n")
        (bin_ / name).chmod(0o755)
    script = render(job("slurm", shared=str(tmp_path)))["support-bot.sbatch"]
    environment = {
        "PATH": f"{bin_}:/usr/bin:/bin",
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_JOB_ID": "41",
        "HF_TOKEN": "t",
        "SLURM_NODEID": "0",
        "SLURM_NNODES": "2",
    }
    batch = subprocess.Popen(["bash", "-c", script], env=environment)
    while not said.exists() or not said.read_text():
        assert batch.poll() is None
    batch.send_signal(signal.SIGUSR1)
    assert batch.wait(20) == 0
    first, second = said.read_text().splitlines()
    assert first == f"0/2@node7:29400 t finetune {tmp_path}/support-bot.yaml"
    assert second == "requeue 41"


def test_handing_in_says_which_job_it_became(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sbatch").write_text('#!/bin/bash\n[ -x "$2" ] && echo "4711;cluster"\n')
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    done = submit(job("slurm", shared=str(tmp_path / "shared")))
    assert done.job_id == "4711"
    assert done.next == "squeue --job 4711"
    (tmp_path / "sbatch").write_text("#!/bin/bash\necho invalid partition >&2\nexit 1\n")
    with pytest.raises(UnavailableError, match="`sbatch` refused: invalid partition"):
        submit(job("slurm", shared=str(tmp_path / "shared")))


def test_without_the_launchers_command_the_files_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NotFoundError, match="`kubectl` is not on this machine") as caught:
        submit(job("trainjob", shared=str(tmp_path)))
    assert (tmp_path / "support-bot-trainjob.yaml").exists()
    assert "kubectl apply -f" in str(caught.value.hint)


def test_a_cluster_needs_a_folder_that_all_nodes_see() -> None:
    with pytest.raises(ConfigError, match=r"needs launch\.shared_dir"):
        render(job("slurm").model_copy(update={"launch": job("slurm").launch.model_copy(update={"shared_dir": None})}))
    with pytest.raises(ConfigError, match="refers to a file of this machine"):
        render(job("slurm", environment={"TOKEN": "file:/etc/token"}))
    with pytest.raises(ConfigError, match="local is one machine"):
        render(job("local"))


def test_a_node_is_told_who_it_is() -> None:
    found = inside({"LLMOPS_NODE": "1/4@node17:29400"})
    assert found is not None
    assert (found.rank, found.nodes, found.rendezvous, found.leads) == (1, 4, "node17:29400", False)
    assert inside({}) is None
    for wrong in ("4/4@a:1", "1/4@a", "1/4@a:0", "x"):
        with pytest.raises(ConfigError, match="does not say which node"):
            inside({"LLMOPS_NODE": wrong})


@pytest.mark.parametrize(("seconds", "shown"), [(59, "0-00:00:59"), (86_400, "1-00:00:00"), (108_000, "1-06:00:00")])
def test_wall_time(seconds: int, shown: str) -> None:
    assert wall_time(seconds) == shown
