"""Whether this model learns what it is given: tried on a few rows of the data, on the model itself, before training.

Each check is a function of a model and a few documents, so that a fault can be planted and seen. They use the loss that
trains, in evaluation mode, so that dropout is no part of a difference. Static facts are `fit_checks`'.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from llmops.finetune import models
from llmops.finetune.config import SUPERVISED
from llmops.finetune.data.packing import Document, collate
from llmops.finetune.engines import Prepared
from llmops.finetune.engines.attention import DOCUMENTS
from llmops.finetune.engines.loss import SupervisedLoss, tensors
from llmops.finetune.engines.memory import estimate, free_bytes
from llmops.finetune.preflight import Check

_DOCUMENTS = 8
_LOOKED_AT = 64
_SMALL = 300_000_000
"""Parameters up to which whole weights are written and read back."""
Loss = SupervisedLoss


def model_checks(job: Prepared) -> Iterator[Check]:
    """Load the model and try it; skipped where it fits no single device twice."""
    memory, free = estimate(job.base.shape, job.config, job.plan), free_bytes(job.plan.device)
    if free is not None and memory.weights * 2 > free:
        yield Check("model.tried", "skipped", "the model is too large to be tried on one device beforehand")
        return
    with torch.random.fork_rng():
        model = trained_model(job).to(job.plan.device).eval()
        pad = int(job.tokenizer.pad_token_id if job.tokenizer.pad_token_id is not None else job.tokenizer.eos_token_id)
        documents = sample(job)
        yield learns(model)
        yield cache_off(model)
        if job.config.task in SUPERVISED:  # TRL's trainers pack nothing, and their losses are held by tests
            yield attention(model)
            yield packed_loss(model, documents, pad)
            yield batch_gradient(model, documents, pad)
        yield from one_step(model, documents, pad, job)


def trained_model(job: Prepared) -> Any:
    """The model as the task's engine makes it: of a reward model with its head."""
    from llmops.finetune.engines.supervised import ready_model

    if job.config.task in SUPERVISED:
        return ready_model(job)
    if job.config.task == "reward":
        scorer = models.load_scorer(job.base, job.config, job.tokenizer)
        return models.adapt(scorer, job.config.method, job.config.train.seed, task_type="SEQ_CLS")
    model = models.load_model(job.base, job.config, tokenizer=job.tokenizer, precision=job.plan.precision)
    return models.adapt(model, job.config.method, job.config.train.seed)


def sample(job: Prepared) -> list[Document]:
    """Short rows from which something is learned; of questions without an answer, whole."""
    rows = job.data.rows
    every = [Document(rows.id(place), *rows.arrays(place)) for place in range(min(_LOOKED_AT, len(rows)))]
    found = [one for one in every if one.supervised[1:].any()]
    if not found:
        found = [Document(one.id, one.ids, np.ones(len(one.ids), np.bool_)) for one in every]
    return sorted(found, key=lambda one: len(one.ids))[:_DOCUMENTS]


def learns(model: Any) -> Check:
    """Something has to learn, in full precision: an update of 1e-5 is lost in bf16."""
    learning = [one for one in model.parameters() if one.requires_grad]
    count, every = sum(one.numel() for one in learning), sum(one.numel() for one in model.parameters())
    low = sorted({str(one.dtype) for one in learning if one.dtype != torch.float32})
    figures = {"learning": count, "parameters": every}
    if not count:
        return Check("model.learns", "fail", "no weight of the model learns", "correct method.targets", figures)
    absent = _absent(model)
    if absent:
        what = f"method.modules_to_save names layers that the model does not have: {', '.join(absent)}"
        return Check("model.learns", "fail", what, f"name some of: {', '.join(_whole_layers(model))}", figures)
    if low:
        what = f"weights that learn are kept in {', '.join(low)}, where small updates are lost"
        return Check("model.learns", "fail", what, "keep them in float32; train.precision says what is computed in")
    what = f"{count:,} of {every:,} weights learn ({count / every:.2%})"
    return Check("model.learns", "pass", what, figures=figures)


def _absent(model: Any) -> list[str]:
    """Layers that are to be trained whole, and are not there: PEFT passes over them without a word."""
    method = getattr(model, "peft_config", {}).get("default")
    names = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    return sorted(set(getattr(method, "modules_to_save", None) or ()) - names - {"classifier", "score"})


def _whole_layers(model: Any) -> list[str]:
    """What stands once in a model, beside its repeated layers."""
    inner = model.get_base_model()
    found = [*inner.named_children(), *(pair for _, one in inner.named_children() for pair in one.named_children())]
    named = {name for name, one in found if one._parameters or hasattr(one, "modules_to_save")}
    return sorted(named - {"original_module"})


def cache_off(model: Any) -> Check:
    """With a KV cache packed documents would see each other."""
    if getattr(model.config, "use_cache", False):
        hint = "set use_cache: false in the model's config.json"
        return Check("model.cache", "fail", "the model keeps a KV cache while it trains", hint)
    return Check("model.cache", "pass", "no KV cache is kept")


def attention(model: Any) -> Check:
    """An implementation that keeps packed documents apart by their positions."""
    name = str(getattr(model.config, "_attn_implementation", None))
    known = (DOCUMENTS, "sdpa", "eager", "flex_attention", "flash_attention_2", "flash_attention_3")
    if name not in known:
        what = f"attention is computed by `{name}`, of which it is not known whether it keeps packed documents apart"
        return Check("model.attention", "warn", what, "set model.attn: sdpa, or data.packing: none")
    return Check("model.attention", "pass", f"attention is computed by {name}")


def packed_loss(model: Any, documents: Sequence[Document], pad: int, loss: type[SupervisedLoss] = Loss) -> Check:
    """Side by side in two rows, documents have to cost what they cost alone.

    In two, since flash attention finds documents by their positions in a batch of one row only.
    """
    apart = _loss(model, [[one] for one in documents], pad, loss)
    packed = _loss(model, [row for row in (documents[::2], documents[1::2]) if row], pad, loss)
    figures = {"packed": packed, "apart": apart, "documents": len(documents)}
    if abs(packed - apart) > _tolerance(model, 1e-4, 2e-2) * max(1.0, abs(apart)):
        what = f"packed documents cost {packed:.5g}, and {apart:.5g} alone: they see each other"
        return Check("model.packed_loss", "fail", what, "set model.attn: sdpa, or data.packing: none", figures)
    return Check(
        "model.packed_loss", "pass", f"packed loss {packed:.5g} is the loss alone {apart:.5g}", figures=figures
    )


def batch_gradient(model: Any, documents: Sequence[Document], pad: int, loss: type[SupervisedLoss] = Loss) -> Check:
    """Rows at once and rows one after the other have to give one gradient: each supervised token counts the same."""
    total = sum(int(one.supervised[1:].sum()) for one in documents)
    at_once = _gradient(model, [[[one] for one in documents]], pad, total, loss)
    one_by_one = _gradient(model, [[[one]] for one in documents], pad, total, loss)
    size = float(at_once.norm())
    apart = float((at_once - one_by_one).norm()) / max(size, 1e-12)
    figures = {"norm": size, "relative_difference": apart}
    if size == 0 or not apart < _tolerance(model, 1e-3, 1e-1):
        what = f"{len(documents)} rows at once and one by one give gradients that differ by {apart:.2%}"
        hint = "the loss has to be summed, then divided by the supervised tokens of the whole step (num_items_in_batch)"
        return Check("model.batch_gradient", "fail", what, hint, figures)
    what = f"{len(documents)} x 1 rows give the gradient of 1 x {len(documents)} (apart by {apart:.1e})"
    return Check("model.batch_gradient", "pass", what, figures=figures)


def one_step(model: Any, documents: Sequence[Document], pad: int, job: Prepared) -> Iterator[Check]:
    """After one update: the model answers otherwise, its files hold the change, and merging does not undo it."""
    rows = [[one] for one in documents]
    learning = {name: one for name, one in model.named_parameters() if one.requires_grad}
    before = _logits(model, rows, pad)
    _gradient(model, [rows], pad, 1, Loss, keep=True)
    torch.optim.SGD(learning.values(), lr=job.config.train.lr).step()
    model.zero_grad(set_to_none=True)
    after = _logits(model, rows, pad)
    yield applied(before, after)
    yield from saved(model, rows, pad, after)
    if hasattr(model, "merge_adapter"):
        yield merged(model, rows, pad, after)


def applied(before: torch.Tensor, after: torch.Tensor) -> Check:
    moved = float((after - before).abs().max())
    if not moved > 0:
        what = "the model answers the same after an update: what learns is not part of what answers"
        return Check(
            "model.applied", "fail", what, "correct method.targets, so that the adapter is put on layers in use"
        )
    return Check("model.applied", "pass", f"one update moves logits by up to {moved:.2g}", figures={"moved": moved})


def saved(model: Any, rows: Any, pad: int, wanted: torch.Tensor) -> Iterator[Check]:
    """Write what learned, forget it, read it back: the same answers, or the files lack something."""
    learning = {name: one for name, one in model.named_parameters() if one.requires_grad}
    if not hasattr(model, "peft_config") and sum(one.numel() for one in learning.values()) > _SMALL:
        yield Check("model.saved", "skipped", "whole weights of this size are not written twice")
        return
    kept = {name: one.detach().clone() for name, one in learning.items()}
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        with torch.no_grad():
            for one in learning.values():
                one.add_(1.0)
        read_back(model, Path(folder))
    found = _logits(model, rows, pad)
    with torch.no_grad():
        for name, one in learning.items():
            one.copy_(kept[name])
    apart = float((found - wanted).abs().max())
    if not apart <= _tolerance(model, 1e-4, 1e-1) * max(1.0, float(wanted.abs().max())):
        what = f"the saved files answer otherwise than the trained model: logits are {apart:.2g} apart"
        hint = "name layers that are trained whole in method.modules_to_save"
        yield Check("model.saved", "fail", what, hint, {"apart": apart})
        return
    yield Check("model.saved", "pass", f"files read back answer the same ({apart:.1e})", figures={"apart": apart})


def read_back(model: Any, folder: Path) -> None:
    """Put saved files into a model."""
    from peft import set_peft_model_state_dict

    if hasattr(model, "peft_config"):
        set_peft_model_state_dict(model, load_file(folder / "adapter_model.safetensors"))
        return
    found = {name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()}
    model.load_state_dict(found, strict=False)


def merged(model: Any, rows: Any, pad: int, wanted: torch.Tensor) -> Check:
    """The adapter beside its base, and within it."""
    model.merge_adapter()
    apart = float((_logits(model, rows, pad) - wanted).abs().max())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Unmerge result can be inaccurate")  # the model is thrown away
        model.unmerge_adapter()
    scale = max(1.0, float(wanted.abs().max()))
    figures = {"apart": apart, "scale": scale}
    if not apart <= _tolerance(model, 1e-3, 1e-1) * scale:
        what = f"merged weights answer otherwise than the adapter on its base: logits are {apart:.2g} apart"
        return Check("model.merged", "fail", what, "serve the adapter unmerged (target.merge: false)", figures)
    return Check("model.merged", "pass", f"merged, the model answers the same ({apart:.1e})", figures=figures)


def _loss(model: Any, rows: Any, pad: int, kind: type[SupervisedLoss]) -> float:
    batch = collate(rows, pad)
    loss = kind(model)
    try:
        with torch.no_grad():
            return float(loss(model, tensors(batch, _device(model)))) / max(1, batch.supervised_tokens)
    finally:
        loss.remove()


def _gradient(
    model: Any, batches: Any, pad: int, total: int, kind: type[SupervisedLoss], *, keep: bool = False
) -> torch.Tensor:
    loss: Any = None if _scores(model) else kind(model)
    try:
        for rows in batches:
            told = (
                _scored(model, rows, pad).sum()
                if loss is None
                else loss(model, tensors(collate(rows, pad), _device(model)))
            )
            if told.requires_grad:  # else nothing that learns has a part in it, and no weight will move
                (told / total).backward()
    finally:
        if loss is not None:
            loss.remove()
    found = [one.grad.flatten().float().cpu() for one in model.parameters() if one.grad is not None]
    if not keep:
        model.zero_grad(set_to_none=True)
    return torch.cat(found) if found else torch.zeros(1)


def _logits(model: Any, rows: Any, pad: int) -> torch.Tensor:
    if _scores(model):
        with torch.no_grad():
            return _scored(model, rows, pad).float().cpu()
    loss = Loss(model)
    try:
        with torch.no_grad():
            return loss.logits(model, tensors(collate(rows, pad), _device(model))).float().cpu()
    finally:
        loss.remove()


def _scores(model: Any) -> bool:
    """Whether a model gives a number for a conversation, and not words."""
    return (
        getattr(model, "score", None) is not None or getattr(getattr(model, "model", None), "score", None) is not None
    )


def _scored(model: Any, rows: Any, pad: int) -> torch.Tensor:
    """The number of each row."""
    batch = collate(rows, pad)
    ids, real = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.documents >= 0)
    found: torch.Tensor = model(input_ids=ids.to(_device(model)), attention_mask=real.to(_device(model))).logits
    return found


def _device(model: Any) -> str:
    return str(next(model.parameters()).device.type)


def _tolerance(model: Any, full: float, half: float) -> float:
    """What rounding explains, in the precision of the base."""
    return half if any(one.dtype == torch.bfloat16 for one in model.parameters()) else full
