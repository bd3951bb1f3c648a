"""Weights set to zero where they are smallest: a share of each row, or two of every four, which GPUs compute faster.

Rows are compared within themselves, as Wanda does: a layer's outputs lose alike. Output layer and embeddings stay as
they are. Nothing is trained afterwards, so `serve_verify` measures what it costs. The files stay as wide as before.
Source: Sun et al., A Simple and Effective Pruning Approach for Large Language Models, 2023 (magnitude as baseline);
Mishra et al., Accelerating Sparse Deep Neural Networks, 2021 (2:4).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmops.core.errors import UserError
from llmops.finetune.preflight import Check
from llmops.finetune.quiet import quiet_transformers

TWO_OF_FOUR = "2:4"


def prune(folder: Path, into: Path, how: str) -> Check:
    """Write the model of `folder` with zeros into `into`.

    Args:
        how: `2:4`, or the share of weights that become zero, such as `0.3`.

    Raises:
        UserError: it is neither.
    """
    wanted = share_of(how)
    with quiet_transformers():
        import torch
        from transformers import AutoTokenizer

        from llmops.finetune.export.merge import load, load_type
        from llmops.finetune.export.quantise import linear_layers

        model = load(folder, load_type(folder))
        zeros = count = 0
        lost = weighed = 0.0
        layers = linear_layers(model)
        with torch.no_grad():
            for layer in layers.values():
                made = pruned(layer.weight, how)
                lost += float((made - layer.weight).float().square().sum())
                weighed += float(layer.weight.float().square().sum())
                zeros, count = zeros + int((made == 0).sum()), count + made.numel()
                layer.weight.copy_(made)
        model.save_pretrained(into)
        AutoTokenizer.from_pretrained(folder, local_files_only=True).save_pretrained(into)
    error, share = (lost / weighed) ** 0.5, zeros / count
    what = f"{share:.1%} of the weights of {len(layers)} layers are zero: they differ by {error:.2%} (root mean square)"
    figures = {"zeros": share, "wanted": wanted, "relative_error": error, "layers": len(layers)}
    return Check("export.pruned", "pass", what, figures=figures)


def share_of(how: str) -> float:
    """The share of weights that become zero.

    Raises:
        UserError: it is no share.
    """
    if how == TWO_OF_FOUR:
        return 0.5
    try:
        share = float(how)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise UserError(f"`{how}` is no share of weights", hint="say --prune 2:4, or a share such as --prune 0.3")
    return share


def pruned(weight: Any, how: str) -> Any:
    """A matrix whose smallest weights are zero.

    Raises:
        UserError: its rows divide into no fours.
    """
    import torch

    if how == TWO_OF_FOUR:
        if weight.shape[1] % 4:
            raise UserError(f"a layer's {weight.shape[1]} inputs divide into no fours", hint="say a share: --prune 0.5")
        parts, gone = weight.unflatten(1, (-1, 4)), 2
    else:
        parts, gone = weight, round(share_of(how) * weight.shape[1])
    smallest = parts.abs().argsort(dim=-1, stable=True)[..., :gone]
    made: torch.Tensor = parts.scatter(-1, smallest, 0.0).reshape(weight.shape)
    return made
