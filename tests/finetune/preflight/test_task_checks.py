"""The traps of the tasks that TRL trains: planted in a model, a reward, a teacher or a template, and refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from tests.support import preferences
from tests.support.tiny_lm import TEMPLATE, tiny_base, tiny_tokenizer

from llmops.core.errors import GateFailedError
from llmops.core.identity import LOCAL
from llmops.core.state import StateConfig
from llmops.finetune import train
from llmops.finetune.config import GENERATING, FinetuneConfig
from llmops.finetune.data.template import Renderer
from llmops.finetune.engines import Prepared
from llmops.finetune.preflight import Check, Preflight, model_checks
from llmops.finetune.preflight.data_checks import data_checks
from llmops.finetune.preflight.everything import look
from llmops.finetune.preflight.known import PAIRED

TASKS = (*PAIRED, *GENERATING)
REWARD = "tests.support.preferences:likes_alpha"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tasks")


@pytest.fixture(scope="module")
def base(place: Path) -> Path:
    return tiny_base(place / "base")


@pytest.fixture(scope="module")
def jobs(place: Path, base: Path) -> Callable[..., FinetuneConfig]:
    """A job of a task over the data that it learns from."""
    made = {"kto": preferences.thumbs(place / "thumbs.jsonl"), "dpo": preferences.pairs(place / "pairs.jsonl")}
    asked = preferences.asked(place / "asked.jsonl")
    teacher = tiny_base(place / "teacher", seed=5)

    def job(task: str, **more: Any) -> FinetuneConfig:
        data = made.get("dpo" if task == "reward" else task, asked)
        if task in GENERATING and "generation" not in more:
            own = {"teacher": str(teacher)} if task == "distill" else {"rewards": [REWARD]}
            more["generation"] = {**own, "generations": 4, "max_new_tokens": 6}
        return preferences.preferring(task, base, data, StateConfig(dir=place / "state"), **more)

    return job


def prepared(config: FinetuneConfig) -> Prepared:
    return train.ready(config, principal=LOCAL, listen=lambda event: None)


def refused(found: Preflight, name: str) -> Check:
    with pytest.raises(GateFailedError) as caught:
        found.require()
    (check,) = [one for one in found.failures if one.name == name]
    assert check.hint
    assert check.what in caught.value.what
    return check


def frozen(model: Any, patch: pytest.MonkeyPatch) -> Any:
    return model.requires_grad_(requires_grad=False)


def cached(model: Any, patch: pytest.MonkeyPatch) -> Any:
    model.config.use_cache = True
    return model


def forgotten(model: Any, patch: pytest.MonkeyPatch) -> Any:
    patch.setattr(model_checks, "read_back", lambda model, folder: None)
    return model


def aside(model: Any, patch: pytest.MonkeyPatch) -> Any:
    """The adapter is there and is to learn, and the answers do not come from it."""
    model.disable_adapter_layers()
    for name, one in model.named_parameters():
        one.requires_grad_("lora" in name)
    return model


def shifted(model: Any, patch: pytest.MonkeyPatch) -> Any:
    merge = model.merge_adapter

    def wrong() -> None:
        merge()
        for name, one in model.named_parameters():
            if "base_layer" in name:
                one.data.mul_(1.5)

    patch.setattr(model, "merge_adapter", wrong)
    return model


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("model.learns", frozen),
        ("model.cache", cached),
        ("model.saved", forgotten),
        ("model.applied", aside),
        ("model.merged", shifted),
    ],
)
def test_a_fault_of_the_model_is_refused_in_every_task(
    jobs: Callable[..., FinetuneConfig], monkeypatch: pytest.MonkeyPatch, task: str, name: str, fault: Any
) -> None:
    job = prepared(jobs(task))
    made = fault(model_checks.trained_model(job), monkeypatch)
    monkeypatch.setattr(model_checks, "trained_model", lambda job: made)
    found = []
    for check in model_checks.model_checks(job):
        found.append(check)
        if check.name == name:
            break
    refused(Preflight.of(found), name)


@pytest.mark.parametrize("task", PAIRED)
def test_ends_and_prompts_are_looked_at_in_pairs_and_thumbs(jobs: Callable[..., FinetuneConfig], task: str) -> None:
    open_ended = TEMPLATE.replace("<|im_end|>{% endgeneration %}", "{% endgeneration %}<|im_end|>")
    config = jobs(task)
    job = prepared(config)
    from llmops.finetune.data.prepare import prepare

    renderer = Renderer(tokenizer := tiny_tokenizer(open_ended), config)
    endless = prepare(config, tokenizer, config.state)
    checks = data_checks(endless, renderer, config)
    assert "never stop" in refused(Preflight.of(checks), "data.end_of_turn").what
    sound = Renderer(job.tokenizer, config)
    other = tiny_tokenizer("<|im_start|>" + TEMPLATE)
    checks = data_checks(job.data, sound, config, serving=other)
    assert "other tokens than training" in refused(Preflight.of(checks), "data.serving_ids").what


@pytest.mark.parametrize("task", ["kto", "grpo", "rloo"])
def test_groups_that_are_not_whole(jobs: Callable[..., FinetuneConfig], task: str) -> None:
    train_section = {"global_tokens_per_step": 48 * (1 if task == "kto" else 6), "budget": {"steps": 2}}
    check = refused(look(prepared(jobs(task, train=train_section))), "preference.groups")
    assert "train.global_tokens_per_step" in check.hint


def broken(completions: list[Any], **_: Any) -> list[float]:
    raise KeyError("score")


def short(completions: list[Any], **_: Any) -> list[float]:
    return [1.0]


def endless(completions: list[Any], **_: Any) -> list[float]:
    return [math.nan] * len(completions)


def level(completions: list[Any], **_: Any) -> list[float]:
    return [0.5] * len(completions)


@pytest.mark.parametrize("task", ["grpo", "rloo"])
@pytest.mark.parametrize(
    ("rewards", "what"),
    [
        (["no.such:thing"], "is no reward"),
        ([f"{__name__}:broken"], "KeyError: 'score'"),
        ([f"{__name__}:short"], "no finite number"),
        ([REWARD, f"{__name__}:endless"], "no finite number"),
    ],
)
def test_rewards_that_cannot_be_learned_from(
    jobs: Callable[..., FinetuneConfig], task: str, rewards: list[str], what: str
) -> None:
    job = prepared(jobs(task, generation={"rewards": rewards, "generations": 4}))
    assert what in refused(look(job), "preference.rewards").what


def test_a_reward_that_likes_all_alike_is_warned_of(jobs: Callable[..., FinetuneConfig]) -> None:
    found = look(prepared(jobs("grpo", generation={"rewards": [f"{__name__}:level"], "generations": 4})))
    (check,) = [one for one in found.warnings if one.name == "preference.rewards"]
    assert "nothing is learned from equal rewards" in check.what


def test_a_teacher_that_means_other_tokens(jobs: Callable[..., FinetuneConfig], place: Path) -> None:
    folder = tiny_base(place / "foreign", seed=6)
    tokens = orjson.loads((folder / "tokenizer.json").read_bytes())
    vocabulary = tokens["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (folder / "tokenizer.json").write_bytes(orjson.dumps(tokens))
    check = refused(look(prepared(jobs("distill", generation={"teacher": str(folder)}))), "preference.teacher")
    assert "2 of 317 tokens have other ids there" in check.what
    found = look(prepared(jobs("distill", generation={"teacher": str(place / "nowhere")})))
    assert "no folder, registered version" in refused(found, "preference.teacher").what


@pytest.mark.parametrize("task", TASKS)
def test_adapters_that_the_target_does_not_serve(jobs: Callable[..., FinetuneConfig], task: str) -> None:
    job = prepared(jobs(task, method={"kind": "dora"}, target={"engine": "vllm"}))
    assert "serves no dora adapter" in refused(look(job), "fit.servable").what
    small = replace(job, base=replace(job.base, shape={**job.base.shape, "max_position_embeddings": 4}))
    assert "4 positions" in refused(look(small), "fit.positions").what
