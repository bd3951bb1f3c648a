"""A script for each node of a few machines without a scheduler: PyTorch's agent on each lets ranks meet by c10d.

torchrun starts `llmops finetune` as every rank, and all of them again when one fails, whatever it failed by.
Source: `torchrun --help`.
"""

from __future__ import annotations

import shlex

from llmops.finetune.launch.artefact import Artefact
from llmops.finetune.launch.order import Order
from llmops.finetune.launch.place import PORT


def render(order: Order) -> Artefact:
    files = {f"{order.name}.sh": _script(order), order.job_name: order.head + order.job_yaml}
    start = f"on each node: HEAD=<node 0's address> bash {{folder}}/{order.name}.sh"
    return Artefact(files, None, start if order.nodes > 1 else f"bash {{folder}}/{order.name}.sh")


def exports(order: Order) -> str:
    """Lines that set the ranks' variables; secrets are taken from the variables that they refer to."""
    plain = [f"export {name}={shlex.quote(value)}" for name, value in order.plain.items()]
    secret = [
        f'export {name}="${{{origin}:?set {origin} where this job runs}}"' for name, origin in order.secret.items()
    ]
    return "".join(f"{line}\n" for line in [*plain, *secret])


def command(order: Order) -> list[str]:
    """torchrun of one node; `$HEAD` and `$PORT` are expanded by the script."""
    return [
        "torchrun",
        f"--nnodes={order.nodes}",
        f"--nproc-per-node={order.processes}",
        f"--max-restarts={order.restarts}",
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=$HEAD:$PORT",
        f"--rdzv-id={order.name}",
        "--no-python",
        "llmops",
        "finetune",
    ]


def _script(order: Order) -> str:
    words = " ".join(f'"{word}"' if "$" in word else shlex.quote(word) for word in command(order))
    return f"""#!/usr/bin/env bash
{order.head}#   on each node: HEAD=<node 0's address> bash {order.name}.sh
set -euo pipefail
{exports(order)}HEAD="${{HEAD:-127.0.0.1}}" PORT="${{PORT:-{PORT}}}"
exec {words} "$(dirname "$0")"/{shlex.join([order.job_name, *order.options])}
"""
