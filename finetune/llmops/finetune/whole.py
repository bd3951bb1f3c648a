"""Weights that come into memory whole, or not at all: libraries make up what a file lacks, and pass over what is left.

A base that lacks a tensor would be trained with chance in its place, and an adapter that names other layers would
change nothing; neither says so. Knows transformers and PEFT by what they report; which model is loaded is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from llmops.core.errors import IntegrityError
from llmops.finetune.artefact import ADAPTER_WEIGHTS, tensors
from llmops.finetune.quiet import quiet_transformers

HEADS = ("score.", "classifier.")
"""Names of the head that a reward model gets beside the weights of a language model."""
_NAMED = 3
_VOCABULARY = ("embed_tokens", "lm_head", "wte")
"""PEFT keeps these beside an adapter where a vocabulary grew: who asks for the adapter's own is not told of them."""


def loaded(load: Callable[..., Any], folder: Path, *, new: tuple[str, ...] = (), **how: Any) -> Any:
    """What a `from_pretrained` makes of a folder: by safetensors only, without a network and without a model's code.

    Args:
        new: beginnings of the names of tensors that the files need not hold, since they are made here (a head).

    Raises:
        IntegrityError: files and configuration are not of one model; names the first tensors.
    """
    safe = {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False}
    try:
        model, told = load(folder, output_loading_info=True, **safe, **how)
    except Exception as error:  # safetensors and transformers have no kinds of their own for broken files
        if not _of_files(error):
            raise
        raise _broken(folder, str(error).strip().partition("\n")[0]) from error
    absent = sorted(name for name in told["missing_keys"] if not name.startswith(new))
    if absent:
        raise _broken(folder, f"config.json asks for tensors that the files do not hold: {_few(absent)}")
    return model


def adapted(model: Any, folder: Path) -> Any:
    """A base with the adapter of a folder on it, every tensor of which has found its place.

    Raises:
        IntegrityError: the adapter belongs on another model, or its files lack something.
    """
    with quiet_transformers():
        from peft import PeftModel, get_peft_model_state_dict

        try:
            found = PeftModel.from_pretrained(model, str(folder))
        except Exception as error:
            if not _of_files(error):
                raise
            raise _unfit(folder, str(error).strip().replace("\n", " ")[:200]) from error
    wanted = set(get_peft_model_state_dict(found, save_embedding_layers=False))
    there = {name for name, _, _ in tensors(folder / ADAPTER_WEIGHTS)}
    absent = sorted(wanted - there)
    if absent:
        raise _unfit(folder, f"its files lack {_few(absent)}")
    over = sorted(name for name in there - wanted if not any(part in name for part in _VOCABULARY))
    if over:
        raise _unfit(folder, f"the model has no place for {_few(over)}")
    return found


def _of_files(error: Exception) -> bool:
    """Whether an error is about what was read, and not about this machine (memory, a device)."""
    name = type(error).__name__
    return name == "SafetensorError" or (
        isinstance(error, ValueError | RuntimeError | OSError | TypeError | KeyError)
        and name not in ("OutOfMemoryError", "ImportError")
        and "memory" not in str(error).lower()
    )


def _few(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - _NAMED} more" if len(every) > _NAMED else ""
    return ", ".join(every[:_NAMED]) + more


def _broken(folder: Path, why: str) -> IntegrityError:
    return IntegrityError(
        f"the model's files cannot be loaded whole: {why}",
        where=str(folder),
        hint="fetch the model again; its weights, config.json and revision have to be of one model",
        code="model_not_whole",
    )


def _unfit(folder: Path, why: str) -> IntegrityError:
    return IntegrityError(
        f"the adapter does not fit its base: {why}",
        where=str(folder),
        hint="take the base that it was trained on, and files that were not changed",
        code="adapter_not_whole",
    )
