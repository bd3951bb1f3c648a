"""Finds and loads the job files that commands work on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

from llmops.core.config import Loaded, load_config
from llmops.core.errors import ConfigError, NotFoundError, did_you_mean
from llmops.core.positions import load_yaml
from llmops.finetune.config import FinetuneConfig
from llmops.gateway.config import GatewayConfig
from llmops.rag.config import RagConfig
from llmops.registry.gates.spec import ComparisonSpec, ValidationSpec
from llmops.registry.workflow.config import WorkflowConfig
from llmops.serving.config import ServeConfig

RAG_FILE = Path("configs/rag.yaml")
SERVE_FILE = Path("configs/serve.yaml")
JOBS: dict[str, type[BaseModel]] = {
    "rag": RagConfig,
    "serve": ServeConfig,
    "gateway": GatewayConfig,
    "finetune": FinetuneConfig,
    "validation": ValidationSpec,
    "comparison": ComparisonSpec,
    "workflow": WorkflowConfig,
}


def rag_job(path: Path | None, overrides: Sequence[str] = ()) -> Loaded[RagConfig]:
    """The rag job of `path`, else of this folder's `configs/rag.yaml`."""
    return load_config(RagConfig, _existing(path, RAG_FILE), overrides=overrides)


def serve_job(path: Path | None, overrides: Sequence[str] = ()) -> Loaded[ServeConfig]:
    """The serve job of `path`, else of this folder's `configs/serve.yaml`, else the defaults."""
    return load_config(ServeConfig, path or (SERVE_FILE if SERVE_FILE.exists() else None), overrides=overrides)


def any_job(path: Path, overrides: Sequence[str] = ()) -> Loaded[BaseModel]:
    """A job of whatever kind its file's `job:` says."""
    file = load_yaml(path)
    kind = file.values.get("job")
    if not isinstance(kind, str) or kind not in JOBS:
        hint = did_you_mean(str(kind), JOBS) or f"begin the file with `job: {' | '.join(JOBS)}`"
        raise ConfigError("the file does not say which job it is for", where=file.where(("job",)), hint=hint)
    return load_config(JOBS[kind], path, overrides=overrides)


def _existing(path: Path | None, standard: Path) -> Path:
    if path is None and not standard.exists():
        raise NotFoundError(
            f"this folder has no {standard}",
            where=str(Path.cwd()),
            hint="run `llmops init`, or name a file with --config",
        )
    return path or standard
