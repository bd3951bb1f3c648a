"""Where a training runs: the same job file on a laptop, under torchrun, or on a cluster.

    local     this machine; `local` watches the ranks and starts them again from the newest valid checkpoint
    torchrun  PyTorch's own agent on each node starts every rank, and starts them again
    slurm     an sbatch script that saves and requeues itself before its time is up
    trainjob  Kubeflow Trainer v2      ray  KubeRay's RayJob      skypilot  a SkyPilot task

Every process runs the same command, `llmops finetune CONFIG`: the first prepares, trains, evaluates and registers, the
others lend their ranks (`place`, `together`). So a launcher only has to start one process a node, or a rank, and say
which one it is; a cluster's own retries are safe: the same job over the same data is the same run, and is gone on with.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from llmops.core.errors import ConfigError
from llmops.finetune.config import FinetuneConfig
from llmops.finetune.launch.artefact import Artefact, Submitted, hand_in
from llmops.finetune.launch.order import Order, order_of, running_state
from llmops.finetune.launch.place import Node, Rank, inside

__all__ = [
    "Artefact",
    "Node",
    "Order",
    "Rank",
    "Submitted",
    "artefact_of",
    "inside",
    "order_of",
    "render",
    "require_here",
    "running_state",
    "submit",
]

_MODULES = {
    "torchrun": "torchrun",
    "slurm": "slurm",
    "trainjob": "trainjob",
    "ray": "rayjob",
    "skypilot": "skypilot",
}
_READ_BY_NODES = ("torchrun", "slurm")


def artefact_of(config: FinetuneConfig, path: Path | None = None, only: str | None = None) -> Artefact:
    """What `launch.kind` is given.

    Args:
        path: of the job file, to be named in the head of what is written.
        only: the run to go on with; nodes refuse to begin another.

    Raises:
        ConfigError: the job runs on this machine; or the launcher needs a value that the job lacks.
    """
    kind = config.launch.kind
    if kind == "local":
        raise ConfigError(
            "launch.kind: local is this machine, and needs nothing else",
            hint="choose torchrun, slurm, trainjob, ray or skypilot",
        )
    module = import_module(f"{__name__}.{_MODULES[kind]}")
    made: Artefact = module.render(order_of(config, path, only))
    return made


def render(config: FinetuneConfig, path: Path | None = None) -> dict[str, str]:
    """File name to text of what `launch.kind` needs; see `artefact_of`."""
    return artefact_of(config, path).files


def require_here(config: FinetuneConfig, doing: str) -> None:
    """For what one process of this machine does, whatever it trains.

    Args:
        doing: the subject of the sentence, `a search`.

    Raises:
        ConfigError: the job is for other machines, or this process is one of several that train together.
    """
    place = inside()
    if place is not None and not place.alone:
        raise ConfigError(f"{doing} is one process, and this one is {place}", hint="call it outside the launcher")
    if place is None and (config.launch.kind != "local" or config.launch.nodes > 1):
        raise ConfigError(
            f"{doing} trains on this machine, and launch.kind is {config.launch.kind} "
            f"with {config.launch.nodes} node{'s' * (config.launch.nodes > 1)}",
            hint="add --set launch.kind=local --set launch.nodes=1; on a cluster, start this command on one of its "
            "nodes: `srun --nodes 1 llmops finetune ...`",
        )


def submit(config: FinetuneConfig, path: Path | None = None, only: str | None = None) -> Submitted:
    """Write the artefacts and hand them to their cluster; for torchrun, write them and say how to start.

    What nodes read themselves goes into the folder that they share, else into the state of this machine.

    Raises:
        NotFoundError: the launcher's command (`sbatch`, `kubectl`, `sky`) is not on this machine.
        StorageError: the files cannot be written.
        UnavailableError: the command refused, or has the job already; its words are in the error.
    """
    shared = config.launch.shared_dir if config.launch.kind in _READ_BY_NODES else None
    return hand_in(artefact_of(config, path, only), shared or config.state.root / "launch")
