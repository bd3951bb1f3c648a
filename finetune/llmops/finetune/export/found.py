"""Where the files lie that an export begins with: of a run or a registered version, with the base they belong on."""

from __future__ import annotations

from pathlib import Path

import yaml

from llmops.core.errors import NotFoundError
from llmops.core.identity import LOCAL, Principal
from llmops.core.state import StateConfig
from llmops.finetune.artefact import PLACE, Pinned, is_adapter
from llmops.finetune.bases import verified
from llmops.finetune.runs import find_run


def locate_result(word: str, state: StateConfig, principal: Principal = LOCAL) -> tuple[Path, Path | None]:
    """Folder of the trained model, and of its base where it is an adapter.

    Args:
        word: id of a run, or the beginning of one; a version as `name/3` or `name@champion`.

    Raises:
        NotFoundError: there is no such run or version, or its base is not here.
        IntegrityError: the base of a version is another model by now.
    """
    if "/" in word or "@" in word:
        return _registered(word, state, principal)
    run = find_run(state, word)
    if not any(run.model.glob("*.safetensors")):
        raise NotFoundError("the run has no result yet", where=str(run.path), hint="`llmops finetune resume` goes on")
    place = run.read("job.json")["base"]["folder"]
    return run.model, None if place is None else Path(place)


def _registered(word: str, state: StateConfig, principal: Principal) -> tuple[Path, Path | None]:
    from llmops.registry import Registry

    with Registry(state, principal=principal) as registry:
        folder = registry.files(word)
    described = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))
    pinned = Pinned.of(described["flavors"]["python_function"]["config"])
    if not is_adapter(folder / PLACE):
        return folder / PLACE, None
    return folder / PLACE, None if pinned.base is None else verified(pinned.base, state)
