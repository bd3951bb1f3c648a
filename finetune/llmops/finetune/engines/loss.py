"""The loss of a packed batch, computed where something is learned and nowhere else.

Only the positions before a supervised token go through the output layer: of an instruction with a short answer that is
a small part, and logits are the largest thing in memory. The gradient is the same, since the others would have counted
nothing. Sums, not means: what they are divided by is the number of supervised tokens of the whole step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional

from llmops.finetune.data.packing import IGNORED, Batch
from llmops.finetune.engines import attention

Tensors = Mapping[str, torch.Tensor]


def tensors(batch: Batch, device: str) -> dict[str, torch.Tensor]:
    """What a model is given of a batch: ids, positions, where something is learned (`places`), and what (`wanted`).

    `ends` are where documents begin when rows are laid end to end, and the last end; `longest` stays on the CPU.
    """
    ends = torch.from_numpy(batch.cu_seqlens())
    labels = torch.from_numpy(batch.labels)
    learned = labels[:, 1:] != IGNORED
    wanted = labels[:, 1:][learned]
    rows, columns = learned.nonzero(as_tuple=True)
    found = {
        "input_ids": torch.from_numpy(batch.input_ids),
        "position_ids": torch.from_numpy(batch.position_ids),
        "places": rows * labels.shape[1] + columns,
        "wanted": wanted,
        "ends": ends,
    }
    if device != "cpu":
        found = {name: tensor.pin_memory().to(device, non_blocking=True) for name, tensor in found.items()}
    return {**found, "longest": ends.diff().max()}


class SupervisedLoss:
    """Hooks a model's output layer, so that it is given the places of a batch only; without a batch it is as it was."""

    def __init__(self, model: Any) -> None:
        self._places: torch.Tensor | None = None
        self._config = model.config
        self._hook = model.get_output_embeddings().register_forward_pre_hook(self._pick)

    def __call__(self, model: Any, batch: Tensors) -> torch.Tensor:
        """The sum of the losses of all supervised tokens of a batch.

        Args:
            model: the hooked one, or what it is wrapped in.
        """
        return functional.cross_entropy(self.logits(model, batch).float(), batch["wanted"], reduction="sum")

    def logits(self, model: Any, batch: Tensors) -> torch.Tensor:
        """Supervised tokens x vocabulary."""
        self._places = batch["places"]
        told = attention.places(batch) if attention.needs_places(self._config._attn_implementation) else {}
        given = {"input_ids": batch["input_ids"], "position_ids": batch["position_ids"], **told}
        try:
            found = model(**given, use_cache=False).logits
        finally:
            self._places = None
        return found

    def remove(self) -> None:
        self._hook.remove()

    def _pick(self, module: Any, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._places is None:
            return None
        return (given[0].flatten(0, 1).index_select(0, self._places), *given[1:])
