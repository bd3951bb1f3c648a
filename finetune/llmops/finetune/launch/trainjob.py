"""A Kubeflow Trainer v2 TrainJob over the runtime `torch-distributed`, which says to each pod who it is.

The Torch runtime sets PET_NODE_RANK, PET_NNODES, PET_MASTER_ADDR and PET_MASTER_PORT, of which LLMOPS_NODE is made.
Source: kubeflow/trainer pkg/apis/trainer/v1alpha1/trainjob_types.go, pkg/runtime/framework/plugins/torch.
"""

from __future__ import annotations

import shlex
from typing import Any

from llmops.finetune.launch import kubernetes
from llmops.finetune.launch.artefact import Artefact, as_yaml
from llmops.finetune.launch.order import IMAGE, Order

_WHO = 'export LLMOPS_NODE="$PET_NODE_RANK/$PET_NNODES@$PET_MASTER_ADDR:$PET_MASTER_PORT"'


def render(order: Order) -> Artefact:
    name = f"{order.name}-trainjob.yaml"
    text = as_yaml(order.head + kubernetes.needs(order), kubernetes.config_map(order), _job(order))
    apply = ("kubectl", "apply", "-f", f"{{folder}}/{name}")
    return Artefact(
        {name: text},
        apply,
        f"kubectl apply -f {{folder}}/{name}",
        watch=f"kubectl get trainjob {order.name}",
        again=f"kubectl delete trainjob {order.name}, then hand it in once more",
    )


def _job(order: Order) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": order.name}
    if order.queue:
        metadata["labels"] = {"kueue.x-k8s.io/queue-name": order.queue}
    words = ["llmops", "finetune", kubernetes.job_path(order), *order.options]
    trainer: dict[str, Any] = {
        "image": order.image or IMAGE,
        "command": ["bash", "-c", f"{_WHO}; exec {shlex.join(words)}"],
        "numNodes": order.nodes,
        "numProcPerNode": order.processes,
        "resourcesPerNode": kubernetes.resources(order),
    }
    if environment := kubernetes.environment(order):
        trainer["env"] = environment
    spec = {
        "runtimeRef": {
            "apiGroup": "trainer.kubeflow.org",
            "kind": "ClusterTrainingRuntime",
            "name": "torch-distributed",
        },
        "trainer": trainer,
        "runtimePatches": [_volumes(order)],
        "activeDeadlineSeconds": order.seconds,
    }
    return {"apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainJob", "metadata": metadata, "spec": spec}


def _volumes(order: Order) -> dict[str, Any]:
    """The volumes, patched into the runtime's pods: its job and its container are both called `node`."""
    pod = {
        "volumes": kubernetes.volumes(order),
        "containers": [{"name": "node", "volumeMounts": kubernetes.volume_mounts(order)}],
    }
    job = {"name": "node", "template": {"spec": {"template": {"spec": pod}}}}
    return {"manager": "llmops.finetune", "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [job]}}}}
