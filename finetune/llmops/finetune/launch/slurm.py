"""An sbatch script: one task a node, told to save before its time is up, which then requeues itself.

Each rank has a core: a task would get one for all of its ranks, and srun does not take the number from sbatch any more.
Slurm sends USR1 to the batch shell alone (`B:`), which passes it on to the nodes' tasks by `kill` of srun. They save a
checkpoint and end with code 130; the shell asks for the same job again. After a task was killed it does so, too, up to
`launch.restarts` times. After the failure of a node Slurm requeues by itself.
Source: sbatch(1) --signal, --requeue, --open-mode; srun(1) "Signals and Escape Sequences".
"""

from __future__ import annotations

import shlex

from llmops.finetune.launch.artefact import Artefact
from llmops.finetune.launch.order import INTERRUPTED, LOST, SAVE_BEFORE_S, Order
from llmops.finetune.launch.place import PORT
from llmops.finetune.launch.torchrun import exports


def render(order: Order) -> Artefact:
    files = {f"{order.name}.sbatch": _script(order), order.job_name: order.head + order.job_yaml}
    return Artefact(
        files,
        ("sbatch", "--parsable", f"{{folder}}/{order.name}.sbatch"),
        f"sbatch {{folder}}/{order.name}.sbatch",
        watch="squeue --job {id}",
        id_pattern=r"^(\d+)",
    )


def wall_time(seconds: int) -> str:
    """`days-hours:minutes:seconds`."""
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours // 24}-{hours % 24:02}:{minute:02}:{second:02}"


def _directives(order: Order) -> str:
    lines = [
        f"--job-name={order.name}",
        f"--nodes={order.nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={order.processes}",
        f"--time={wall_time(order.seconds)}",
        f"--signal=B:USR1@{SAVE_BEFORE_S}",
        "--requeue",
        "--open-mode=append",
        f"--output={order.folder}/%x-%j.log",  # in a folder that is there: Slurm makes none
    ]
    lines += [f"--gres=gpu:{order.gpus}"] if order.gpus else []
    lines += [f"--partition={order.queue}"] if order.queue else []
    return "".join(f"#SBATCH {line}\n" for line in lines)


def _script(order: Order) -> str:
    container = f" --container-image={shlex.quote(order.image)}" if order.image else ""
    return f"""#!/usr/bin/env bash
{order.head}{_directives(order)}set -uo pipefail
{exports(order)}# A node's number and the node on which ranks meet; both are expanded on the node.
LEAD="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
export LEAD
ranks=
trap '[ -n "$ranks" ] && kill -USR1 "$ranks"' USR1
srun --kill-on-bad-exit=1 --cpus-per-task={order.processes}{container} bash -c '
  export LLMOPS_NODE="$SLURM_NODEID/$SLURM_NNODES@$LEAD:{PORT}"
  exec "$@"' - {shlex.join(["llmops", "finetune", str(order.job_path), *order.options])} &
ranks=$!
# `wait` ends when a signal comes: wait on until srun itself is gone.
while true; do
  wait "$ranks"; code=$?
  kill -0 "$ranks" 2>/dev/null || break
done
if [ "$code" -eq {INTERRUPTED} ]; then
  echo "saved and stopped before the time was up: asking for the same job again"
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
fi
# A task that was killed, or lost node 0: srun cannot start one again, but Slurm can start the job again.
lost={shlex.quote(str(order.folder))}/.lost-$SLURM_JOB_ID
if [ "$code" -ge 128 ] || [ "$code" -eq {LOST} ]; then
  times=$(( $(cat "$lost" 2>/dev/null || echo 0) + 1 ))
  if [ "$times" -le {order.restarts} ]; then
    echo "$times" > "$lost"
    echo "a node was lost (code $code): asking for the same job again ($times of {order.restarts})"
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
  fi
fi
rm -f "$lost"
exit "$code"
"""
