"""What the gateway's processes tell each other through its folder: the checked configuration, and how they are.

    config.json       the configuration in force, written by the supervisor
    keys.json         the virtual keys (`keyring`), written by the control process
    supervisor.json   the processes and the last reload, written by the supervisor
    metrics/*.json    each worker's meters, written by that worker

Every file is replaced whole: a reader never sees half of one.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from llmops.core.addresses import is_loopback
from llmops.core.errors import ConfigError, IntegrityError
from llmops.core.files import write_atomic
from llmops.core.ids import digest
from llmops.gateway.config import GatewayConfig, as_published

CONFIG = "config.json"
STATUS = "supervisor.json"
METRICS = "metrics"
_log = logging.getLogger(__name__)


@dataclass
class ReloadStatus:
    """How the last attempt at a new configuration went. `error` holds what `render` would show."""

    at: float = 0.0
    ok: bool = True
    error: str = ""


@dataclass
class ProcessStatus:
    """One process under the supervisor. `pid` 0: waiting to be started again."""

    name: str
    pid: int = 0
    started_at: float = 0.0
    restarts: int = 0
    last_end: str = ""


@dataclass
class SupervisorStatus:
    pid: int
    started_at: float
    config_hash: str
    file: str | None = None
    reloads: int = 0
    reload: ReloadStatus = field(default_factory=ReloadStatus)
    processes: list[ProcessStatus] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        write_atomic(folder / STATUS, orjson.dumps(asdict(self)))


def publish(config: GatewayConfig) -> str:
    """Put a checked configuration in force for whoever loads it from now on; gives its hash."""
    config.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (config.folder / METRICS).mkdir(exist_ok=True)
    published = as_published(config)
    write_atomic(config.folder / CONFIG, orjson.dumps(published), mode=0o600)
    return digest(published)


def published_before(folder: Path) -> dict[str, Any]:
    """The configuration that was last in force here, as it was written; empty where there is none that can be read."""
    try:
        found: dict[str, Any] = orjson.loads((folder / CONFIG).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return found


def load_published(folder: Path) -> GatewayConfig:
    """The configuration in force.

    Raises:
        IntegrityError: the file is gone or damaged.
    """
    path = folder / CONFIG
    try:
        return GatewayConfig.model_validate(orjson.loads(path.read_bytes()))
    except (OSError, orjson.JSONDecodeError, ValidationError) as error:
        raise IntegrityError(
            "the published configuration cannot be read", where=str(path), hint="restart the gateway"
        ) from error


def read_status(folder: Path) -> SupervisorStatus | None:
    """How the supervisor last said its processes are; None where none ever ran here."""
    try:
        values: dict[str, Any] = orjson.loads((folder / STATUS).read_bytes())
    except FileNotFoundError:
        return None
    values["reload"] = ReloadStatus(**values["reload"])
    values["processes"] = [ProcessStatus(**process) for process in values["processes"]]
    return SupervisorStatus(**values)


def refuse_open_door(config: GatewayConfig) -> None:
    """Stop a gateway that strangers could reach and spend money at without a key.

    Raises:
        ConfigError: a public address without required keys.
    """
    if not is_loopback(config.host) and not config.require_keys:
        raise ConfigError(
            f"listening on {config.host or 'every address'} would let everybody who can reach it spend your money",
            where="host",
            hint="set `require_keys: true` and give out keys with `llmops gateway keys create`, or listen on 127.0.0.1",
        )
