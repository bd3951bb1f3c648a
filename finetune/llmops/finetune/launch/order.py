"""What every launcher is told: names, sizes, time, variables, and the job file as the nodes will read it.

A node reads a resolved copy of the job, in which the state lies in the folder that all nodes see. Secrets stay
references: the value of a variable `NAME: env:OTHER` is taken where the job runs, and no file holds it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from llmops.core.errors import ConfigError
from llmops.core.state import StateConfig
from llmops.finetune.config import FinetuneConfig, LaunchConfig
from llmops.finetune.launch.place import CLUSTER_KINDS

SAVE_BEFORE_S = 180
"""How long before the end of its time a job is told to save and make room."""
INTERRUPTED = 130
"""Exit code of a run that saved and stopped because it was told to: start it again."""
LOST = 75
"""Exit code of a process that lost the others: start it again, a few times."""
_IN_PODS = ("trainjob", "ray")
_SCHEME = re.compile(r"[a-z][a-z0-9+]*:")
IMAGE = "ghcr.io/your-team/llmops:latest"


@dataclass(frozen=True)
class Order:
    """One training, as a launcher sees it.

    Args:
        name: fits DNS labels and job names.
        processes: ranks of one node.
        plain: variables with their values; `secret` holds those that are references, by name.
        folder: where every node finds job file, state and logs.
        only: the run to go on with; any other is refused.
    """

    name: str
    origin: str
    job_yaml: str
    nodes: int
    processes: int
    gpus: int
    hours: float
    restarts: int
    folder: PurePosixPath
    image: str | None = None
    queue: str | None = None
    only: str | None = None
    plain: dict[str, str] = field(default_factory=dict)
    secret: dict[str, str] = field(default_factory=dict)

    @property
    def job_path(self) -> PurePosixPath:
        return self.folder / self.job_name

    @property
    def job_name(self) -> str:
        return f"{self.name}.yaml"

    @property
    def seconds(self) -> int:
        return int(self.hours * 3600)

    @property
    def options(self) -> list[str]:
        """What stands after the job file in every node's command."""
        return [] if self.only is None else ["--run", self.only]

    @property
    def head(self) -> str:
        """The first lines of every artefact."""
        ranks = f"{self.nodes} node{'s' * (self.nodes > 1)} x {self.processes} rank{'s' * (self.processes > 1)}"
        lines = [f"# {self.origin}: {ranks}, {self.hours:g} h an attempt. Written by `llmops finetune`."]
        if self.secret:
            lines.append(f"# Secrets that must be there: {', '.join(sorted(set(self.secret.values())))}")
        return "\n".join(lines) + "\n"


def order_of(config: FinetuneConfig, path: Path | None = None, only: str | None = None) -> Order:
    """The order of a job.

    Args:
        only: the run to go on with.

    Raises:
        ConfigError: a cluster's nodes have no folder in common, or a secret is of a kind that cannot travel.
    """
    launch = config.launch
    if launch.shared_dir is None and (launch.kind in CLUSTER_KINDS or launch.nodes > 1):
        raise ConfigError(
            f"launch.kind: {launch.kind} needs launch.shared_dir",
            hint="name a folder that every node sees; state, checkpoints and logs go there",
        )
    if launch.kind in _IN_PODS:
        _require_no_path_of_here(config)
    name = config.name.replace("_", "-").strip("-")
    _require_name(name, launch)
    _require_time(launch)
    folder = PurePosixPath((launch.shared_dir or config.state.root / "launch").as_posix())
    plain, secret = _variables(launch.environment)
    return Order(
        name=name,
        origin=str(path) if path else config.name,
        job_yaml=_resolved(config),
        nodes=launch.nodes,
        processes=launch.ranks_per_node,
        gpus=launch.gpus,
        hours=launch.hours,
        restarts=launch.restarts,
        folder=folder,
        image=launch.image,
        queue=launch.queue,
        only=only,
        plain=plain,
        secret=secret,
    )


def running_state(config: FinetuneConfig) -> StateConfig:
    """Where whoever trains a job keeps its runs: the job's state, or where it names none a folder that nodes share."""
    if config.launch.shared_dir is None or config.state.dir != StateConfig().dir:
        return config.state
    return config.state.model_copy(update={"dir": config.launch.shared_dir / "state"})


def _require_no_path_of_here(config: FinetuneConfig) -> None:
    """A pod's working folder is not this one.

    Raises:
        ConfigError: a path of the job is relative.
    """
    data, model = config.data, config.model
    paths = [one.uri for one in (*data.sources, *data.heldout, *data.contamination) if not _SCHEME.match(one.uri)]
    paths += [str(one) for one in (model.job, model.chat_template, config.launch.shared_dir) if one is not None]
    paths += [one for one in (model.path, model.tokenizer) if one is not None and Path(one).is_dir()]
    for path in paths:
        if not Path(path).is_absolute():
            raise ConfigError(
                f"`{path}` is a path of this machine's working folder, which a pod does not have",
                hint=f"put it into launch.shared_dir, and write {config.launch.shared_dir}/{path}",
            )


def _require_name(name: str, launch: LaunchConfig) -> None:
    """Clusters make names of their own out of a job's, which have to be DNS labels of RFC 1035 still.

    A RayJob's cluster adds six characters, and its service ten; a TrainJob's pod `-node-0-<number>-<5 characters>`.

    Raises:
        ConfigError: the name is none, or too long.
    """
    longest = {"ray": 47, "trainjob": 49 - len(str(launch.nodes - 1))}.get(launch.kind, 63)
    if launch.kind in (*_IN_PODS, "skypilot") and (not name[:1].isalpha() or len(name) > longest):
        raise ConfigError(
            f"`{name}` cannot be the name of a job of launch.kind: {launch.kind}",
            hint=f"set a `name` that begins with a letter and has at most {longest} characters",
        )


def _require_time(launch: LaunchConfig) -> None:
    """
    Raises:
        ConfigError: an attempt would be over before it has begun; Slurm takes no time for all the time there is.
    """
    least = 2 * SAVE_BEFORE_S if launch.kind == "slurm" else 60
    if launch.kind in CLUSTER_KINDS and launch.hours * 3600 < least:
        raise ConfigError(
            f"launch.hours: {launch.hours:g} is less than {least // 60} min",
            hint="it is the time of one attempt, within which a checkpoint is saved, too",
        )


def _resolved(config: FinetuneConfig) -> str:
    """The job as the nodes read it: only what is not a default, the state in the shared folder."""
    values: dict[str, Any] = {"job": "finetune", **config.model_dump(mode="json", exclude_defaults=True)}
    if (state := running_state(config)) != config.state:
        values["state"] = {**values.get("state", {}), "dir": state.dir.as_posix()}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)


def _variables(given: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    plain = {name: value for name, value in given.items() if not value.startswith(("env:", "file:"))}
    for name, value in given.items():
        if value.startswith("file:"):
            raise ConfigError(
                f"launch.environment.{name} refers to a file of this machine",
                hint="use env:NAME: its value is taken where the job runs",
            )
    secret = {name: value.removeprefix("env:") for name, value in given.items() if value.startswith("env:")}
    return plain, secret
