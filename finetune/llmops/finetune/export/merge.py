"""One model of a base and an adapter. The sum is taken in fp32 and proven on probes before anything is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmops.finetune.preflight import Check
from llmops.finetune.quiet import quiet_transformers
from llmops.finetune.whole import adapted, loaded

TOLERANCE = {"float32": 1e-4, "bfloat16": 0.05, "float16": 0.01}
"""Largest difference of a logit, relative to the largest logit, by the type in which the base keeps its weights."""
_PROBES, _LENGTH = 4, 32


def merge(base: Path, adapter: Path, into: Path) -> Check:
    """Write base + adapter into `into`, in the base's own type, and compare logits of the written weights.

    The check fails where they differ by more than `TOLERANCE`, or where the adapter changed nothing.
    """
    with quiet_transformers():
        import torch
        from transformers import AutoTokenizer

        plain, kept = load(base, torch.float32), load_type(base)
        probes = probe_ids(plain.config.vocab_size)
        with torch.inference_mode():
            of_base = plain(input_ids=probes).logits.float()
            both = adapted(plain, adapter).eval()
            wanted = both(input_ids=probes).logits.float()
            merged = both.merge_and_unload(safe_merge=True).to(kept)
        merged.config.use_cache = True
        merged.save_pretrained(into)
        AutoTokenizer.from_pretrained(adapter, local_files_only=True).save_pretrained(into)
        with torch.inference_mode():
            found = load(into, torch.float32)(input_ids=probes).logits.float()
    scale = float(wanted.abs().max())
    error = float((found - wanted).abs().max()) / scale
    moved = float((wanted - of_base).abs().max()) / scale
    return _judged(error, moved, str(kept).removeprefix("torch."))


def load(folder: Path, dtype: Any) -> Any:
    """A causal model from safetensors alone."""
    from transformers import AutoModelForCausalLM

    return loaded(AutoModelForCausalLM.from_pretrained, folder, dtype=dtype).eval()


def load_type(folder: Path) -> Any:
    """The type in which a model keeps its weights."""
    import torch
    from transformers import AutoConfig

    named = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False).dtype
    return named if isinstance(named, torch.dtype) else torch.float32


def probe_ids(vocabulary: int) -> Any:
    """The same ids every time: what is compared must not depend on luck."""
    import torch

    made = torch.Generator().manual_seed(0)
    return torch.randint(0, vocabulary, (_PROBES, _LENGTH), generator=made)


def _judged(error: float, moved: float, kept: str) -> Check:
    most = TOLERANCE.get(kept, TOLERANCE["bfloat16"])
    figures = {"relative_error": error, "tolerance": most, "adapter_moves": moved, "dtype": kept}
    if moved == 0.0:
        return Check(
            "export.merged", "fail", "the adapter changes no logit of its base",
            "was it trained? is this the base that it was trained on?", figures,
        )  # fmt: skip
    what = f"merged logits differ by {error:.1e} of the largest; {most:.0e} is allowed in {kept}"
    hint = "keep the base in a wider type: --set model.path to one in bf16 or fp32" if error > most else ""
    return Check("export.merged", "fail" if error > most else "pass", what, hint, figures)
