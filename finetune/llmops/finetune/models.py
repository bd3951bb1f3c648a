"""The model that a training begins with: where its files lie, what they are, and how they come into memory.

A base is a hub id, a folder, a registered version, the result of another job, or nothing but a shape. Its revision,
licence and digest are recorded; the digest is `artefact.model_digest` of its files. Safetensors only, no model's code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops.finetune.results import Base


@dataclass(frozen=True)
class BaseModel:
    """A base that was found.

    Args:
        record: what is known of it; None of a model that is made from nothing.
        folder: its files; None of a model that is made from nothing.
        shape: its configuration, as transformers writes it.
    """

    record: Base | None
    folder: Path | None
    shape: Mapping[str, Any]
