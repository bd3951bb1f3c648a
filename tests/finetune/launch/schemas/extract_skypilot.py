"""Makes `skypilot.json` of SkyPilot's own schemas: a task, and within it the machines that it asks for.

    uv venv /tmp/sky && uv pip install --python /tmp/sky/bin/python skypilot==0.14.1
    /tmp/sky/bin/python tests/finetune/launch/schemas/extract_skypilot.py

Parts that we never write are left out, so that they are as unknown as a mistyped key. SkyPilot checks `resources` by a
schema of its own; here it stands in its place.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

_TASK = ("name", "workdir", "num_nodes", "resources", "file_mounts", "setup", "run", "envs", "secrets", "volumes")
_RESOURCES = (
    "accelerators", "cpus", "memory", "infra", "instance_type", "use_spot", "image_id", "disk_size", "max_hourly_cost",
    "job_recovery",
)  # fmt: skip


def main() -> None:
    schemas: Any = import_module("sky.utils.schemas")
    task, resources = schemas.get_task_schema(), schemas.get_resources_schema()
    task["properties"] = {name: task["properties"][name] for name in _TASK}
    task["properties"]["resources"] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {name: _closed(resources["properties"][name]) for name in _RESOURCES},
    }
    text = json.dumps(_closed(task), indent=1, sort_keys=True)
    Path(__file__).with_name("skypilot.json").write_text(text + "\n")


def _closed(value: Any) -> Any:
    """Without texts, and without room for the keys of plugins."""
    if isinstance(value, list):
        return [_closed(one) for one in value]
    if not isinstance(value, dict):
        return value
    kept = {key: _closed(one) for key, one in value.items() if key not in ("description", "$schema")}
    return {**kept, "additionalProperties": False} if kept.get("additionalProperties") is True else kept


if __name__ == "__main__":
    main()
