"""What the launchers' own schemas allow of what we write, as JSON Schemas: closed objects, so that a wrong key is seen.

Facts, not copies, of: ray-project/kuberay ray-operator/apis/ray/v1/{rayjob,raycluster}_types.go, without what we do not
write; skypilot-org/skypilot sky/utils/schemas.py. What a pod may hold is asked of the installed Kubernetes client. Of a
TrainJob there is Kubeflow's own schema in tests/finetune/launch/schemas.
"""

from __future__ import annotations

import importlib
import re
from typing import Any

TEXT, WHOLE, FLAG, ANY = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}, {"type": "object"}


def closed(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": properties}


def listed(items: dict[str, Any], most: int | None = None) -> dict[str, Any]:
    return {"type": "array", "items": items, **({} if most is None else {"maxItems": most})}


def _document(kind: str, version: str, spec: dict[str, Any]) -> dict[str, Any]:
    name = {"type": "string", "pattern": r"^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
    metadata = closed(("name",), name=name, labels=ANY, annotations=ANY, namespace=TEXT)
    return closed(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": version},
        kind={"const": kind},
        metadata=metadata,
        spec=spec,
    )


_TEMPLATE = closed(metadata=ANY, spec=ANY)
_TEXTS = {"type": "object", "additionalProperties": TEXT}
RAYJOB = _document(
    "RayJob",
    "ray.io/v1",
    closed(
        activeDeadlineSeconds=WHOLE,
        backoffLimit=WHOLE,
        rayClusterSpec=closed(
            ("headGroupSpec",),
            headGroupSpec=closed(
                ("rayStartParams", "template"),
                serviceType=TEXT,
                headService=ANY,
                enableIngress=FLAG,
                rayStartParams=_TEXTS,
                template=_TEMPLATE,
            ),
            workerGroupSpecs=listed(
                closed(
                    ("groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"),
                    groupName=TEXT,
                    replicas=WHOLE,
                    minReplicas=WHOLE,
                    maxReplicas=WHOLE,
                    numOfHosts=WHOLE,
                    rayStartParams=_TEXTS,
                    template=_TEMPLATE,
                    scaleStrategy=ANY,
                )
            ),
            rayVersion=TEXT,
            enableInTreeAutoscaling=FLAG,
            suspend=FLAG,
        ),
        submitterPodTemplate=_TEMPLATE,
        metadata=_TEXTS,
        clusterSelector=_TEXTS,
        entrypoint=TEXT,
        runtimeEnvYAML=TEXT,
        jobId=TEXT,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        entrypointNumCpus={"type": "number"},
        entrypointNumGpus={"type": "number"},
        ttlSecondsAfterFinished=WHOLE,
        shutdownAfterJobFinishes=FLAG,
        suspend=FLAG,
    ),
)

_RESOURCES = closed(
    accelerators={"anyOf": [TEXT, {"type": "object", "additionalProperties": {"type": "number"}}]},
    cpus={"anyOf": [TEXT, {"type": "number"}]},
    memory={"anyOf": [TEXT, {"type": "number"}]},
    infra=TEXT,
    instance_type=TEXT,
    use_spot=FLAG,
    image_id=TEXT,
    disk_size=WHOLE,
    max_hourly_cost={"type": "number", "exclusiveMinimum": 0},
    job_recovery=closed(
        strategy=TEXT,
        max_restarts_on_errors={"type": "integer", "minimum": 0},
        recover_on_exit_codes=listed({"type": "integer", "minimum": 0, "maximum": 255}),
    ),
)
SKYPILOT = closed(
    name=TEXT,
    workdir=TEXT,
    num_nodes=WHOLE,
    resources=_RESOURCES,
    file_mounts=ANY,
    setup=TEXT,
    run=TEXT,
    envs={"type": "object", "patternProperties": {"^[a-zA-Z_][a-zA-Z0-9_]*$": TEXT}, "additionalProperties": False},
    secrets={"type": "object", "additionalProperties": {"type": ["string", "null"]}},
    volumes=ANY,
)


def unknown_keys(value: Any, model: str = "V1PodSpec", at: str = "spec") -> list[str]:
    """Keys of a pod that the installed Kubernetes client does not know, with where they stand."""
    if (inner := re.fullmatch(r"[Ll]ist\[(\w+)\]", model)) is not None:
        return [each for number, one in enumerate(value) for each in unknown_keys(one, inner[1], f"{at}[{number}]")]
    if not model.startswith("V1") or not isinstance(value, dict):
        return []
    known = getattr(importlib.import_module("kubernetes.client.models"), model)
    names = {shown: name for name, shown in known.attribute_map.items()}
    found = [f"{at}.{key}" for key in value if key not in names]
    for key in value.keys() & names.keys():
        found += unknown_keys(value[key], known.openapi_types[names[key]], f"{at}.{key}")
    return found
