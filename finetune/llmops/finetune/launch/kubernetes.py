"""What the launchers on Kubernetes share: the job file as a ConfigMap, the common volume, variables, resources."""

from __future__ import annotations

from typing import Any

from llmops.finetune.launch.order import Order

MOUNT = "/etc/llmops"
"""Where a pod finds the job file."""


def config_map(order: Order) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": order.name},
        "data": {order.job_name: order.job_yaml},
    }


def job_path(order: Order) -> str:
    return f"{MOUNT}/{order.job_name}"


def environment(order: Order) -> list[dict[str, Any]]:
    """Secrets are keys of the Secret that bears the job's name."""
    plain = [{"name": name, "value": value} for name, value in order.plain.items()]
    return plain + [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": order.name, "key": origin}}}
        for name, origin in order.secret.items()
    ]


def resources(order: Order) -> dict[str, Any]:
    if order.gpus:
        return {"limits": {"nvidia.com/gpu": str(order.gpus)}}
    return {"requests": {"cpu": str(order.processes)}}


def volumes(order: Order) -> list[dict[str, Any]]:
    """The shared folder is a claim of the job's name that several nodes may write."""
    return [
        {"name": "job", "configMap": {"name": order.name}},
        {"name": "shared", "persistentVolumeClaim": {"claimName": order.name}},
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
    ]


def volume_mounts(order: Order) -> list[dict[str, Any]]:
    return [
        {"name": "job", "mountPath": MOUNT, "readOnly": True},
        {"name": "shared", "mountPath": str(order.folder)},
        {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - the pod's own memory, where ranks of a node meet
    ]


def needs(order: Order) -> str:
    """What has to be in the namespace before."""
    head = f"# Before: a PersistentVolumeClaim `{order.name}` (ReadWriteMany), mounted at {order.folder}"
    if order.secret:
        head += f"; a Secret `{order.name}` with {', '.join(sorted(set(order.secret.values())))}"
    return head + "\n"
