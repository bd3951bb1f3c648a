"""The folder that is registered of a trained model: safetensors, tokenizer, chat template, and one file that pins what
they were made for.

    MLmodel   how it is opened, and what is pinned: base with its digest, template's fingerprint, how answers are made
    model/    the adapter, or the whole weights, with tokenizer and chat template

Nothing in it is code, and nothing is unpickled: files of any other kind are refused. The same weights give the same
bytes, so the same version, wherever and whenever they were trained. Knows files and JSON; no torch.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
import yaml

from llmops.core.errors import IntegrityError, UserError
from llmops.finetune.results import Base
from llmops.registry.digest import manifest_of
from llmops.registry.mlflow_adapter import OPENER_KEY

FORMAT = 1
"""Of the pinned values. Rises when older ones can no longer be read."""
OPENER = "llmops.finetune.servable:open_model"
PLACE = "model"
ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG = "adapter_config.json", "adapter_model.safetensors", "config.json"
_KEPT = (".safetensors", ".json", ".jinja", ".txt", ".model")
_CODE = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".py", ".so", ".joblib")
_LOCAL = {"base_model_name_or_path", "_name_or_path", "name_or_path"}
"""Where libraries write down from which folder they loaded: it differs from machine to machine."""


@dataclass(frozen=True)
class Pinned:
    """What decides how the registered files answer.

    Args:
        base: of an adapter, the model that it belongs on.
        template: fingerprint of tokenizer and chat template.
        merge: whether the adapter is merged into its base when it is loaded.
        max_new_tokens: of one answer, where the request does not say.
    """

    task: str
    method: str
    base: Base | None = None
    template: str | None = None
    merge: bool = False
    max_new_tokens: int = 256
    format: int = FORMAT

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, found: dict[str, Any]) -> Pinned:
        """Read what `write` pinned; other keys are the loader's.

        Raises:
            UserError: it was pinned by another release.
        """
        if found.get("format") != FORMAT:
            raise UserError(
                f"this model's pinned values have format {found.get('format')}; {FORMAT} is read here",
                hint="register the run again",
            )
        base = found.get("base")
        known = {key: found[key] for key in cls.__dataclass_fields__ if key in found}
        return cls(**{**known, "base": None if base is None else Base(**base)})


def is_adapter(model: Path) -> bool:
    return (model / ADAPTER_CONFIG).is_file()


def is_scorer(model: Path) -> bool:
    """Whether the files are of a reward model, which gives a number and no words."""
    if is_adapter(model):
        return bool(orjson.loads((model / ADAPTER_CONFIG).read_bytes()).get("task_type") == "SEQ_CLS")
    if not (model / CONFIG).is_file():
        return False
    kinds = orjson.loads((model / CONFIG).read_bytes()).get("architectures") or ()
    return any(str(one).endswith("ForSequenceClassification") for one in kinds)


def model_files(model: Path) -> list[Path]:
    """The files of a trained model that are kept.

    Raises:
        UserError: there are no safetensors, or a file among them would be run or unpickled when it is loaded.
    """
    files = sorted(path for path in model.rglob("*") if path.is_file() and ".cache" not in _within(model, path))
    unsafe = [path for path in files if path.suffix in _CODE]
    if unsafe:
        raise UserError(
            f"`{unsafe[0].name}` would be run or unpickled when the model is loaded",
            where=str(model),
            hint="save the weights as safetensors, and leave the file out",
            code="unsafe_file",
        )
    kept = [path for path in files if path.suffix in _KEPT]
    if not any(path.suffix == ".safetensors" for path in kept):
        raise UserError("the model has no safetensors", where=str(model), code="no_weights")
    return kept


def model_digest(model: Path) -> str:
    """SHA-256 over the files that decide what a model says: weights, configuration, tokenizer, template.

    A snapshot of the hub's cache, whose files are links to blobs, has the digest of the same files in a plain folder.

    Raises:
        UserError: as `model_files`.
    """
    return manifest_of(model, model_files(model)).digest


def write(model: Path, into: Path, pinned: Pinned) -> Path:
    """Make the folder that is registered; a half-made one of an interrupted attempt is made anew.

    Raises:
        UserError: as `model_files`.
    """
    shutil.rmtree(into, ignore_errors=True)
    (into / PLACE).mkdir(parents=True)
    for path in model_files(model):
        target = into / PLACE / path.relative_to(model)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".json":
            target.write_bytes(_without_places(path, pinned.base))
        else:
            _same_file(path, target)
    (into / "MLmodel").write_text(yaml.safe_dump(_described(pinned), sort_keys=True), encoding="utf-8")
    return into


def tensors(path: Path) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Name, type and shape of each tensor, from a safetensors file's header alone.

    Raises:
        IntegrityError: it is no safetensors file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size - 8, 100_000_000):
            raise IntegrityError("this is no safetensors file", where=str(path))
        try:
            header = orjson.loads(file.read(length))
            header.pop("__metadata__", None)
            ends = [int(one["data_offsets"][1]) for one in header.values()]
            found = [(name, str(one["dtype"]), tuple(map(int, one["shape"]))) for name, one in header.items()]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError("the header of a safetensors file is broken", where=str(path)) from error
    if max(ends, default=0) != size - 8 - length:
        raise IntegrityError("a safetensors file is cut short", where=str(path))
    yield from found


def _described(pinned: Pinned) -> dict[str, Any]:
    """The MLmodel file. `state` and `folder` are filled in by whoever loads it."""
    flavour = {
        "loader_module": "llmops.finetune.servable",
        "config": {**pinned.as_json(), "state": {}, "folder": ""},
    }
    return {"flavors": {"python_function": flavour}, "metadata": {OPENER_KEY: OPENER}}


def _without_places(path: Path, base: Base | None) -> bytes:
    """A configuration without the folders of the machine it was trained on."""
    found = orjson.loads(path.read_bytes())
    if not isinstance(found, dict) or not _LOCAL & found.keys():
        return path.read_bytes()
    name = None if base is None else base.version or base.uri
    told = {key: name if key == "base_model_name_or_path" else "" for key in _LOCAL & found.keys()}
    return orjson.dumps({**found, **told}, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)


def _within(model: Path, path: Path) -> tuple[str, ...]:
    return path.relative_to(model).parts


def _same_file(path: Path, target: Path) -> None:
    """Weights are not copied where a second name will do."""
    try:
        os.link(path.resolve(), target)
    except OSError:
        shutil.copyfile(path, target)
