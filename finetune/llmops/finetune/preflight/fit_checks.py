"""Whether the parts of a job fit each other: model and data, memory and device, method and what will serve the result.

Looks at figures and settings only; no model is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator

from llmops.core.errors import GateFailedError
from llmops.finetune.config import FinetuneConfig
from llmops.finetune.engines import Prepared
from llmops.finetune.engines.memory import estimate, free_bytes, what_to_change
from llmops.finetune.preflight import Check
from llmops.finetune.report.cost import forecast
from llmops.finetune.report.flops import measured_peak, peak, per_token

_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Source: vLLM's LoRAConfig.max_lora_rank, 2026: the values that it takes."""


def fit_checks(job: Prepared) -> Iterator[Check]:
    yield memory_fits(job)
    yield positions_fit(job)
    yield servable(job.config)
    yield licence(job)
    yield within_limits(job)


def memory_fits(job: Prepared, free: int | None = None) -> Check:
    """The estimate, with its parts, against what the device has free now."""
    share = job.data.statistics.supervised_share or 1.0
    needed = estimate(job.base.shape, job.config, job.plan, supervised_share=share)
    free = free_bytes(job.plan.device) if free is None else free
    figures = {"needed": needed.total, "free": free}
    if free is None:
        return Check(
            "fit.memory", "skipped", f"about {needed.text()}; the device does not say what it has", "", figures
        )
    what = f"about {needed.text()} of {free / 2**30:.1f} GiB free"
    if needed.total > free:
        return Check("fit.memory", "fail", f"training needs {what}", what_to_change(job.config, job.plan), figures)
    return Check("fit.memory", "pass", what, figures=figures)


def positions_fit(job: Prepared) -> Check:
    most = job.base.shape.get("max_position_embeddings")
    longest = job.data.statistics.longest
    figures = {"longest": longest, "positions": most}
    if most is not None and longest > int(most):
        what = f"the longest row has {longest} tokens, and the model {most} positions"
        hint = f"set data.max_length: {most} with data.on_overlong: drop or split"
        return Check("fit.positions", "fail", what, hint, figures)
    return Check("fit.positions", "pass", f"the longest row has {longest} tokens", figures=figures)


def servable(config: FinetuneConfig) -> Check:
    """What the target cannot serve is known before it is trained."""
    method, target = config.method, config.target
    name = "fit.servable"
    if method.kind == "full" or target.merge or target.engine == "transformers":
        return Check(name, "pass", f"{target.engine} serves it{', merged' if target.merge else ''}")
    merge = "set target.merge: true"
    if method.kind in ("dora", "ia3"):
        return Check(name, "fail", f"{target.engine} serves no {method.kind} adapter beside its base", merge)
    if method.modules_to_save:
        what = f"{target.engine} serves no adapter with layers that were trained whole"
        return Check(name, "fail", what, f"{merge}, or leave method.modules_to_save empty")
    if target.engine == "vllm" and method.r > _VLLM_RANKS[-1]:
        what = f"vLLM serves adapters up to rank {_VLLM_RANKS[-1]}, and this one has {method.r}"
        return Check(name, "fail", what, f"lower method.r, or {merge}", {"r": method.r})
    if target.engine == "vllm":
        least = next(one for one in _VLLM_RANKS if one >= method.r)
        return Check(name, "pass", f"vLLM serves it with --max-lora-rank {least}", figures={"max_lora_rank": least})
    return Check(name, "pass", "llama.cpp serves it once it is converted: `convert_lora_to_gguf.py`")


def within_limits(job: Prepared) -> Check:
    """Time and money, forecast by the operations of the whole run, against the job's limits."""
    limits, plan, learned = job.config.limits, job.plan, job.data.statistics
    if limits.usd is None and limits.hours is None:
        return Check("fit.limits", "pass", "no limit is set")
    attended = min(learned.total.tokens / max(1, learned.total.rows), plan.width)
    cost = per_token(job.base.shape, job.config, attended=attended, recomputes=plan.gradient_checkpointing)
    name = _device_name(plan.device)
    most = measured_peak(plan.precision) if plan.device == "cpu" else peak(name)
    if most is None:
        what = f"it is not known what a `{name}` can do, so neither time nor money can be forecast"
        hint = "leave limits out, and bound the run by train.budget"
        return Check("fit.limits", "fail", what, hint, {"device": name})
    tokens = plan.steps * plan.rows_per_step * plan.width
    expected = forecast(
        job.config,
        tokens=tokens,
        supervised=int(tokens * learned.supervised_share),
        flops_per_token=cost.hardware,
        peak=most,
    )
    figures = expected.as_json()
    if limits.usd is not None and expected.usd is None:
        return Check("fit.limits", "fail", "limits.usd needs a price", "set launch.price_per_gpu_h", figures)
    try:
        expected.require(job.config)
    except GateFailedError as error:
        return Check("fit.limits", "fail", error.what, str(error.hint), figures)
    money = "" if expected.usd is None else f", ${expected.usd:.2f}"
    return Check("fit.limits", "pass", f"about {expected.hours:.2g} h{money}, within the limits", figures=figures)


def _device_name(device: str) -> str:
    if device == "cpu":
        return device
    import torch

    return str(torch.cuda.get_device_name())


def licence(job: Prepared) -> Check:
    record = job.base.record
    if record is None or record.licence is not None or record.version is not None or record.uri.startswith("run:"):
        known = record.licence if record else None
        return Check("fit.licence", "pass", f"the base's licence: {known}" if known else "the base was made here")
    what = f"the licence of `{record.uri}` is not known"
    return Check("fit.licence", "warn", what, "put it into the base's README.md: `license: apache-2.0`")
