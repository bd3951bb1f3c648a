"""A SkyPilot task: any cloud, spot machines too; a managed job is started again elsewhere and goes on.

SkyPilot runs `run` once on each node and sets SKYPILOT_NODE_RANK, SKYPILOT_NODE_IPS and SKYPILOT_NUM_NODES.
Source: skypilot-org/skypilot sky/utils/schemas.py (get_task_schema, get_resources_schema).
"""

from __future__ import annotations

import shlex
from typing import Any

from llmops.finetune.launch.artefact import Artefact, as_yaml
from llmops.finetune.launch.order import INTERRUPTED, Order
from llmops.finetune.launch.place import PORT

_ACCELERATOR = "H100"
_WHO = f'export LLMOPS_NODE="$SKYPILOT_NODE_RANK/$SKYPILOT_NUM_NODES@$(head -n 1 <<< "$SKYPILOT_NODE_IPS"):{PORT}"'


def render(order: Order) -> Artefact:
    name = f"{order.name}-sky.yaml"
    passed = [part for secret in sorted(set(order.secret.values())) for part in ("--secret", secret)]
    launch = ("sky", "jobs", "launch", "--yes", "--detach-run", *passed, f"{{folder}}/{name}")
    files = {name: as_yaml(order.head + _needs(order), _task(order))}
    return Artefact(files, launch, f"sky jobs launch {{folder}}/{name}", "sky jobs queue")


def _task(order: Order) -> dict[str, Any]:
    """`queue` names the GPUs here (`A100`, `H200`): a cloud has no queues, but kinds of machines."""
    recovery = {"max_restarts_on_errors": order.restarts, "recover_on_exit_codes": [INTERRUPTED]}
    resources: dict[str, Any] = {"use_spot": True, "job_recovery": recovery}
    if order.gpus:
        resources["accelerators"] = {order.queue or _ACCELERATOR: order.gpus}
    else:
        resources["cpus"] = f"{order.processes}+"
    if order.image:
        resources["image_id"] = f"docker:{order.image}"
    return {
        "name": order.name,
        "num_nodes": order.nodes,
        "resources": resources,
        "workdir": ".",
        "envs": dict(order.plain),
        "secrets": dict.fromkeys(sorted(set(order.secret.values()))),
        "volumes": {str(order.folder): order.name},
        "setup": f"cat > ~/{shlex.quote(order.job_name)} <<'END_OF_JOB'\n{order.job_yaml}END_OF_JOB\n",
        "run": f"{_names(order)}{_WHO}\nexec llmops finetune ~/{shlex.join([order.job_name, *order.options])}\n",
    }


def _names(order: Order) -> str:
    """Secrets travel under the names that they have here."""
    return "".join(f'export {name}="${{{origin}:?}}"\n' for name, origin in order.secret.items() if name != origin)


def _needs(order: Order) -> str:
    """A bucket will not do: checkpoints need a file system that renames folders."""
    return f"# Before: a volume `{order.name}` (sky volumes apply), mounted at {order.folder} on every node\n"
