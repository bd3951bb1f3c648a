"""Weights in 8 or 4 bits, as vLLM and transformers load them: compressed-tensors' `pack-quantized` in safetensors.

Each group of neighbouring inputs of a linear layer shares a scale: q = round(w / s), -2^(b-1) <= q < 2^(b-1). The scale
is the one of 20 that loses least, in place of the one that fits the largest weight. Output layer and embeddings stay as
they are. A value is stored as q + 2^(b-1), 32/b of them in an int32, the first lowest.
Source: compressed-tensors, compressors/pack_quantized; Frantar et al., GPTQ, 2022, for round-to-nearest as baseline.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmops.core.errors import UserError
from llmops.finetune.preflight import Check
from llmops.finetune.quiet import quiet_transformers

GROUPS = (128, 64, 32)
_SHRINK = [1.0 - 0.025 * place for place in range(20)]
_KEPT = ("lm_head",)


def quantise(folder: Path, into: Path, bits: str) -> Check:
    """Write the model of `folder` with fewer bits into `into`.

    Raises:
        UserError: the layers' inputs divide into no group.
    """
    count = {"int8": 8, "int4": 4}[bits]
    with quiet_transformers():
        from safetensors.torch import save_file
        from transformers import AutoTokenizer

        from llmops.finetune.export.merge import load, load_type

        kept = load_type(folder)
        model = load(folder, kept)
        linear = linear_layers(model)
        size = _group(linear)
        tensors, lost, weighed = _tensors(model, linear, count, size)
        model.config.quantization_config = None
        model.config.save_pretrained(into)
        if model.generation_config is not None:
            model.generation_config.save_pretrained(into)
        AutoTokenizer.from_pretrained(folder, local_files_only=True).save_pretrained(into)
        save_file(tensors, into / "model.safetensors", metadata={"format": "pt"})
    _describe(into / "config.json", count, size)
    error = (lost / weighed) ** 0.5
    what = f"{len(linear)} layers in {bits}, groups of {size}: weights differ by {error:.2%} (root mean square)"
    return Check(
        "export.quantised", "pass", what, figures={"relative_error": error, "group": size, "layers": len(linear)}
    )


def linear_layers(model: Any) -> dict[str, Any]:
    """The layers whose weights are changed, by name: all but the output layer."""
    import torch

    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and not any(part in _KEPT for part in name.split("."))
    }


def pack(values: Any, bits: int) -> Any:
    """Whole numbers of `bits` bits, rows x columns, as int32: rows x ceil(columns * bits / 32)."""
    import torch

    each = 32 // bits
    raised = (values.to(torch.int64) + (1 << (bits - 1))) & ((1 << bits) - 1)
    raised = torch.nn.functional.pad(raised, (0, -raised.shape[1] % each)).unflatten(1, (-1, each))
    words = (raised << (torch.arange(each) * bits)).sum(dim=2)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)


def rounded(weight: Any, bits: int, group: int) -> tuple[Any, Any]:
    """Whole numbers and scales (rows x groups) of a matrix; each group's scale is the one that loses least."""
    import torch

    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    parts = weight.float().unflatten(1, (-1, group))
    full = (parts.abs().amax(dim=2, keepdim=True) / high).clamp(min=1e-10)
    best, least = full, torch.full_like(full, torch.inf)
    for share in _SHRINK:
        scale = full * share
        loss = ((parts / scale).round().clamp(low, high) * scale - parts).square().sum(dim=2, keepdim=True)
        best, least = torch.where(loss < least, scale, best), torch.minimum(loss, least)
    whole = (parts / best).round().clamp(low, high)
    return whole.flatten(1).to(torch.int8), best.squeeze(2)


def _group(linear: dict[str, Any]) -> int:
    widths = {layer.in_features for layer in linear.values()}
    size = next((one for one in GROUPS if all(width % one == 0 for width in widths)), None)
    if size is None:
        raise UserError(f"the layers' inputs {sorted(widths)} divide into no groups of {GROUPS}", code="no_group")
    return size


def _tensors(model: Any, linear: dict[str, Any], bits: int, size: int) -> tuple[dict[str, Any], float, float]:
    """Every tensor that is stored, and by how much the weights changed: sums of squares of the error, and of all."""
    import torch

    lost = weighed = 0.0
    stored: dict[str, Any] = {}
    shared = set(getattr(model, "_tied_weights_keys", None) or ()) if model.config.tie_word_embeddings else set()
    for name, tensor in model.state_dict().items():
        layer = name.removesuffix(".weight")
        if name in shared:
            continue
        if layer not in linear or not name.endswith(".weight"):
            stored[name] = tensor.contiguous()
            continue
        whole, scale = rounded(tensor, bits, size)
        scale = scale.to(tensor.dtype)
        again = (whole.float().unflatten(1, (-1, size)) * scale.float().unsqueeze(2)).flatten(1)
        lost += float((again - tensor.float()).square().sum())
        weighed += float(tensor.float().square().sum())
        stored |= {
            f"{layer}.weight_packed": pack(whole, bits),
            f"{layer}.weight_scale": scale.contiguous(),
            f"{layer}.weight_shape": torch.tensor(tensor.shape),
        }
    return stored, lost, weighed


def _describe(path: Path, bits: int, size: int) -> None:
    """Say in config.json how weights are stored, in compressed-tensors' words."""
    config = json.loads(path.read_text())
    weights = {
        "num_bits": bits, "type": "int", "symmetric": True, "strategy": "group", "group_size": size, "dynamic": False,
    }  # fmt: skip
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": list(_KEPT),
        "kv_cache_scheme": None,
    }
    path.write_text(json.dumps(config, indent=2))
