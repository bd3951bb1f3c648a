"""Ingest as a task of a workflow: refresh the index, register what answers from it.

Called in a process of its own. Knows the rag job; what a run does with the version is the workflow's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops.core.config import load_config
from llmops.core.errors import UserError
from llmops.rag.config import RagConfig

if TYPE_CHECKING:
    from llmops.registry.workflow import TaskContext


def ingest(context: TaskContext) -> dict[str, Any]:
    """Refresh and register; gives `version` (of the chain), `prompt`, `index`, and what the refresh found.

    Settings: `config` (default configs/rag.yaml), `set` (keys to values laid over it; an empty text, list or mapping
    leaves what the file says, so that a parameter may have no value), `full` (parse all again),
    `description` (what the chain is for), `crown_first` (let the first version be champion at once; default: gates come
    first).

    Raises:
        UserError: a setting is not known.
    """
    from llmops.rag.ingest.refresh import Options, refresh
    from llmops.rag.packaging import register_chain
    from llmops.rag.retention import retain
    from llmops.registry import Registry

    settings = dict(context.settings)
    file, laid = settings.pop("config", "configs/rag.yaml"), settings.pop("set", None) or {}
    full, crown = bool(settings.pop("full", False)), bool(settings.pop("crown_first", False))
    description = str(settings.pop("description", ""))
    if settings or not isinstance(laid, Mapping):
        raise UserError(f"unknown settings: {', '.join(settings) or 'set'}", where=f"task `{context.task}`")
    overrides = [f"{key}={json.dumps(value)}" for key, value in laid.items() if value not in ("", [], {}, None)]
    job = load_config(RagConfig, Path(str(file)), overrides=overrides).value
    job = job.model_copy(update={"state": context.state})
    done = refresh(job.index, job.state, Options(full=full))
    with Registry(context.state, principal=context.principal) as registry:
        registered = register_chain(job, registry, crown_first=crown, description=description)
        retain(job, registry)
    print(f"{done.index}: {done.chunks:,} chunks, {done.embedded:,} embedded, {len(done.quarantined)} not read")
    return {
        "version": str(registered.chain.ref),
        "prompt": str(registered.prompt.ref),
        "index": str(registered.index.ref),
        "chunks": done.chunks,
        "embedded": done.embedded,
        "quarantined": len(done.quarantined),
    }
