"""What KubeRay allows of a RayJob, as a JSON Schema: closed objects, so that a wrong key or a wrong value is seen.

Facts, not copies, of ray-project/kuberay, ray-operator/: apis/ray/v1/rayjob_types.go at f6ef3f7b, raycluster_types.go
at 3275ee09, both with the fields that came since (SidecarMode, groups' resources and labels, authOptions), and what
controllers/ray/utils/validation.go at 0074504f refuses besides. All fields are here at each level that we write; those
that we never write are refused. Pods are the business of `pod_faults`. Of TrainJobs and SkyPilot's tasks there are
their own schemas in tests/finetune/launch/schemas.
"""

from __future__ import annotations

from typing import Any

TEXT, FLAG, NUMBER = {"type": "string"}, {"type": "boolean"}, {"type": "number"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
UNWRITTEN = False
"""A field that there is, and that our documents have no use for: they may not have it by accident."""


def closed(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": properties}


def whole(least: int) -> dict[str, Any]:
    """An int32."""
    return {"type": "integer", "minimum": least, "maximum": 2**31 - 1}


_TEMPLATE = closed(("spec",), metadata=closed(labels=TEXTS, annotations=TEXTS), spec={"type": "object"})
_START = {**TEXTS, "propertyNames": {"not": {"const": "labels"}}}  # `labels` stand beside, not among the parameters
_HEAD = closed(
    ("rayStartParams", "template"),
    template=_TEMPLATE,
    rayStartParams=_START,
    serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]},
    headService=UNWRITTEN,
    enableIngress=FLAG,
    resources=UNWRITTEN,  # may not be given beside num-cpus and num-gpus, which we give
    labels=TEXTS,
)
_WORKERS = closed(
    ("groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"),
    groupName=TEXT,
    replicas=whole(0),
    minReplicas=whole(0),
    maxReplicas=whole(0),
    numOfHosts=whole(1),
    idleTimeoutSeconds=whole(0),
    rayStartParams=_START,
    template=_TEMPLATE,
    suspend=UNWRITTEN,  # not for people: the operator sets it
    scaleStrategy=UNWRITTEN,
    resources=UNWRITTEN,
    labels=TEXTS,
)
_CLUSTER = closed(
    ("headGroupSpec",),
    headGroupSpec=_HEAD,
    workerGroupSpecs={"type": "array", "items": _WORKERS},
    rayVersion={"type": "string", "pattern": r"^\d+\.\d+\.\d+"},
    enableInTreeAutoscaling=FLAG,
    suspend=FLAG,
    managedBy={"enum": ["ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"]},
    **dict.fromkeys(("autoscalerOptions", "gcsFaultToleranceOptions", "headServiceAnnotations"), UNWRITTEN),
    **dict.fromkeys(("authOptions", "upgradeStrategy"), UNWRITTEN),
)
_SPEC = closed(
    ("rayClusterSpec",),
    rayClusterSpec=_CLUSTER,
    entrypoint=TEXT,
    runtimeEnvYAML=TEXT,
    jobId=TEXT,
    metadata=TEXTS,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    activeDeadlineSeconds=whole(1),
    backoffLimit=whole(0),
    ttlSecondsAfterFinished=whole(0),
    shutdownAfterJobFinishes=FLAG,
    suspend=FLAG,
    entrypointNumCpus=NUMBER,
    entrypointNumGpus=NUMBER,
    entrypointResources=TEXT,
    managedBy={"enum": ["ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"]},
    submitterPodTemplate=UNWRITTEN,  # nor the next: SidecarMode refuses them
    submitterConfig=UNWRITTEN,
    clusterSelector=UNWRITTEN,  # for a cluster that is there: no retries, and not beside rayClusterSpec
    deletionStrategy=UNWRITTEN,  # behind a feature gate
)
_NEEDS_SHUTDOWN = {
    "if": {
        "anyOf": [
            {"required": ["ttlSecondsAfterFinished"], "properties": {"ttlSecondsAfterFinished": {"minimum": 1}}},
            {"required": ["suspend"], "properties": {"suspend": {"const": True}}},
        ]
    },
    "then": {"required": ["shutdownAfterJobFinishes"], "properties": {"shutdownAfterJobFinishes": {"const": True}}},
}
RAYJOB = closed(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=closed(
        ("name",),
        # a DNS label of RFC 1035; the cluster's name is it and six characters, its services' up to ten more
        name={"type": "string", "pattern": r"^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 47},
        namespace=TEXT,
        labels=TEXTS,
        annotations=TEXTS,
    ),
    spec={**_SPEC, **_NEEDS_SHUTDOWN},
)


def pod_faults(pod: Any) -> list[tuple[str, str]]:
    """What the installed Kubernetes client's models refuse of a pod: where, and why."""
    from kubernetes.client.models import V1PodSpec
    from pydantic import ValidationError

    try:
        V1PodSpec.model_validate(pod, by_name=False, by_alias=True)
    except ValidationError as error:
        return [(".".join(map(str, one["loc"])), one["type"]) for one in error.errors()]
    return []
