"""A KubeRay RayJob: Ray places one task on each node, which runs the job's command there.

The entry point is a dozen lines of Python that travel in the ConfigMap; the image must hold both Ray and llmops.
Source: ray-project/kuberay ray-operator/apis/ray/v1/rayjob_types.go, raycluster_types.go.
"""

from __future__ import annotations

from typing import Any

from llmops.finetune.launch import kubernetes
from llmops.finetune.launch.artefact import Artefact, as_yaml
from llmops.finetune.launch.order import IMAGE, Order
from llmops.finetune.launch.place import PORT

_ENTRY = '''"""Places one process on each node, tells it who it is, and ends as the first one that fails does."""

import os
import subprocess
import sys

import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

NODES, CPUS, GPUS, PORT, COMMAND = {nodes}, {cpus}, {gpus}, {port}, {command}


def address():
    return ray.util.get_node_ip_address()


def train(rank, head):
    environment = os.environ | {{"LLMOPS_NODE": f"{{rank}}/{{NODES}}@{{head}}:{{PORT}}"}}
    return subprocess.run(COMMAND, env=environment).returncode


ray.init()
group = placement_group([{{"CPU": CPUS, "GPU": GPUS}}] * NODES, strategy="STRICT_SPREAD")
ray.get(group.ready())


def on(node, function, *arguments, whole=False):
    place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=node)
    share = {{"num_cpus": CPUS, "num_gpus": GPUS}} if whole else {{"num_cpus": 0}}
    return ray.remote(function).options(scheduling_strategy=place, max_retries=0, **share).remote(*arguments)


head = ray.get(on(0, address))
left = [on(node, train, node, head, whole=True) for node in range(NODES)]
while left:
    done, left = ray.wait(left)
    if code := ray.get(done[0]):
        sys.exit(code)
'''


def render(order: Order) -> Artefact:
    name = f"{order.name}-rayjob.yaml"
    job_map = kubernetes.config_map(order)
    job_map["data"]["entry.py"] = _ENTRY.format(
        nodes=order.nodes,
        cpus=order.processes,
        gpus=order.gpus,
        port=PORT,
        command=repr(["llmops", "finetune", kubernetes.job_path(order), *order.options]),
    )
    text = as_yaml(order.head + kubernetes.needs(order), job_map, _job(order))
    apply = ("kubectl", "apply", "-f", f"{{folder}}/{name}")
    return Artefact(
        {name: text},
        apply,
        f"kubectl apply -f {{folder}}/{name}",
        watch=f"kubectl get rayjob {order.name}",
        again=f"kubectl delete rayjob {order.name}, then hand it in once more",
    )


def _job(order: Order) -> dict[str, Any]:
    """The head only schedules; each retry makes a new cluster, and the run goes on from its newest checkpoint."""
    metadata: dict[str, Any] = {"name": order.name}
    if order.queue:
        metadata["labels"] = {"kueue.x-k8s.io/queue-name": order.queue}
    workers = {
        "groupName": "training",
        "replicas": order.nodes,
        "minReplicas": order.nodes,
        "maxReplicas": order.nodes,
        "rayStartParams": {},
        "template": _pod(order, "ray-worker", kubernetes.resources(order)),
    }
    head = {
        "rayStartParams": {"num-cpus": "0", "num-gpus": "0"},
        "template": _pod(order, "ray-head", {"requests": {"cpu": "1", "memory": "2Gi"}}),
    }
    spec = {
        "entrypoint": f"python {kubernetes.MOUNT}/entry.py",
        "submissionMode": "K8sJobMode",
        "backoffLimit": order.restarts,
        "activeDeadlineSeconds": order.seconds,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 600,
        "rayClusterSpec": {"headGroupSpec": head, "workerGroupSpecs": [workers]},
    }
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": spec}


def _pod(order: Order, name: str, resources: dict[str, Any]) -> dict[str, Any]:
    container = {
        "name": name,
        "image": order.image or IMAGE,
        "env": kubernetes.environment(order),
        "resources": resources,
        "volumeMounts": kubernetes.volume_mounts(order),
    }
    return {"spec": {"containers": [container], "volumes": kubernetes.volumes(order)}}
