"""Attention within documents: equal to each document alone, in every kind of model that it is chosen for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import tiny_lm
from tests.support.training import config, prepared

from llmops.finetune import models
from llmops.finetune.data.packing import Document, collate
from llmops.finetune.engines import Prepared, attention
from llmops.finetune.engines.attention import DOCUMENTS, KINDS
from llmops.finetune.engines.loss import SupervisedLoss, tensors
from llmops.finetune.engines.supervised import ready_model
from llmops.finetune.quiet import quiet_transformers

LENGTHS = (5, 9, 5, 17, 3, 1, 9)


def document(length: int, seed: int = 0) -> Document:
    ids = np.random.default_rng(seed).integers(3, 90, length).astype(np.int32)
    return Document(f"{length}-{seed}", ids, np.ones(length, np.bool_))


DOCUMENTS_OF_A_TEST = [document(length, seed) for seed, length in enumerate(LENGTHS)]
PACKED = collate([DOCUMENTS_OF_A_TEST[:3], DOCUMENTS_OF_A_TEST[3:]], 0, 40)


def model_of(kind: str, **more: Any) -> Any:
    with quiet_transformers():
        from transformers import AutoConfig, AutoModelForCausalLM

        sizes = {
            "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
            "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        }  # fmt: skip
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, **more)).eval()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_packed_documents_are_answered_as_each_alone(kind: str, job: Prepared) -> None:
    """Alone by transformers' own attention."""
    model = model_of(kind, sliding_window=None)
    loss = SupervisedLoss(model)
    with torch.no_grad():
        alone = [loss.logits(model, tensors(collate([[one]], 0), "cpu")) for one in DOCUMENTS_OF_A_TEST]
        assert attention.chosen(model, job.config, job.plan) == DOCUMENTS
        attention.set_on(model, DOCUMENTS)
        packed = loss.logits(model, tensors(PACKED, "cpu"))
    torch.testing.assert_close(packed, torch.cat(alone), atol=1e-6, rtol=1e-5)


@given(st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=5), min_size=1, max_size=3), st.sampled_from([1, 2]))
@settings(max_examples=40, deadline=None)
def test_it_is_a_mask_of_blocks(rows: list[list[int]], groups: int) -> None:
    batch = collate([[document(length) for length in row] for row in rows], 0)
    count, width = batch.input_ids.shape
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(count, heads, width, 8, generator=generator) for heads in (4, 4 // groups, 4 // groups)
    )
    given = tensors(batch, "cpu")
    found, _ = attention.within_documents(None, query, key, value, None, scaling=0.3, **attention.places(given))
    seen = torch.from_numpy(batch.mask())
    seen |= torch.eye(width, dtype=torch.bool)  # padding sees itself, so that its softmax is one
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1), attn_mask=seen, scale=0.3
    ).transpose(1, 2)
    real = torch.from_numpy(batch.documents >= 0)
    torch.testing.assert_close(found[real], expected[real], atol=1e-5, rtol=1e-4)


@pytest.fixture
def job(base: Path, tmp_path: Path) -> Prepared:
    return prepared(config(base, tmp_path))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_gradients_are_those_of_a_mask(base: Path, tmp_path: Path, kind: str, *, checkpointing: bool) -> None:
    job = prepared(config(base, tmp_path, method={"kind": kind}))
    model = ready_model(replace(job, plan=replace(job.plan, gradient_checkpointing=checkpointing)))
    assert model.config._attn_implementation == DOCUMENTS
    loss = SupervisedLoss(model)

    def gradients() -> list[torch.Tensor]:
        loss(model, tensors(PACKED, "cpu")).backward()
        found = [one.grad.clone() for one in model.parameters() if one.grad is not None]
        model.zero_grad(set_to_none=True)
        return found

    with torch.inference_mode():
        loss(model, tensors(PACKED, "cpu"))  # as an evaluation in between
    ours = gradients()
    model.set_attn_implementation("sdpa")
    assert ours
    for one, other in zip(ours, gradients(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_it_is_chosen_only_where_it_is_known_to_be_right(job: Prepared) -> None:
    def chosen(loaded: Any, **changes: Any) -> str | None:
        plan = replace(job.plan, **changes.pop("plan", {}))
        values = job.config.model_dump(mode="json")
        for section, value in changes.items():
            values[section] |= value
        return attention.chosen(loaded, type(job.config).model_validate(values), plan)

    llama = tiny_lm.tiny_model()
    assert chosen(llama) == DOCUMENTS
    assert chosen(llama, model={"attn": "eager"}) is None
    assert chosen(llama, train={"compile": True}) is None
    assert chosen(llama, plan={"device": "cuda", "precision": "fp32"}) is None
    assert chosen(model_of("mistral", sliding_window=job.plan.width - 1)) is None
    assert chosen(model_of("mistral", sliding_window=job.plan.width)) == DOCUMENTS
    assert chosen(model_of("gpt2")) is None


def test_a_model_that_does_not_say_where_documents_end_is_refused() -> None:
    model = tiny_lm.tiny_model()
    attention.set_on(model, DOCUMENTS)
    with pytest.raises(RuntimeError, match=r"set model\.attn: sdpa"):
        model(input_ids=torch.ones(1, 4, dtype=torch.long))
    states = torch.randn(1, 1, 9, 8)
    told = {"cu_seq_lens_q": torch.tensor([0, 9]), "max_length_q": 9}
    for more in ({"softcap": 30.0}, {"sliding_window": 8}, {"s_aux": states}):
        with pytest.raises(RuntimeError, match="wants"):
            attention.within_documents(None, states, states, states, None, **told, **more)


def test_flash_attention_is_told_where_documents_end(job: Prepared) -> None:
    """By positions it finds them in a batch of one row only, and lets them see each other in a larger one."""
    heard: dict[str, Any] = {}
    model = ready_model(job)
    loss = SupervisedLoss(model)

    class Flash:
        def __call__(self, **given: Any) -> Any:
            heard.update(given)
            model.set_attn_implementation("sdpa")
            return model(input_ids=given["input_ids"], position_ids=given["position_ids"], use_cache=False)

    model.config._attn_implementation_internal = "flash_attention_2"
    loss(Flash(), tensors(PACKED, "cpu"))
    assert heard["cu_seq_lens_q"].tolist() == PACKED.cu_seqlens().tolist()
    assert heard["max_length_k"] == max((*LENGTHS, 40 - sum(LENGTHS[:3]), 40 - sum(LENGTHS[3:])))
    assert heard["cu_seq_lens_q"].dtype == torch.int32


def test_what_is_saved_names_no_attention(base: Path, tmp_path: Path) -> None:
    job = prepared(config(base, tmp_path, method={"kind": "full"}))
    models.save_model(ready_model(job), job.tokenizer, tmp_path / "saved")
    assert DOCUMENTS not in (tmp_path / "saved" / "config.json").read_text()
