"""Templates: each read by what would read it, or by the schema that its maker publishes."""

from __future__ import annotations

import ast
import json
import shlex
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from apscheduler.triggers.cron import CronTrigger
from kubernetes.client import ApiClient
from tests.support.workflows import HERE

from llmops.core.errors import ConfigError
from llmops.registry.workflow import Job, load_job
from llmops.registry.workflow.cron import Cron
from llmops.registry.workflow.templates import KINDS, rendered
from llmops.registry.workflow.templates.cron import calendars

FILE = """\
job: workflow
name: fraud_daily
description: Trains "fraud" every day
params: {seed: 7}
tasks:
  - {name: train, run: "tests.support.workflow_tasks:echo", with: {key: "env:FEATURES_KEY"}}
notify: [{kind: slack, url: "env:SLACK_URL"}]
schedule: {cron: "30 9 * * 1-5", timezone: Europe/Berlin}
"""


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A workflow in a folder whose name needs quoting everywhere."""
    folder = tmp_path / "my 100% project"
    folder.mkdir()
    (folder / "fraud.yaml").write_text(FILE)
    monkeypatch.chdir(folder)
    return load_job(Path("fraud.yaml"), environment={})


def only(kind: str, job: Job) -> str:
    (text,) = rendered(kind, job, image="registry.example.org/fraud:3").values()
    return text


def test_the_crontab_line_runs_the_workflow(job: Job) -> None:
    text = rendered("cron", job, image="")["llmops-fraud_daily.crontab"]
    zone, line = [line for line in text.splitlines() if not line.startswith("#")]
    assert zone == "CRON_TZ=Europe/Berlin"
    times, command = line.split(" cd ", 1)
    CronTrigger.from_crontab(times)
    assert Cron(times).fields == Cron("30 9 * * 1-5").fields
    assert "%" not in command.replace("\\%", "")  # cron reads a bare one as the end of the line
    program = command.replace("\\%", "%").split(" && ", 1)[1].rsplit(" --key ", 1)[0]
    assert shlex.split(program)[1:] == ["workflow", "run", "fraud.yaml"]
    key = command.replace("\\%", "%").rsplit(" --key ", 1)[1]
    told = subprocess.run(["sh", "-c", f"echo {key}"], capture_output=True, text=True, check=True).stdout
    assert datetime.strptime(told.strip(), "cron-%Y-%m-%dT%H:%M").replace(tzinfo=UTC).year >= 2026


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("line", ["30 9 * * 1-5", "*/20 3 1 * *", "0 0 1 * 1", "5 4 29 2 *", "0 */6 * * 0"])
def test_systemd_reads_the_times_as_we_do(line: str) -> None:
    cron = Cron(line, "UTC")
    base, found = datetime(2026, 3, 4, 5, 6, tzinfo=UTC), []
    for calendar in calendars(cron):
        command = ["systemd-analyze", "calendar", "--base-time=2026-03-04 05:06:00 UTC", calendar]
        told = subprocess.run(
            command, capture_output=True, text=True, check=True, env={"TZ": "UTC", "PATH": "/usr/bin"}
        )
        (next_,) = [row for row in told.stdout.splitlines() if "Next elapse:" in row]
        found.append(datetime.strptime(next_.split(": ", 1)[1], "%a %Y-%m-%d %H:%M:%S UTC").replace(tzinfo=UTC))
    assert min(found) == cron.after(base)


def test_the_systemd_units_name_the_command(job: Job) -> None:
    units = rendered("cron", job, image="")
    service, timer = units["llmops-fraud_daily.service"], units["llmops-fraud_daily.timer"]
    assert "WorkingDirectory=" in service
    assert "my 100%% project" in service
    assert "Persistent=true" in timer
    assert "OnCalendar=Mon,Tue,Wed,Thu,Fri *-*-* 9:30:00 Europe/Berlin" in timer


def test_kubernetes_takes_the_manifests(job: Job) -> None:
    """Kubernetes' own models refuse what lacks, and drop what they do not know: nothing may be dropped."""
    documents = list(yaml.safe_load_all(only("kubernetes", job)))
    assert [one["kind"] for one in documents] == ["ConfigMap", "PersistentVolumeClaim", "CronJob"]
    client = ApiClient()
    for document in documents:
        kind = document["kind"] if document["apiVersion"] == "v1" else f"{document['kind']}"
        read = client._ApiClient__deserialize(document, f"V1{kind}")
        assert client.sanitize_for_serialization(read) == document
    config, _, cron_job = documents
    assert config["data"]["workflow.yaml"] == FILE
    spec = cron_job["spec"]
    assert (spec["schedule"], spec["timeZone"], spec["concurrencyPolicy"]) == (
        "30 9 * * 1-5",
        "Europe/Berlin",
        "Forbid",
    )
    pod = spec["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == "registry.example.org/fraud:3"
    assert container["command"][-2:] == ["--key", "k8s-$(LLMOPS_JOB)"]
    assert {one["name"] for one in container["env"]} == {"LLMOPS_JOB", "FEATURES_KEY", "SLACK_URL"}
    assert pod["securityContext"]["runAsNonRoot"] is True


def test_kubernetes_models_can_refuse() -> None:
    client = ApiClient()
    with pytest.raises(ValueError, match="schedule"):
        client._ApiClient__deserialize({"spec": {"jobTemplate": {}}}, "V1CronJob")
    odd = {"kind": "ConfigMap", "dat": {}}
    assert client.sanitize_for_serialization(client._ApiClient__deserialize(odd, "V1ConfigMap")) != odd


def test_airflow_gets_a_dag_of_one_patient_task(job: Job) -> None:
    tree = ast.parse(only("airflow", job))
    compile(tree, "dag.py", "exec")
    imported = {
        f"{node.module}.{name.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    assert "airflow.sdk.DAG" in imported
    calls = {
        node.func.id: node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    dag = {word.arg: word.value for word in calls["DAG"].keywords}
    assert ast.literal_eval(dag["dag_id"]) == "llmops_fraud_daily"
    assert ast.literal_eval(dag["description"]) == 'Trains "fraud" every day'
    assert (ast.literal_eval(dag["catchup"]), ast.literal_eval(dag["max_active_runs"])) == (False, 1)
    table = calls["CronTriggerTimetable"]
    assert (ast.literal_eval(table.args[0]), ast.literal_eval(table.keywords[0].value)) == (
        "30 9 * * 1-5",
        "Europe/Berlin",
    )
    sensor = {word.arg: word.value for word in calls["BashSensor"].keywords}
    command = shlex.split(ast.literal_eval(sensor["bash_command"]))
    assert command[0] == "cd"
    assert command[3:] == [
        "llmops", "workflow", "run", "fraud.yaml", "--key", "airflow-{{ run_id }}", "--waiting-exit-code", "99"
    ]  # fmt: skip
    assert ast.literal_eval(sensor["retry_exit_code"]) == 99


def test_github_takes_the_workflow(job: Job) -> None:
    """Against the schema of SchemaStore, which check-jsonschema ships."""
    ((name, text),) = rendered("github-actions", job, image="").items()
    assert name == ".github/workflows/llmops-fraud-daily.yml"
    workflow: dict[Any, Any] = yaml.load(text, Loader=_Plain)
    schema = json.loads((files("check_jsonschema") / "builtin_schemas/vendor/github-workflows.json").read_text())
    validator = jsonschema.validators.validator_for(schema)(schema)
    validator.validate(workflow)
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(workflow | {"jobs": {"a": {"runs-on": "x", "stepz": []}}})
    assert set(workflow["on"]) == {"pull_request", "push", "release"}
    assert [one["env"]["LLMOPS_ENV"] for one in list(workflow["jobs"].values())[1:]] == ["staging", "prod"]
    assert workflow["permissions"] == {"contents": "read"}
    assert "${{ secrets.SLACK_URL }}" in text


class _Plain(yaml.SafeLoader):
    """Reads `on` as a word, as GitHub does."""


_Plain.yaml_implicit_resolvers = {
    first: [one for one in found if one[0] != "tag:yaml.org,2002:bool"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Plain.add_implicit_resolver("tag:yaml.org,2002:bool", __import__("re").compile("true|false"), list("tf"))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_without_a_schedule(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "w.yaml"
    file.write_text(f"job: workflow\nname: w\ntasks: [{{name: a, run: '{HERE}:echo'}}]\n")
    job = load_job(file, environment={})
    if kind in ("cron", "kubernetes"):
        with pytest.raises(ConfigError, match="has no `schedule`"):
            rendered(kind, job, image="x")
    else:
        assert rendered(kind, job, image="x")
