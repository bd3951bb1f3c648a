"""Attention within each document of a packed row: a document costs by its own length, not by the width of its row.

The stock way packs with a mask of width x width, and computes all of it. Here rows are laid end to end, documents of a
length are put side by side, and each group is one causal call; no mask is made. It is registered as an attention of
transformers', so models stay as they are. On GPUs flash attention does the same, given the same places.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from itertools import groupby, pairwise
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from llmops.finetune.config import FinetuneConfig
from llmops.finetune.engines import Plan

DOCUMENTS = "documents"
KINDS = frozenset({
    "cohere", "gemma", "glm", "gpt_neox", "granite", "llama", "mistral", "mixtral", "olmo", "olmo2", "phi", "phi3",
    "qwen2", "qwen3", "qwen3_moe", "smollm3", "starcoder2",
})  # fmt: skip
"""Kinds of models of which a test shows that they hand on where documents end, and attend in no other way."""
_UNKNOWN = ("softcap", "s_aux", "position_bias")


def chosen(model: Any, config: FinetuneConfig, plan: Plan) -> str | None:
    """The attention that a training sets on a loaded model; None leaves what it has."""
    if config.model.attn != "auto" or (config.data.packing == "none" and plan.device == "cuda"):
        return None
    if plan.device == "cuda":
        known = plan.precision == "bf16" and getattr(model, "_supports_flash_attn", False)
        return "flash_attention_2" if known and find_spec("flash_attn") else None
    return DOCUMENTS if not config.train.compile and _plain(model.config, plan.width) else None


def set_on(model: Any, name: str) -> None:
    """Make a model compute attention by a name."""
    if name == DOCUMENTS:
        _register()
    model.set_attn_implementation(name)


def needs_places(name: str | None) -> bool:
    """Whether an attention has to be told where documents end."""
    return name == DOCUMENTS or str(name).startswith("flash_attention")


def places(batch: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Where documents end, in the words of transformers' models."""
    ends, longest = batch["ends"], int(batch["longest"])
    return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}


def within_documents(  # noqa: PLR0913, PLR0917 - as transformers calls it
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """An attention function of transformers'.

    Args:
        query: rows x heads x width x size of a head; key and value may have fewer heads.
        more: has `cu_seq_lens_q`, the places where documents begin when rows are laid end to end, and the last end.

    Raises:
        RuntimeError: it is not told where documents end, or the model wants what this does not compute.
    """
    ends = more.get("cu_seq_lens_q")
    wanted = [name for name in _UNKNOWN if more.get(name) is not None]
    if ends is not None and (more.get("sliding_window") or math.inf) < more["max_length_q"]:
        wanted.append("a window shorter than a document")
    if ends is None or attention_mask is not None or wanted:
        what = f"wants {', '.join(wanted)}" if wanted else "does not say where documents end"
        raise RuntimeError(f"attention within documents: the model {what}; set model.attn: sdpa")
    rows, heads, width, size = query.shape
    order, back, groups = _layout(tuple(ends.tolist()))
    sizes = [count * length for count, length in groups]

    def parts(states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        flat = states.transpose(1, 2).reshape(rows * width, -1, size)
        found: tuple[torch.Tensor, ...] = flat.index_select(0, order).split(sizes)
        return found

    found = []
    for (count, length), *states in zip(groups, parts(query), parts(key), parts(value), strict=True):
        q, k, v = (one.view(count, length, -1, size).transpose(1, 2) for one in states)
        grouped = key.shape[1] != heads
        made = scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=grouped
        )
        found.append(made.transpose(1, 2).reshape(count * length, heads, size))
    return torch.cat(found).index_select(0, back).view(rows, width, heads, size), None


@lru_cache(maxsize=4)
def _layout(ends: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor, list[tuple[int, int]]]:
    """For all layers of a batch: tokens by the lengths of their documents, the way back, and (documents, length)."""
    documents = sorted((end - start, start) for start, end in pairwise(ends))
    with torch.inference_mode(mode=False):  # a training may meet again what an evaluation kept
        order = torch.cat([torch.arange(start, start + length) for length, start in documents])
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order))
    groups = [(len(list(some)), length) for length, some in groupby(length for length, _ in documents)]
    return order, back, groups


def _plain(shape: Any, width: int) -> bool:
    """Whether each token of a model sees all of its document before it, and by nothing but a product and a softmax."""
    window = getattr(shape, "sliding_window", None)
    kinds = set(getattr(shape, "layer_types", None) or ())
    return (
        shape.model_type in KINDS
        and (window is None or width <= window)
        and kinds <= {"full_attention", "sliding_attention"}
    )


def _register() -> None:
    from transformers import AttentionInterface

    AttentionInterface.register(DOCUMENTS, within_documents)
