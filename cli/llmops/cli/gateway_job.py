"""Finds and loads the gateway job, without the other jobs' models: the gateway answers within half a second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmops.core.config import Loaded, load_config
from llmops.core.errors import NotFoundError
from llmops.gateway.config import GatewayConfig

if TYPE_CHECKING:
    from llmops.gateway.supervisor import Source

GATEWAY_FILE = Path("configs/gateway.yaml")


def gateway_job(path: Path | None, overrides: Sequence[str] = ()) -> Loaded[GatewayConfig]:
    """The gateway job of `path`, else of this folder's `configs/gateway.yaml`, its registered routes read."""
    loaded = load_config(GatewayConfig, _existing(path), overrides=overrides)
    if not loaded.value.registered:
        return loaded
    from llmops.gateway.registered import with_registered

    return replace(loaded, value=with_registered(loaded.value))


def gateway_source(path: Path | None, overrides: Sequence[str] = ()) -> tuple[GatewayConfig, Source]:
    """The job, and how the supervisor reads it again."""
    from llmops.gateway.supervisor import Source

    file = _existing(path)
    return gateway_job(file, overrides).value, Source(lambda: gateway_job(file, overrides).value, file)


def _existing(path: Path | None) -> Path:
    if path is None and not GATEWAY_FILE.exists():
        raise NotFoundError(
            f"this folder has no {GATEWAY_FILE}",
            where=str(Path.cwd()),
            hint="run `llmops init`, or name a file with --config; docs/gateway.md has one of ten lines",
        )
    return path or GATEWAY_FILE
