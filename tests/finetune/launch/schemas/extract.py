"""Makes `trainjob.json` of Kubeflow's own models: the parts of a TrainJob that a person writes, without their texts.

    uv pip install --target /tmp/api --no-deps kubeflow-trainer-api==2.3.0
    PYTHONPATH=/tmp/api python tests/finetune/launch/schemas/extract.py

Objects are closed, so that a key that Kubernetes would drop is seen. Volume sources that we never write are left out.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

_LEFT_OUT = ("status", "initializer", "managedFields", "affinity", "ephemeral", "ownerReferences")
_VOLUMES = ("name", "configMap", "emptyDir", "persistentVolumeClaim", "hostPath", "secret")
_QUANTITY = {"type": ["string", "number"]}
"""The models wrap what is a text or a number in an object of their own."""


def main() -> None:
    model = import_module("kubeflow_trainer_api.models.trainer_v1alpha1_train_job").TrainerV1alpha1TrainJob
    schema = model.model_json_schema(by_alias=True)
    whole = schema.pop("$defs")
    for name, one in {"": schema, **whole}.items():
        kept = one.get("properties", {})
        for key in list(kept):
            left_out = key in _LEFT_OUT or (name == "IoK8sApiCoreV1Volume" and key not in _VOLUMES)
            if left_out:
                kept.pop(key)
    wanted, found = [schema], {}
    while wanted:
        for name in _named(wanted.pop()):
            if name not in found:
                found[name] = whole[name]
                wanted.append(whole[name])
    found |= {name: _QUANTITY for name in found if name.endswith("ResourceQuantity")}
    made = _closed({**schema, "$defs": dict(sorted(found.items()))})
    text = json.dumps(made, indent=1, sort_keys=True)
    Path(__file__).with_name("trainjob.json").write_text(text + "\n")


def _named(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"].rsplit("/", 1)[1]] if isinstance(value.get("$ref"), str) else []
        return own + [name for one in value.values() for name in _named(one)]
    return [name for one in value for name in _named(one)] if isinstance(value, list) else []


def _closed(value: Any) -> Any:
    """Without titles and texts, optional values never null, objects with no other keys than theirs."""
    if isinstance(value, list):
        return [_closed(one) for one in value]
    if not isinstance(value, dict):
        return value
    choices = [one for one in value.get("anyOf", []) if one != {"type": "null"}]
    if len(choices) == 1:
        return _closed(choices[0])
    found = {}
    for key, one in value.items():
        if key in ("properties", "$defs"):
            found[key] = {name: _closed(inner) for name, inner in one.items()}
        elif key not in ("title", "description", "default"):
            found[key] = _closed(one)
    if "properties" in found:
        found["additionalProperties"] = False
    return found


if __name__ == "__main__":
    main()
