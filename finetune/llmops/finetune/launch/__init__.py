"""Where a training runs: the same job file on a laptop, under torchrun, or on a cluster.

    local     this machine; `local` watches the ranks and starts them again from the newest valid checkpoint
    torchrun  PyTorch's own agent on each node, c10d rendezvous
    slurm     an sbatch script that saves and requeues itself before its time is up
    trainjob  Kubeflow Trainer v2      ray  KubeRay's RayJob      skypilot  a SkyPilot task

Every node runs the same command, `llmops finetune CONFIG`: node 0 prepares, trains, evaluates and registers, the others
lend their ranks (`node`). So a launcher only has to start one process a node and say which one it is; a cluster's own
retries are safe, since the same job over the same data is the same run, which is gone on with.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from llmops.core.errors import ConfigError
from llmops.finetune.config import FinetuneConfig
from llmops.finetune.launch.artefact import Artefact, Submitted, hand_in
from llmops.finetune.launch.node import Node, inside
from llmops.finetune.launch.order import Order, order_of

__all__ = ["Artefact", "Node", "Order", "Submitted", "inside", "order_of", "render", "submit"]

_MODULES = {
    "torchrun": "torchrun",
    "slurm": "slurm",
    "trainjob": "trainjob",
    "ray": "rayjob",
    "skypilot": "skypilot",
}


def render(config: FinetuneConfig, path: Path | None = None) -> dict[str, str]:
    """File name to text of what `launch.kind` needs; nothing where the job runs on this machine.

    Args:
        path: of the job file, to be named in the head of what is written.

    Raises:
        ConfigError: the launcher needs a value that the job lacks.
    """
    if config.launch.kind == "local":
        if config.launch.nodes > 1:
            raise ConfigError(
                "launch.kind: local is one machine, and launch.nodes is more",
                hint="choose torchrun, slurm, trainjob, ray or skypilot",
            )
        return {}
    return _artefact(config, path).files


def submit(config: FinetuneConfig, path: Path | None = None) -> Submitted:
    """Write the artefacts into the folder that the nodes share (else into the state) and hand them to their cluster;
    for torchrun, write them and say how to start.

    Raises:
        NotFoundError: the launcher's command (`sbatch`, `kubectl`, `sky`) is not on this machine.
        UnavailableError: the command refused; its words are in the error.
    """
    folder = config.launch.shared_dir or config.state.root / "launch"
    return hand_in(_artefact(config, path), folder)


def _artefact(config: FinetuneConfig, path: Path | None) -> Artefact:
    module = import_module(f"{__name__}.{_MODULES[config.launch.kind]}")
    made: Artefact = module.render(order_of(config, path))
    return made
