"""A script for each node of a few machines without a scheduler; PyTorch's agent on each lets ranks meet by c10d."""

from __future__ import annotations

import shlex

from llmops.finetune.launch.artefact import Artefact
from llmops.finetune.launch.order import PORT, Order


def render(order: Order) -> Artefact:
    files = {f"{order.name}.sh": _script(order), order.job_name: order.head + order.job_yaml}
    start = f"on each node: HEAD=<node 0's address> NODE=<0..{order.nodes - 1}> bash {{folder}}/{order.name}.sh"
    return Artefact(files, None, start if order.nodes > 1 else f"bash {{folder}}/{order.name}.sh")


def exports(order: Order) -> str:
    """Lines that set the ranks' variables; secrets are taken from the variables that they refer to."""
    plain = [f"export {name}={shlex.quote(value)}" for name, value in order.plain.items()]
    secret = [
        f'export {name}="${{{origin}:?set {origin} where this job runs}}"' for name, origin in order.secret.items()
    ]
    return "".join(f"{line}\n" for line in [*plain, *secret])


def _script(order: Order) -> str:
    return f"""#!/usr/bin/env bash
{order.head}#   on each node: HEAD=<node 0's address> NODE=<its number> bash {order.name}.sh
set -euo pipefail
{exports(order)}export LLMOPS_NODE="${{NODE:-0}}/{order.nodes}@${{HEAD:-127.0.0.1}}:${{PORT:-{PORT}}}"
exec llmops finetune "$(dirname "$0")"/{shlex.quote(order.job_name)}
"""
