"""Where among the processes of a training this one is, as the launcher that started it says in its variables.

    LLMOPS_NODE=0/4@node17:29400                  a node: <rank>/<nodes>@<host>:<port>; our own artefacts set it
    RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT    one rank of torchrun's
    PET_NODE_RANK, PET_NNODES, PET_MASTER_*       a node, in a pod of Kubeflow's Torch runtime
    SLURM_STEP_NUM_TASKS, SLURM_PROCID, ...       a task of srun: a node where each has one task, else one rank

Without any of them a process is the person's own: it submits a cluster's job instead of running it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from llmops.core.errors import ConfigError
from llmops.finetune.config import LaunchConfig

VARIABLE = "LLMOPS_NODE"
CLUSTER_KINDS = ("slurm", "trainjob", "ray", "skypilot")
PORT = 29_400
"""torchrun's own default for a rendezvous."""
_PORTS = 600
"""So many jobs of one Slurm node meet at ports of their own."""
_INTERACTIVE = str(0xFFFFFFFA)
"""The step of salloc's shell, in which a person types."""
_SHAPE = re.compile(r"(\d+)/(\d+)@([A-Za-z0-9._:\[\]-]+):(\d{1,5})")
_TORCH = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_PET = ("PET_NODE_RANK", "PET_NNODES", "PET_MASTER_ADDR", "PET_MASTER_PORT")
_SLURM = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES", "SLURM_STEP_NODELIST", "SLURM_JOB_ID")


@dataclass(frozen=True)
class Node:
    """One machine of several that train together; it starts ranks of its own.

    Args:
        host: of node 0, where all meet.
    """

    rank: int
    nodes: int
    host: str
    port: int

    @property
    def leads(self) -> bool:
        """Whether this node prepares, evaluates and registers, too."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        return self.nodes == 1

    def __str__(self) -> str:
        return f"node {self.rank} of {self.nodes}"

    def require(self, launch: LaunchConfig) -> None:
        """
        Raises:
            ConfigError: the job is one of another number of nodes.
        """
        if self.nodes != launch.nodes:
            raise ConfigError(
                f"launch.nodes is {launch.nodes}, and the launcher started {self.nodes}",
                hint=f"set launch.nodes: {self.nodes}, or start {launch.nodes}",
            )


@dataclass(frozen=True)
class Rank:
    """One of the processes that a launcher has started, each a rank of the training.

    Args:
        local: its number on its machine.
        host: where rank 0 is met.
    """

    rank: int
    ranks: int
    local: int
    host: str
    port: int

    @property
    def leads(self) -> bool:
        return self.rank == 0

    @property
    def alone(self) -> bool:
        return self.ranks == 1

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.ranks}"

    def require(self, launch: LaunchConfig) -> None:
        """
        Raises:
            ConfigError: the job is one of another number of ranks.
        """
        wanted = launch.nodes * launch.ranks_per_node
        if self.ranks != wanted:
            raise ConfigError(
                f"the job trains on {wanted} rank{'s' * (wanted > 1)}, and the launcher started {self.ranks}",
                hint="launch.nodes x launch.processes (or launch.gpus) has to be the number of processes",
            )


def inside(environment: Mapping[str, str] = os.environ) -> Node | Rank | None:
    """What this process is, or None where no launcher started it.

    Raises:
        ConfigError: a variable is not of its form.
    """
    if VARIABLE in environment:
        return _node(environment[VARIABLE])
    if all(name in environment for name in _TORCH):
        rank, ranks = _whole(environment, "RANK"), _whole(environment, "WORLD_SIZE")
        local = _whole(environment, "LOCAL_RANK") if "LOCAL_RANK" in environment else rank
        host, port = environment["MASTER_ADDR"], _whole(environment, "MASTER_PORT")
        return Rank(rank, ranks, local, host, port)
    if all(name in environment for name in _PET):
        node, of, address, at = (environment[name] for name in _PET)
        return _node(f"{node}/{of}@{address}:{at}")
    if all(name in environment for name in _SLURM) and environment.get("SLURM_STEP_ID") != _INTERACTIVE:
        return _slurm(environment)
    return None


def _node(text: str) -> Node:
    found = _SHAPE.fullmatch(text)
    if found is None or int(found[1]) >= int(found[2]) or not 0 < int(found[4]) < 65_536:
        raise ConfigError(
            f"`{text}` does not say which node this is", where=VARIABLE, hint="write <rank>/<nodes>@<host>:<port>"
        )
    return Node(int(found[1]), int(found[2]), found[3], int(found[4]))


def _slurm(environment: Mapping[str, str]) -> Node | Rank:
    rank, tasks, nodes = (_whole(environment, name) for name in _SLURM[:3])
    host, port = first_host(environment["SLURM_STEP_NODELIST"]), PORT + _whole(environment, "SLURM_JOB_ID") % _PORTS
    if tasks == nodes:
        return Node(rank, nodes, host, port)
    return Rank(rank, tasks, _whole(environment, "SLURM_LOCALID"), host, port)


def first_host(listed: str) -> str:
    """Of Slurm's `gpu[007-9,12],login1` the first: gpu007."""
    found = re.match(r"([^\[,]*)(?:\[([^\],-]+)[^\]]*\])?([^\[,]*)", listed)
    assert found is not None
    return found[1] + (found[2] or "") + found[3]


def _whole(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not text.isdecimal():
        raise ConfigError(f"`{text}` is no whole number", where=name, hint="the launcher sets it")
    return int(text)
