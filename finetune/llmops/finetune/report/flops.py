"""How many operations a token costs to learn from, and how many a device can do: of both MFU and HFU are made.

    full    6 N + 12 L H T      forward 2 N, backward 4 N
    lora    4 N + 12 L H T + 2 A     the frozen weights get no gradient of their own; A weights of the adapter do
    N       weights that are multiplied with: without the table of input embeddings
    L H T   layers x (heads x head size) x mean tokens that a token attends over, counted in full as is usual
    HFU     adds the forward pass that gradient checkpointing does again: 2 N + 4 L H T

Source: Chowdhery et al., PaLM, 2022, appendix B; Narayanan et al., Efficient Large-Scale Language Model Training, 2021.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from llmops.finetune.config import FinetuneConfig
from llmops.finetune.engines.memory import learning_parameters, parameters

PEAKS: dict[str, float] = {
    "H200": 989.4e12,
    "GH200": 989.4e12,
    "H100": 989.4e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "B200": 2250e12,
    "GB200": 2500e12,
    "A100": 312e12,
    "A10G": 70e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX 4090": 165.2e12,
    "MI300X": 1307.4e12,
}
"""Dense bf16 FLOP/s of one device, by a word of its name; half of a figure that is given with sparsity.

Source, each the maker's own: H200, H100, H100 PCIe, H100 NVL: NVIDIA H200 and H100 Tensor Core GPU data sheets (1,979,
1,979, 1,513 and 1,671 TFLOPS with sparsity). GH200: NVIDIA GH200 Grace Hopper Superchip data sheet. B200: NVIDIA DGX
B200 data sheet (36 PFLOPS with sparsity, 8 GPUs). GB200: NVIDIA GB200 NVL72 data sheet (360 PFLOPS with sparsity, 72
GPUs). A100, A10, L40S, L40, L4: the NVIDIA data sheets of these names. A10G: AWS, EC2 G5 instances. RTX 4090: NVIDIA
Ada GPU Architecture white paper, FP16 with FP32 accumulate. MI300X: AMD Instinct MI300X data sheet.
"""


@dataclass(frozen=True)
class Cost:
    """Operations of one token.

    Args:
        label: how the model's are counted: `6N` or `4N`.
        hardware: with what is computed twice.
    """

    label: Literal["6N", "4N"]
    model: float
    hardware: float


def per_token(shape: Mapping[str, Any], config: FinetuneConfig, *, attended: float, recomputes: bool = False) -> Cost:
    """Operations that a token costs.

    Args:
        shape: of the base: the keys of its config.json.
        attended: mean length of the documents that tokens stand in; of packed rows less than a row.
        recomputes: whether gradient checkpointing is on.
    """
    hidden, layers = int(shape.get("hidden_size", 0)), int(shape.get("num_hidden_layers", 0))
    heads = int(shape.get("num_attention_heads") or 1)
    head = int(shape.get("head_dim") or hidden // heads)
    table = 0 if shape.get("tie_word_embeddings") else int(shape.get("vocab_size", 0)) * hidden
    multiplied = parameters(shape) - table
    attention = layers * heads * head * attended
    if config.method.kind == "full":
        label: Literal["6N", "4N"] = "6N"
        model = 6.0 * multiplied + 12 * attention
    else:
        label = "4N"
        model = 4.0 * multiplied + 2.0 * learning_parameters(shape, config) + 12 * attention
    return Cost(label, model, model + (2.0 * multiplied + 4 * attention if recomputes else 0))


def peak(device: str) -> float | None:
    """Dense bf16 FLOP/s of a device by its name; None where it is not known, since a guess would look like a figure."""
    names = sorted((name for name in PEAKS if re.search(rf"(?<!\w){name}(?!\w)", device, re.IGNORECASE)), key=len)
    return PEAKS[names[-1]] if names else None


def measured_peak(precision: Literal["fp32", "bf16"] = "fp32", *, size: int = 1024, within_s: float = 0.2) -> float:
    """The most FLOP/s that a product of square matrices reached on this CPU, which has no data sheet for that."""
    import torch

    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.ones(size, size, dtype=kind) for _ in range(2))
    best, until = 0.0, time.perf_counter() + within_s
    torch.mm(left, right)
    while best == 0.0 or time.perf_counter() < until:
        begin = time.perf_counter()
        torch.mm(left, right)
        best = max(best, 2 * size**3 / (time.perf_counter() - begin))
    return best
