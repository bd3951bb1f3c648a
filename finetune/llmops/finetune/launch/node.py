"""Which node of a launch this process is on, as the artefact that started it says in one variable.

    LLMOPS_NODE=<rank>/<nodes>@<host>:<port>      LLMOPS_NODE=0/4@node17:29400

Without the variable a process is the person's own: it submits a cluster's job instead of running it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from llmops.core.errors import ConfigError

VARIABLE = "LLMOPS_NODE"
CLUSTER_KINDS = ("slurm", "trainjob", "ray", "skypilot")
_SHAPE = re.compile(r"(\d+)/(\d+)@([A-Za-z0-9._:\[\]-]+):(\d{1,5})")


@dataclass(frozen=True)
class Node:
    """One machine of several that train together.

    Args:
        host: of node 0, where ranks meet.
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
    def rendezvous(self) -> str:
        return f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.rank}/{self.nodes}@{self.rendezvous}"


def inside(environment: Mapping[str, str] = os.environ) -> Node | None:
    """The node that this process is on, or None where no launcher started it.

    Raises:
        ConfigError: the variable is not of its form.
    """
    text = environment.get(VARIABLE)
    if text is None:
        return None
    found = _SHAPE.fullmatch(text)
    if found is None or int(found[1]) >= int(found[2]) or not 0 < int(found[4]) < 65_536:
        raise ConfigError(
            f"`{text}` does not say which node this is", where=VARIABLE, hint="write <rank>/<nodes>@<host>:<port>"
        )
    return Node(int(found[1]), int(found[2]), found[3], int(found[4]))
