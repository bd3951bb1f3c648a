"""Where the files of a pinned base lie on this machine: a registered version, a run, a folder, or the hub's cache.

Fetches a registered version that is not in the cache yet; of the hub it takes only what is here. `verified` compares
the files with the pinned ones.
"""

from __future__ import annotations

from pathlib import Path

from llmops.core.errors import IntegrityError, NotFoundError
from llmops.core.state import StateConfig
from llmops.finetune.artefact import PLACE, model_digest
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


def verified(base: Base, state: StateConfig) -> Path:
    """The folder of a base whose files are the pinned ones.

    Raises:
        NotFoundError: it is not here.
        IntegrityError: it is another model by now.
    """
    folder = locate(base, state)
    if model_digest(folder) != base.digest:
        raise IntegrityError(
            "the base is not the model that this adapter was trained on",
            where=str(folder),
            hint=f"bring `{base.uri}` back as it was, or train a new adapter on it",
            code="other_base",
        )
    return folder


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
