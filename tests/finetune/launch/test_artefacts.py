"""What is written for each launcher fits that launcher's schema, carries no secret, and can be handed in."""

from __future__ import annotations

import copy
import json
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from tests.support.launch_schemas import RAYJOB, pod_faults

from llmops.core.errors import ConfigError, NotFoundError, UnavailableError
from llmops.core.state import StateConfig
from llmops.finetune.config import DataConfig, FinetuneConfig
from llmops.finetune.launch import Node, Rank, inside, order_of, render, submit
from llmops.finetune.launch.place import first_host
from llmops.finetune.launch.slurm import wall_time
from llmops.finetune.launch.torchrun import command

SCHEMAS = Path(__file__).with_name("schemas")
TRAINJOB = json.loads((SCHEMAS / "trainjob.json").read_text())
SKYPILOT = json.loads((SCHEMAS / "skypilot.json").read_text())
BY_KIND = {"trainjob": TRAINJOB, "ray": RAYJOB, "skypilot": SKYPILOT}
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
@pytest.mark.parametrize("kind", BY_KIND)
def test_a_document_fits_its_schema(kind: str, gpus: int) -> None:
    for more in ({"queue": "H200"}, {"environment": {}, "image": None, "nodes": 1, "restarts": 0}):
        jsonschema.validate(documents(kind, gpus=gpus, **more)[-1], BY_KIND[kind])


def objects(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where the objects of a document stand, but for what its schema leaves open: maps of texts, and pods."""
    if isinstance(value, list):
        return [found for number, one in enumerate(value) for found in objects(one, (*path, number))]
    if not isinstance(value, dict) or path[-1:] in [("rayStartParams",), ("labels",), ("envs",), ("secrets",)]:
        return []
    if path[-2:] == ("template", "spec") or path[-1:] in [("volumes",), ("accelerators",), ("requests",), ("limits",)]:
        return []
    return [path, *(found for key, one in value.items() for found in objects(one, (*path, key)))]


@pytest.mark.parametrize("kind", BY_KIND)
def test_an_unknown_key_would_be_seen_wherever_it_stood(kind: str) -> None:
    whole = documents(kind)[-1]
    places = objects(whole)
    assert len(places) >= 3
    for path in places:
        found = place = copy.deepcopy(whole)
        for step in path:
            place = place[step]
        place["unheardOf"] = 1
        with pytest.raises(jsonschema.ValidationError, match="unheardOf"):
            jsonschema.validate(found, BY_KIND[kind])


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("activeDeadlineSeconds", 0),
        ("backoffLimit", "3"),
        ("shutdownAfterJobFinishes", False),  # a time to live needs it
        ("submissionMode", "K8SJobMode"),
        ("clusterSelector", {"ray.io/cluster": "a"}),
        ("rayClusterSpec.workerGroupSpecs.0.replicas", "2"),
        ("rayClusterSpec.workerGroupSpecs.0.maxReplicas", None),
        ("rayClusterSpec.headGroupSpec.rayStartParams", {"num-cpus": 0}),
        ("rayClusterSpec.headGroupSpec.resources", {"CPU": "1"}),
    ],
)
def test_a_wrong_value_of_a_rayjob_would_be_seen(path: str, wrong: Any) -> None:
    found = documents("ray")[-1]
    place, *steps = found["spec"], *path.split(".")
    for step in steps[:-1]:
        place = place[int(step) if step.isdigit() else step]
    place[steps[-1]] = wrong
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(found, RAYJOB)


@pytest.mark.parametrize("kind", ["ray", "trainjob", "skypilot"])
def test_a_name_that_the_cluster_would_refuse_is_refused_here(kind: str) -> None:
    fits = job(kind).model_copy(update={"name": "a" * 47})
    document = list(yaml.safe_load_all("".join(render(fits).values())))[-1]
    jsonschema.validate(document, BY_KIND[kind])
    for name in ("7b-chat", "a" * {"ray": 48, "trainjob": 49, "skypilot": 64}[kind]):
        with pytest.raises(ConfigError, match="cannot be the name of a job"):
            render(job(kind).model_copy(update={"name": name}))


def test_no_time_is_not_all_the_time() -> None:
    """Slurm reads 0 as without limit."""
    with pytest.raises(ConfigError, match=r"launch\.hours: 0\.0001 is less than 6 min"):
        render(job("slurm", hours=0.0001))
    with pytest.raises(ConfigError, match="is less than 1 min"):
        render(job("ray", hours=0.0001))


def test_pods_hold_what_kubernetes_knows() -> None:
    for gpus in (0, 8):
        cluster = documents("ray", gpus=gpus)[-1]["spec"]["rayClusterSpec"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            assert pod_faults(group["template"]["spec"]) == []
    assert documents("ray")[0]["kind"] == documents("trainjob")[0]["kind"] == "ConfigMap"
    wrong = {"containers": [{"imagee": "b", "env": [{"name": "A", "value": 1}]}], "volumes": [{"name": "shm"}]}
    assert sorted(pod_faults(wrong)) == [
        ("containers.0.env.0.value", "string_type"),
        ("containers.0.imagee", "extra_forbidden"),
        ("containers.0.name", "missing"),
    ]


@pytest.mark.parametrize("kind", ["torchrun", "slurm"])
def test_scripts_are_bash(kind: str) -> None:
    texts = [text for text in render(job(kind)).values() if text.startswith("#!")]
    assert len(texts) == 1
    done = subprocess.run(["bash", "-n"], input=texts[0], text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_sbatch_knows_every_option() -> None:
    known = set((SCHEMAS / "sbatch-options.txt").read_text().split())
    asked = {}
    for gpus in (0, 8):
        script = render(job("slurm", gpus=gpus, queue="main"))["support-bot.sbatch"]
        asked |= dict(re.findall(r"^#SBATCH (--[a-z-]+)=?(\S*)$", script, re.MULTILINE))
    assert set(asked) <= known
    assert asked["--partition"] == "main"
    assert Path(asked["--output"]).parent == Path("/shared/ft")  # a folder that is there: Slurm makes none


def test_the_example_is_rendered_for_every_launcher() -> None:
    from llmops.core.config import load_config

    path = Path(__file__).parents[3] / "configs/finetune/cluster.yaml"
    for kind in KINDS:
        example = load_config(FinetuneConfig, path, overrides=[f"launch.kind={kind}"], environment={}).value
        assert "2 nodes x 8 ranks, 12 h an attempt" in "".join(render(example, path).values())


def test_torchrun_reads_its_options_as_they_are_meant() -> None:
    from torch.distributed.run import get_args_parser

    words = command(order_of(job("torchrun")))
    found = get_args_parser().parse_args([*words[1:], "job.yaml"])
    assert (found.nnodes, found.nproc_per_node, found.max_restarts) == ("2", "8", 3)
    assert (found.rdzv_backend, found.rdzv_endpoint, found.no_python) == ("c10d", "$HEAD:$PORT", True)
    assert [found.training_script, *found.training_script_args] == ["llmops", "finetune", "job.yaml"]


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
        time.sleep(0.02)
    batch.send_signal(signal.SIGUSR1)
    assert batch.wait(120) == 0
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
    here = job("trainjob").model_copy(update={"state": StateConfig(dir=tmp_path)})
    with pytest.raises(NotFoundError, match="`kubectl` is not on this machine") as caught:
        submit(here)
    assert (tmp_path / "launch" / "support-bot-trainjob.yaml").exists()
    assert "kubectl apply -f" in str(caught.value.hint)


def test_a_cluster_needs_a_folder_that_all_nodes_see() -> None:
    with pytest.raises(ConfigError, match=r"needs launch\.shared_dir"):
        render(job("slurm").model_copy(update={"launch": job("slurm").launch.model_copy(update={"shared_dir": None})}))
    with pytest.raises(ConfigError, match="refers to a file of this machine"):
        render(job("slurm", environment={"TOKEN": "file:/etc/token"}))
    with pytest.raises(ConfigError, match="local is this machine"):
        render(job("local"))


def test_a_node_is_told_who_it_is() -> None:
    found = inside({"LLMOPS_NODE": "1/4@node17:29400"})
    assert found == Node(1, 4, "node17", 29400)
    assert not found.leads
    assert inside({}) is None
    for wrong in ("4/4@a:1", "1/4@a", "1/4@a:0", "x"):
        with pytest.raises(ConfigError, match="does not say which node"):
            inside({"LLMOPS_NODE": wrong})
    with pytest.raises(ConfigError, match=r"launch\.nodes is 2, and the launcher started 3"):
        Node(0, 3, "a", 1).require(job("slurm").launch)
    with pytest.raises(ConfigError, match="16 ranks, and the launcher started 4"):
        Rank(0, 4, 0, "a", 1).require(job("slurm").launch)
    Rank(3, 16, 3, "a", 1).require(job("slurm").launch)


def test_other_launchers_say_it_in_their_variables() -> None:
    torchrun = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "7"}
    assert inside(torchrun) == Rank(5, 8, 1, "a", 7)
    kubeflow = {
        "PET_NODE_RANK": "1",
        "PET_NNODES": "2",
        "PET_MASTER_ADDR": "job-node-0-0.job",
        "PET_MASTER_PORT": "29400",
    }
    assert inside(kubeflow) == Node(1, 2, "job-node-0-0.job", 29400)
    srun = {
        "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "601", "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NODELIST": "gpu[007-008],login1",
    }  # fmt: skip
    assert inside(srun) == Rank(3, 4, 1, "gpu007", 29401)
    assert inside(srun | {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}) == Node(1, 2, "gpu007", 29401)
    assert inside(srun | {"SLURM_STEP_ID": "4294967290"}) is None  # a person's shell
    with pytest.raises(ConfigError, match="`x` is no whole number"):
        inside(torchrun | {"RANK": "x"})
    assert [first_host(one) for one in ("a1", "a[3-5]-ib,b", "x7,x9", "n[12,14]")] == ["a1", "a3-ib", "x7", "n12"]


def test_a_job_that_the_cluster_has_already_is_not_said_to_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kubectl").write_text(
        "#!/bin/bash\necho configmap/a unchanged; echo trainjob.trainer.kubeflow.org/a unchanged\n"
    )
    (tmp_path / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    here = job("trainjob").model_copy(update={"state": StateConfig(dir=tmp_path / "state")})
    with pytest.raises(UnavailableError, match="the cluster has this job already") as caught:
        submit(here)
    assert "kubectl delete trainjob support-bot" in str(caught.value.hint)


def test_a_path_of_this_machine_is_not_sent_into_a_pod() -> None:
    with pytest.raises(ConfigError, match=r"`rows\.jsonl` is a path of this machine.s working folder"):
        render(
            job("trainjob").model_copy(update={"data": DataConfig.model_validate({"sources": [{"uri": "rows.jsonl"}]})})
        )


@pytest.mark.parametrize(("seconds", "shown"), [(59, "0-00:00:59"), (86_400, "1-00:00:00"), (108_000, "1-06:00:00")])
def test_wall_time(seconds: int, shown: str) -> None:
    assert wall_time(seconds) == shown
