"""A study finds what is better, stops what is poor, and goes on where it was stopped."""

from __future__ import annotations

from math import nan
from pathlib import Path

import pytest

from llmops.core.errors import ConfigError, GateFailedError
from llmops.finetune.config import FinetuneConfig
from llmops.finetune.search import Space, Tell, search

SPACES = [Space.parse("train.lr=1e-5..1e-1:log"), Space.parse("method.r=2..64"), Space.parse("method.kind=lora,dora")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "job.yaml"
    lines = ["job: finetune", "model: {path: m}", "data: {sources: [{uri: a}]}", "track: {register_as: docs.bot}"]
    file.write_text("\n".join([*lines, f"state: {{dir: {tmp_path / 'state'}}}"]))
    return file


def bowl(config: FinetuneConfig, tell: Tell) -> float:
    """A loss that is least at lr 1e-3 and kind dora; told on the way as twice that."""
    from math import log10

    assert config.track.register_as is None
    loss = abs(log10(config.train.lr) + 3) + (config.method.kind == "lora")
    tell(1, 2 * loss)
    return loss


def test_a_search_finds_the_better_values(path: Path) -> None:
    found = search(path, SPACES, trials=25, attempt=bowl)
    assert found.trials == 25
    assert found.pruned > 0
    assert found.loss < 0.5
    assert found.best["method.kind"] == "dora"
    assert 2 <= found.best["method.r"] <= 64


def test_a_search_that_was_stopped_tries_what_it_would_have_tried(path: Path) -> None:
    tried: list[float] = []

    def attempt(config: FinetuneConfig, tell: Tell) -> float:
        if len(tried) == 3:
            tried.append(0.0)
            raise KeyboardInterrupt
        tried.append(config.train.lr)
        return bowl(config, lambda step, loss: None)

    with pytest.raises(KeyboardInterrupt):
        search(path, SPACES, trials=6, attempt=attempt)
    stopped = search(path, SPACES, trials=6, attempt=attempt)
    assert stopped.failed == 1
    del tried[:]
    tried.extend([-1.0] * 4)
    again = search(path, SPACES, trials=6, overrides=["name=other"], attempt=attempt)
    assert again.best == stopped.best


@pytest.mark.parametrize("text", ["train.lr", "train.lr=", "train.lr=2..1", "train.lr=0..1:log"])
def test_what_is_no_space(text: str) -> None:
    with pytest.raises(ConfigError):
        Space.parse(text)


def test_a_key_that_the_job_does_not_have_is_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.lrr"):
        search(path, [Space.parse("train.lrr=1..2")], trials=1, attempt=bowl)


def test_two_spaces_of_one_key_are_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match="two spaces"):
        search(path, [SPACES[0], Space.parse("train.lr=1..2")], trials=1, attempt=bowl)


def test_a_setting_that_diverges_is_poor_and_tried_once(path: Path) -> None:
    """With the same number comes the same seed: what is not counted would be tried for ever."""

    def attempt(config: FinetuneConfig, tell: Tell) -> float:
        if config.method.kind == "lora":
            raise GateFailedError("the loss is no number any more", code="loss_not_finite")
        return nan if config.method.r > 32 else bowl(config, tell)

    found = search(path, SPACES, trials=12, overrides=["train.seed=1000000"], attempt=attempt)
    assert found.trials == 12
    assert found.pruned > 0
    assert found.best["method.kind"] == "dora"


def test_what_refuses_every_setting_ends_the_search(path: Path) -> None:
    def attempt(config: FinetuneConfig, tell: Tell) -> float:
        raise GateFailedError("preflight refused to start", code="preflight")

    with pytest.raises(GateFailedError, match="preflight"):
        search(path, SPACES, trials=3, attempt=attempt)
