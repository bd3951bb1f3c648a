"""Where the files of a pinned base lie on this machine: a registered version, a run, a folder, or the hub's cache.

Fetches a registered version that is not in the cache yet; of the hub it takes only what is here. Whether the files are
the pinned ones is for whoever loads them to compare.
"""

from __future__ import annotations

from pathlib import Path

from llmops.core.errors import NotFoundError
from llmops.core.state import StateConfig
from llmops.finetune.artefact import PLACE
from llmops.finetune.results import Base
from llmops.finetune.runs import find_run

RUN = "run:"


def locate(base: Base, state: StateConfig) -> Path:
    """The folder of a base.

    Raises:
        NotFoundError: it is not here.
    """
    if base.version is not None:
        return _registered(base, state)
    if base.uri.startswith(RUN):
        return find_run(state, base.uri.removeprefix(RUN)).model
    folder = Path(base.uri).expanduser()
    return folder if folder.is_dir() else _cached(base)


def _registered(base: Base, state: StateConfig) -> Path:
    assert base.version is not None
    if base.files is not None:
        kept = state.cache / "models" / base.files / PLACE
        if kept.is_dir():
            return kept
    from llmops.registry import Registry

    with Registry(state) as registry:
        return registry.files(base.version) / PLACE


def _cached(base: Base) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(base.uri, revision=base.revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        at = f" at {base.revision}" if base.revision else ""
        raise NotFoundError(
            f"the base `{base.uri}`{at} is not on this machine",
            hint="fetch it with `hf download`, or put the folder back where it was",
            code="base_missing",
        ) from error
