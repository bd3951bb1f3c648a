"""Each trap is planted in a model or a job, and refused in words that say what to do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.training import config, prepared, run_of

from llmops.core.errors import GateFailedError, UserError
from llmops.finetune import models
from llmops.finetune.config import ModelConfig
from llmops.finetune.engines import Prepared
from llmops.finetune.engines.loss import SupervisedLoss, Tensors
from llmops.finetune.engines.supervised import ready_model
from llmops.finetune.preflight import Check, Preflight
from llmops.finetune.preflight import fit_checks as fit
from llmops.finetune.preflight import model_checks as look


@pytest.fixture
def job(base: Path, tmp_path: Path) -> Prepared:
    return prepared(config(base, tmp_path))


@pytest.fixture
def model(job: Prepared) -> Any:
    return ready_model(job).eval()


def refused(check: Check, what: str, hint: str) -> None:
    assert check.verdict == "fail", check
    assert what in check.what
    assert hint in check.hint
    with pytest.raises(GateFailedError, match="preflight refused"):
        Preflight.of([check]).require()


def test_a_sound_job_passes_every_check(job: Prepared) -> None:
    found = Preflight.of(fit.fit_checks(job), look.model_checks(job))
    found.require()
    assert {one.name for one in found.checks if one.verdict == "pass"} >= {
        "fit.memory", "fit.positions", "fit.servable", "model.learns", "model.cache", "model.attention",
        "model.packed_loss", "model.batch_gradient", "model.applied", "model.saved", "model.merged",
    }  # fmt: skip


def test_full_weights_pass_too(base: Path, tmp_path: Path) -> None:
    found = Preflight.of(look.model_checks(prepared(config(base, tmp_path, method={"kind": "full"}))))
    found.require()
    assert "model.saved" in {one.name for one in found.checks if one.verdict == "pass"}


def test_packed_documents_that_see_each_other(job: Prepared, model: Any) -> None:
    class Leaking(SupervisedLoss):
        def logits(self, model: Any, batch: Tensors) -> torch.Tensor:
            rows, width = batch["input_ids"].shape
            ends = torch.arange(rows + 1, dtype=torch.int32) * width
            positions = torch.arange(width).expand(rows, width)
            return super().logits(model, {**batch, "position_ids": positions, "ends": ends, "longest": ends[1]})

    refused(look.packed_loss(model, look.sample(job), 0, Leaking), "they see each other", "model.attn: sdpa")


def test_a_loss_that_forgets_the_supervised_tokens_of_the_step(job: Prepared, model: Any) -> None:
    class Mean(SupervisedLoss):
        def __call__(self, model: Any, batch: Tensors) -> torch.Tensor:
            return super().__call__(model, batch) / len(batch["wanted"])

    check = look.batch_gradient(model, look.sample(job), 0, Mean)
    refused(check, "give gradients that differ", "num_items_in_batch")


def test_nothing_learns(model: Any) -> None:
    model.requires_grad_(requires_grad=False)
    refused(look.learns(model), "no weight of the model learns", "method.targets")


def test_what_learns_is_kept_in_half_precision(model: Any) -> None:
    refused(look.learns(model.to(torch.bfloat16)), "small updates are lost", "float32")


def test_a_cache_is_kept(model: Any) -> None:
    model.config.use_cache = True
    refused(look.cache_off(model), "KV cache", "use_cache: false")


def test_an_adapter_that_is_not_applied(job: Prepared, model: Any) -> None:
    model.disable_adapter_layers()
    rows = [[one] for one in look.sample(job)]
    before = look._logits(model, rows, 0)
    for name, one in model.named_parameters():
        if "lora_B" in name:
            one.data.add_(1.0)
    refused(look.applied(before, look._logits(model, rows, 0)), "answers the same after an update", "method.targets")


def test_files_that_lack_what_was_trained(job: Prepared, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [[one] for one in look.sample(job)]
    monkeypatch.setattr(look, "read_back", lambda model, folder: None)
    (check,) = look.saved(model, rows, 0, look._logits(model, rows, 0))
    refused(check, "the saved files answer otherwise", "modules_to_save")


def test_merging_that_changes_the_answers(job: Prepared, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [[one] for one in look.sample(job)]
    wanted = look._logits(model, rows, 0)

    def wrong() -> None:
        for one in model.parameters():
            one.data.mul_(1.5)

    monkeypatch.setattr(model, "merge_adapter", wrong)
    monkeypatch.setattr(model, "unmerge_adapter", lambda: None)
    refused(look.merged(model, rows, 0, wanted), "merged weights answer otherwise", "target.merge: false")


def test_an_attention_of_which_nothing_is_known(model: Any) -> None:
    model.config._attn_implementation = "own"
    assert look.attention(model).verdict == "warn"


def test_more_memory_than_there_is(job: Prepared) -> None:
    check = fit.memory_fits(job, free=1 << 10)
    refused(check, "training needs about", "train.rows_per_device: 2 (it was 4)")


def test_rows_longer_than_the_models_positions(job: Prepared) -> None:
    short = replace(job, base=replace(job.base, shape={**job.base.shape, "max_position_embeddings": 16}))
    refused(fit.positions_fit(short), "the model 16 positions", "data.max_length: 16")


def test_a_base_of_unknown_licence_is_warned_of(job: Prepared) -> None:
    check = fit.licence(job)
    assert check.verdict == "warn"
    assert "license: apache-2.0" in check.hint


def test_a_model_too_large_to_be_tried_is_told(job: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "free_bytes", lambda device: 1 << 10)
    (check,) = look.model_checks(job)
    assert (check.name, check.verdict) == ("model.tried", "skipped")


@pytest.mark.parametrize(
    ("method", "what"),
    [
        ({"kind": "dora"}, "serves no dora adapter"),
        ({"kind": "ia3"}, "serves no ia3 adapter"),
        ({"modules_to_save": ["lm_head"]}, "layers that were trained whole"),
        ({"r": 1024}, "up to rank 512"),
    ],
)
def test_an_adapter_that_vllm_does_not_serve(base: Path, tmp_path: Path, method: dict[str, Any], what: str) -> None:
    refused(fit.servable(config(base, tmp_path, method=method, target={"engine": "vllm"})), what, "target.merge: true")
    assert (
        fit.servable(config(base, tmp_path, method=method, target={"engine": "vllm", "merge": True})).verdict == "pass"
    )


def test_an_adapter_is_no_base(job: Prepared, model: Any) -> None:
    folder = run_of(job)
    models.save_model(model, job.tokenizer, folder.model)
    with pytest.raises(UserError, match="training begins with whole weights") as caught:
        models.find_base(ModelConfig(path=str(folder.model)), job.config.state)
    assert "export" in str(caught.value.hint)
