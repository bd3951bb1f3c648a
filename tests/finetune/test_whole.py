"""A model whose files lack something, or are of another, is refused in words; nothing is made up in its place."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.support.tiny_lm import TEMPLATE, tiny_base, tiny_model, tiny_tokenizer
from tests.support.training import config, prepared

from llmops.core.errors import IntegrityError, LlmopsError, UserError
from llmops.core.state import StateConfig
from llmops.finetune import models, whole
from llmops.finetune.config import MethodConfig
from llmops.finetune.engines.supervised import ready_model
from llmops.finetune.export import export
from llmops.finetune.runs import list_runs, open_run
from llmops.finetune.servable import prompt_ids, turn_ends

WEIGHTS, LAYER = "model.safetensors", "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


def _weights(edit: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        found = load_file(folder / WEIGHTS)
        edit(found)
        save_file(found, folder / WEIGHTS, metadata={"format": "pt"})

    return change


def _config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_weights(lambda found: found.pop(LAYER)), f"do not hold: {LAYER}"),
        (_weights(lambda found: found.update({LAYER: torch.ones(32, 64)})), "cannot be loaded whole"),
        (_config(num_hidden_layers=3), "model.layers.2.input_layernorm.weight"),
        (_config(model_type="evil", auto_map={"AutoConfig": "evil.Config"}), "custom code"),
        (lambda folder: (folder / WEIGHTS).write_text("nothing of that kind"), "cannot be loaded whole"),
        (lambda folder: (folder / "config.json").write_text("{"), "no JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "no JSON object"),
    ],
)
def test_a_base_that_is_not_whole(base: Path, tmp_path: Path, change: Callable[[Path], Any], told: str) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(base, folder)
    job = prepared(config(base, tmp_path))
    change(folder)
    with pytest.raises(LlmopsError, match=told) as caught:
        models.load_model(models.base_of_folder(folder, "changed"), job.config)
    assert caught.value.where is not None
    assert str(folder) in caught.value.where


def test_a_head_is_the_only_thing_that_a_reward_model_makes(base: Path, tmp_path: Path) -> None:
    job = prepared(config(base, tmp_path))
    assert models.load_scorer(job.base, job.config, job.tokenizer).num_labels == 1
    folder = tmp_path / "changed"
    shutil.copytree(base, folder)
    _weights(lambda found: found.pop(LAYER))(folder)
    with pytest.raises(IntegrityError, match=LAYER):
        models.load_scorer(models.base_of_folder(folder, "changed"), job.config, job.tokenizer)


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    job = prepared(config(base, tmp_path))
    folder = tmp_path / "adapter"
    models.save_model(ready_model(job), job.tokenizer, folder)
    return folder


@pytest.mark.parametrize("method", ["lora", "dora", "ia3"])
def test_an_adapter_of_every_kind_finds_its_place(base: Path, tmp_path: Path, method: Any) -> None:
    kept = MethodConfig(kind=method, r=4, modules_to_save=("lm_head",))
    models.save_model(models.adapt(tiny_model(), kept, 7), tiny_tokenizer(), tmp_path / "made")
    assert whole.adapted(tiny_model(), tmp_path / "made").peft_config


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda found: found.pop(sorted(found)[0]), "its files lack base_model"),
        (lambda found: found.update({sorted(found)[0].replace("layers.0", "layers.9"): torch.ones(2, 2)}), "no place"),
        (lambda found: found.update({sorted(found)[0]: torch.ones(3, 5)}), "does not fit its base"),
    ],
)
def test_an_adapter_that_is_not_whole(adapter: Path, change: Callable[[dict[str, Any]], Any], told: str) -> None:
    file = adapter / "adapter_model.safetensors"
    found = load_file(file)
    change(found)
    save_file(found, file)
    with pytest.raises(IntegrityError, match=told):
        whole.adapted(tiny_model(), adapter)


def test_what_is_not_whole_is_not_exported(base: Path, adapter: Path, tmp_path: Path) -> None:
    (adapter / "adapter_model.safetensors").write_bytes(b"x" * 50)
    with pytest.raises(IntegrityError, match="does not fit its base"):
        export(adapter, base, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_that_was_copied_in_part_is_named(tmp_path: Path) -> None:
    state = StateConfig(dir=tmp_path)
    half = open_run(state, name="half", task="sft", identity="a" * 64).path / "run.json"
    half.write_bytes(half.read_bytes()[:20])
    with pytest.raises(IntegrityError, match="cannot be read") as caught:
        list_runs(state)
    assert caught.value.where == str(half)


def test_turns_that_the_template_refuses_are_the_askers_fault() -> None:
    strict = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turns') }}{% endif %}" + TEMPLATE
    with pytest.raises(UserError, match="no system turns"):
        prompt_ids(tiny_tokenizer(strict), [{"role": "system", "content": "a"}])


def test_an_end_of_turn_is_found_whatever_letters_it_is_made_of() -> None:
    tokenizer = tiny_tokenizer(TEMPLATE.replace("<|im_end|>", "<|ubend|>"))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|ubend|>"]})
    assert tokenizer.convert_tokens_to_ids("<|ubend|>") in turn_ends(None, tokenizer)
