"""TRL's trainers behind our engine: planted preferences are learned, references are right, kills change nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tests.support import preferences
from tests.support.tiny_lm import tiny_base

from llmops.core.chain import ChainContext, Delta, Message
from llmops.core.errors import ConflictError, GateFailedError, UserError
from llmops.core.identity import LOCAL
from llmops.core.state import StateConfig
from llmops.finetune import jobs, registration, train
from llmops.finetune.config import FinetuneConfig, GenerationConfig, TrackConfig
from llmops.finetune.engines import Plan
from llmops.finetune.engines.memory import estimate, what_to_change
from llmops.finetune.engines.rewards import rewards
from llmops.finetune.engines.schedule import rate
from llmops.finetune.engines.trl import TrlEngine
from llmops.finetune.export import export
from llmops.finetune.models import base_of_folder, load_model
from llmops.finetune.preflight.model_checks import learns, trained_model
from llmops.finetune.preflight.preference_checks import first_loss_check
from llmops.finetune.prove import prove
from llmops.finetune.results import Result
from llmops.finetune.runs import RunFolder, find_run, open_run
from llmops.registry import Registry

GENERATING = {
    "train": {"global_tokens_per_step": 768, "lr": 5e-3, "budget": {"steps": 2}},
    "generation": {
        "rewards": ["tests.support.preferences:likes_alpha"],
        "generations": 4,
        "max_new_tokens": 6,
    },
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads of a model this small wait for each other more than they compute."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("preferences")


@pytest.fixture(scope="module")
def base(place: Path) -> Path:
    return tiny_base(place / "base")


@pytest.fixture
def state(tmp_path: Path) -> StateConfig:
    return StateConfig(dir=tmp_path / "state")


def run(config: FinetuneConfig) -> tuple[Result, list[Any]]:
    events: list[Any] = []
    record = train.run_job(config, listen=events.append)
    return Result.load(find_run(config.state, record.run_id)), [one for one in events if one.kind == "step"]


def means(result: Result, metric: str) -> tuple[float, float]:
    found = result.evaluation.score(metric)
    assert found is not None
    assert found.before is not None
    return sum(found.before) / len(found.before), sum(found.after) / len(found.after)


@pytest.mark.parametrize("method", [{"r": 8, "alpha": 16}, {"kind": "full"}])
def test_dpo_learns_a_planted_preference(place: Path, base: Path, state: StateConfig, method: dict[str, Any]) -> None:
    config = preferences.preferring("dpo", base, preferences.pairs(place / "pairs.jsonl"), state, method=method)
    result, steps = run(config)
    assert steps[0].loss == pytest.approx(math.log(2), abs=1e-4)  # also of full DPO, whose reference is its own
    before, after = means(result, "preference_accuracy")
    assert before < 0.65
    assert after > 0.9
    assert means(result, "reward_margin")[1] > 0.5


def test_kto_learns_a_planted_preference(place: Path, base: Path, state: StateConfig) -> None:
    result, steps = run(preferences.preferring("kto", base, preferences.thumbs(place / "thumbs.jsonl"), state))
    assert steps[0].loss == pytest.approx(0.5, abs=1e-4)
    before, after = means(result, "preference_accuracy")
    assert before == 0.5
    assert after > 0.9


def test_a_reward_model_tells_chosen_from_rejected_and_rewards_by_name(
    place: Path, base: Path, state: StateConfig
) -> None:
    config = preferences.preferring("reward", base, preferences.pairs(place / "pairs.jsonl"), state)
    result, _ = run(config)
    assert means(result, "preference_accuracy")[1] > 0.9
    named = config.model_copy(update={"track": TrackConfig(register_as="dev.support.taste")})
    with Registry(state) as registry:
        registration.made(find_run(state, config.name), named, result, registry)
        asked: list[Message] = [{"role": "user", "content": "old red hat"}, {"role": "assistant", "content": "alpha"}]
        chain = registry.load_chain("dev.support.taste/1")
        told = "".join(one.text for one in chain.stream(asked, ChainContext()) if isinstance(one, Delta))
    wanted = config.model_copy(update={"generation": GenerationConfig(rewards=("dev.support.taste/1",))})
    (reward,) = rewards(wanted)
    right, wrong = reward(prompts=["old red hat"] * 2, completions=["alpha", "beta"])
    assert right > wrong
    assert float(told) == pytest.approx(right, rel=1e-4)


@pytest.mark.parametrize("task", ["grpo", "rloo", "distill"])
def test_generating_tasks_train_and_are_judged(place: Path, base: Path, state: StateConfig, task: str) -> None:
    more: dict[str, Any] = {**GENERATING}
    if task == "distill":
        teacher = tiny_base(place / "teacher", seed=5)
        more["generation"] = {"teacher": str(teacher), "max_new_tokens": 6}
    result, steps = run(preferences.preferring(task, base, preferences.asked(place / "asked.jsonl"), state, **more))
    assert [one.step for one in steps] == [1, 2]
    assert all(math.isfinite(one.loss) for one in steps)
    means(result, "loss" if task == "distill" else "reward")


@pytest.mark.kill
def test_killed_in_every_phase_the_weights_are_the_same(place: Path, base: Path, state: StateConfig) -> None:
    """Answers are sampled anew by each attempt, from the same randomness."""
    config = preferences.preferring("grpo", base, preferences.asked(place / "asked.jsonl"), state, **GENERATING)
    certificate = prove(config, kills=6, steps=8)
    assert certificate.identical, certificate.text()
    assert {kill.phase for kill in certificate.kills} >= {"begun", "written", "named"}
    assert {"checkpoint's moments.safetensors", "checkpoint's weights.safetensors"} < certificate.undisturbed.keys()


def test_divided_otherwise_it_is_not_gone_on_with(place: Path, base: Path, state: StateConfig) -> None:
    section = {"global_tokens_per_step": 768, "budget": {"steps": 2}}
    data = preferences.pairs(place / "pairs.jsonl")
    folder = written(preferences.preferring("dpo", base, data, state, train=section), "divided")
    job = jobs.read(folder)
    TrlEngine().train(job, folder, lambda event: None)
    with pytest.raises(ConflictError, match="cannot be resumed exactly"):
        TrlEngine().train(replace(job, plan=changed_plan(job.plan)), folder, lambda event: None)


def test_the_first_step_learns_at_the_rate_of_the_schedule(place: Path, base: Path, state: StateConfig) -> None:
    """TRL's own begins at zero, and a run of one step would leave the base as it was."""
    section = {"global_tokens_per_step": 768, "lr": 5e-3, "warmup_share": 0.4, "budget": {"steps": 5}}
    config = preferences.preferring("reward", base, preferences.pairs(place / "pairs.jsonl"), state, train=section)
    folder, heard = written(config, "first"), list[Any]()
    TrlEngine().train(jobs.read(folder), folder, heard.append)
    rates = [one.lr for one in heard if one.kind == "step"]
    assert rates == pytest.approx([rate(config.train, step, 5) for step in range(5)])
    assert rates[0] > 0


def test_a_reward_model_is_no_language_model(place: Path, base: Path, state: StateConfig, tmp_path: Path) -> None:
    """Neither as an export, which would have lost its score, nor as a base, whose output layer would be made up."""
    for kind in ("full", "lora"):
        config = preferences.preferring(
            "reward", base, preferences.pairs(place / "pairs.jsonl"), state, method={"kind": kind},
            train={"global_tokens_per_step": 768, "budget": {"steps": 1}},
        )  # fmt: skip
        folder = written(config, f"scorer-{kind}")
        TrlEngine().train(jobs.read(folder), folder, lambda event: None)
        with pytest.raises(UserError, match="a reward model is not exported") as caught:
            export(folder.model, base, tmp_path / "out", bits="int8")
        assert "generation.rewards" in str(caught.value.hint)
        if kind == "full":
            with pytest.raises(UserError, match="gives a number and no words"):
                load_model(base_of_folder(folder.model, "scorer"), config)


@pytest.mark.parametrize(
    ("task", "method", "told"),
    [
        ("dpo", {"dropout": 0.1}, r"dropout would blur.*set method\.dropout: 0"),
        ("rloo", {"dropout": 0.1}, r"dropout would blur.*set method\.dropout: 0"),
        ("reward", {"kind": "qlora"}, r"full precision: set method\.kind: lora"),
    ],
)
def test_a_method_that_the_task_would_pass_over_is_refused(task: str, method: dict[str, Any], told: str) -> None:
    given = {**GENERATING, "method": method}
    with pytest.raises(ValidationError, match=told):
        preferences.preferring(task, Path("base"), Path("rows.jsonl"), StateConfig(), **given)


def test_layers_to_save_that_are_not_there_are_refused(place: Path, base: Path, state: StateConfig) -> None:
    """PEFT passes over them; of a reward model `lm_head` is gone."""
    data = preferences.pairs(place / "pairs.jsonl")
    for task, verdict in (("dpo", "pass"), ("reward", "fail")):
        method = {"r": 4, "modules_to_save": ["lm_head"]}
        job = train.ready(
            preferences.preferring(task, base, data, state, method=method), principal=LOCAL, listen=lambda event: None
        )
        found = learns(trained_model(job))
        assert found.verdict == verdict, found
    assert "lm_head" in found.what
    assert found.hint == "name some of: embed_tokens, norm, score"


def test_what_is_held_beside_the_model_is_counted_and_hints_can_be_followed(tmp_path: Path) -> None:
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 300}
    plan = Plan(steps=1, ranks=1, rows_per_rank=2, accumulation=1, width=48)

    def needed(task: str, kind: str = "full") -> int:
        return estimate(shape, preferring(task, kind), plan).weights

    def preferring(task: str, kind: str = "full") -> FinetuneConfig:
        given = {**GENERATING, "method": {"kind": kind}}
        return preferences.preferring(task, Path("base"), Path("rows.jsonl"), StateConfig(), **given)

    assert needed("dpo") == needed("kto") == 2 * needed("grpo")
    assert needed("dpo", "lora") == needed("grpo", "lora")
    pair, answer = (estimate(shape, preferring(task), plan).activations for task in ("dpo", "kto"))
    assert pair == 2 * answer
    assert "gradient_checkpointing" in what_to_change(preferring("kto"), plan)  # a row at once is too few for kto
    least = replace(plan, rows_per_rank=1, gradient_checkpointing=True)
    assert what_to_change(preferring("dpo", "lora"), least).endswith("or method.kind: qlora on a GPU")
    assert "fsdp2" not in what_to_change(preferring("dpo", "lora"), least)


def test_a_strategy_that_would_silently_be_another_is_refused(place: Path, base: Path, state: StateConfig) -> None:
    data = preferences.pairs(place / "pairs.jsonl")
    config = preferences.preferring("dpo", base, data, state, launch={"processes": 2}, parallel={"strategy": "fsdp2"})
    with pytest.raises(UserError, match=r"trains on copies of the model \(ddp\), and parallel.strategy is fsdp2"):
        train.run_job(config)


def test_what_does_not_fit_the_task_is_refused(place: Path, base: Path, state: StateConfig) -> None:
    with pytest.raises((UserError, GateFailedError), match=r"preference|thumb"):
        run(preferences.preferring("dpo", base, preferences.thumbs(place / "thumbs.jsonl"), state))


def test_a_first_loss_that_is_off_is_refused() -> None:
    config = preferences.preferring("dpo", Path("base"), Path("rows.jsonl"), StateConfig())
    assert first_loss_check(config, 0.6932).verdict == "pass"
    found = first_loss_check(config, 0.6005)  # measured of full DPO whose reference came from elsewhere
    assert found.verdict == "fail"
    assert "load both from the same base" in found.hint


def test_a_reference_that_is_another_model_ends_the_run_at_its_first_step(
    place: Path, base: Path, state: StateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As full DPO does whose reference is loaded from wherever the model says it came from."""
    from llmops.finetune.engines import trainers
    from llmops.finetune.models import find_base, load_model

    config = preferences.preferring(
        "dpo", base, preferences.pairs(place / "pairs.jsonl"), state, method={"kind": "full"}
    )
    other = find_base(config.model.model_copy(update={"path": str(tiny_base(place / "other", seed=9))}), state)
    monkeypatch.setattr(trainers, "_reference", lambda job: {"ref_model": load_model(other, config).eval()})
    heard: list[Any] = []
    with pytest.raises(GateFailedError, match=r"preference\.first_loss.*0\.6931"):
        train.run_job(config, listen=heard.append)
    assert not [one for one in heard if one.kind == "step" and one.step > 1]


def written(config: FinetuneConfig, name: str) -> RunFolder:
    folder = open_run(config.state, name=name, task=config.task, identity="0" * 64)
    job = train.ready(config, principal=LOCAL, listen=lambda event: None)
    jobs.write(job, folder)
    return folder


def changed_plan(plan: Any) -> Any:
    return replace(plan, rows_per_rank=plan.rows_per_rank // 2, accumulation=plan.accumulation * 2)
