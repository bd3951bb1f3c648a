"""A Kubernetes CronJob with the configuration, and room for the state. The image must hold the tasks' code."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from llmops.core.errors import ConfigError
from llmops.registry.workflow.job import Job
from llmops.registry.workflow.templates import referred

HOME = PurePosixPath("/work")
_GATE, _USER = 3, 1000


def render(job: Job, *, image: str) -> dict[str, str]:
    if job.config.schedule is None:
        raise ConfigError("the workflow has no `schedule`", where=job.file, hint='add `schedule: {cron: "0 9 * * *"}`')
    name = f"llmops-{job.config.name.replace('_', '-')}"
    text = Path(job.file).read_text(encoding="utf-8")
    documents = [_config_map(name, text), _claim(name), _cron_job(name, job, image)]
    secrets = ", ".join(referred(job))
    head = f"# Workflow {job.config.name} of {job.file}, as a CronJob: kubectl apply -f\n"
    if secrets:
        head += f"# The Secret `{name}` must hold: {secrets}\n"
    if job.config.state.sql_url is None:
        head += "# The state is SQLite in a volume of one node; set `state.sql_url` to PostgreSQL for more than one.\n"
    return {f"{name}.yaml": head + "---\n".join(yaml.dump(one, Dumper=_Dumper, sort_keys=False) for one in documents)}


class _Dumper(yaml.SafeDumper):
    """Texts of several lines stay readable."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def _config_map(name: str, text: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"workflow.yaml": text}}


def _claim(name: str) -> dict[str, Any]:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Gi"}}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def _cron_job(name: str, job: Job, image: str) -> dict[str, Any]:
    schedule = job.config.schedule
    assert schedule is not None
    cron = schedule.reading()
    spec = {
        "schedule": cron.line,
        "timeZone": cron.zone.key,
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": int(schedule.misfire_s or 3600),
        "successfulJobsHistoryLimit": 3,
        "failedJobsHistoryLimit": 3,
        "jobTemplate": {"spec": _job(name, job, image)},
    }
    return {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": name}, "spec": spec}


def _job(name: str, job: Job, image: str) -> dict[str, Any]:
    """A pod that is lost is started again and goes on with the same run; a gate's no is final."""
    rule = {"action": "FailJob", "onExitCodes": {"containerName": "workflow", "operator": "In", "values": [_GATE]}}
    state = PurePosixPath(job.config.state.dir.as_posix())
    volumes = [
        {"name": "config", "configMap": {"name": name}},
        {"name": "state", "persistentVolumeClaim": {"claimName": name}},
    ]
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(name, job, image, str(HOME / state))],
        "volumes": volumes,
    }
    return {"backoffLimit": 3, "podFailurePolicy": {"rules": [rule]}, "template": {"spec": pod}}


def _container(name: str, job: Job, image: str, state: str) -> dict[str, Any]:
    label = "metadata.labels['batch.kubernetes.io/job-name']"
    environment: list[dict[str, Any]] = [{"name": "LLMOPS_JOB", "valueFrom": {"fieldRef": {"fieldPath": label}}}]
    environment += [
        {"name": variable, "valueFrom": {"secretKeyRef": {"name": name, "key": variable}}} for variable in referred(job)
    ]
    return {
        "name": "workflow",
        "image": image,
        "command": ["llmops", "workflow", "run", f"{HOME}/config/workflow.yaml", "--key", "k8s-$(LLMOPS_JOB)"],
        "workingDir": str(HOME),
        "env": environment,
        "resources": {"requests": {"cpu": "1", "memory": "2Gi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [
            {"name": "config", "mountPath": f"{HOME}/config", "readOnly": True},
            {"name": "state", "mountPath": state},
        ],
    }
