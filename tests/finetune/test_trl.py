"""TRL's trainers behind our engine: planted preferences are learned, references are right, kills change nothing."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support import preferences
from tests.support.tiny_lm import tiny_base

from llmops.core.chain import ChainContext, Delta, Message
from llmops.core.errors import ConflictError, GateFailedError, UserError
from llmops.core.identity import LOCAL
from llmops.core.state import StateConfig
from llmops.finetune import jobs, registration, train
from llmops.finetune.config import FinetuneConfig, GenerationConfig, TrackConfig
from llmops.finetune.engines.rewards import rewards
from llmops.finetune.engines.trl import TrlEngine
from llmops.finetune.preflight.preference_checks import first_loss_check
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
_KILLED = """
import os, signal, sys
from pathlib import Path
from llmops.finetune import jobs
from llmops.finetune.engines.trl import TrlEngine
from llmops.finetune.runs import RunFolder

folder, stage, seen = RunFolder(Path(sys.argv[1])), sys.argv[2], []

def pause(now):
    seen.append(now)
    if seen.count(stage) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

TrlEngine(pause).train(jobs.read(folder), folder, lambda event: None)
"""


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
@pytest.mark.parametrize("stage", ["written"])
def test_a_killed_run_goes_on_to_the_same_bits(place: Path, base: Path, state: StateConfig, stage: str) -> None:
    config = preferences.preferring(
        "dpo", base, preferences.pairs(place / "pairs.jsonl"), state,
        train={"global_tokens_per_step": 768, "lr": 5e-3, "budget": {"steps": 12}}, checkpoint={"every_steps": 4},
    )  # fmt: skip
    whole, broken = written(config, "whole"), written(config, "broken")
    TrlEngine().train(jobs.read(whole), whole, lambda event: None)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _KILLED, str(broken.path), stage], env=environment, check=False
    )
    assert ended.returncode == -signal.SIGKILL
    # The checkpoint that was being written is not there; the one before it is gone on from, and it is said.
    events: list[Any] = []
    trained = TrlEngine().train(jobs.read(broken), broken, events.append)
    assert trained.resumed_from == 4
    assert next(one for one in events if one.kind == "resumed").step == 4
    weights = [(one.model / "adapter_model.safetensors").read_bytes() for one in (whole, broken)]
    assert weights[0] == weights[1]
    # Divided otherwise it would not be the same run, and is refused.
    other = jobs.read(broken)
    changed = other.__class__(other.config, other.base, other.tokenizer, other.data, changed_plan(other.plan))
    with pytest.raises(ConflictError, match="cannot be resumed exactly"):
        TrlEngine().train(changed, broken, lambda event: None)


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
    from dataclasses import replace

    return replace(plan, rows_per_rank=plan.rows_per_rank // 2, accumulation=plan.accumulation * 2)
