"""A result is measured beside its base and the champion of its name, on the same examples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.tiny_lm import PLAIN_TEMPLATE, tiny_base, tiny_tokenizer
from tests.support.trained import NAME, trained
from tests.support.training import config, prepared

from llmops.core.identity import LOCAL
from llmops.finetune import registration
from llmops.finetune.judging import evaluated
from llmops.registry import Registry
from llmops.registry.promotion import Promoter, State


def test_the_champion_is_measured_on_the_same_examples(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    job = prepared(config(base, tmp_path, track={"register_as": NAME}))
    state = job.config.state
    first = trained(state, job.config, seed=1)
    alone = evaluated(job, first, LOCAL).evaluation
    assert alone.champion is None
    assert all(score.champion is None for score in alone.scores)
    with Registry(state) as registry:
        version = registration.register(first, job.config, registry)
        assert Promoter(registry).promote(version.ref).state is State.PROMOTED
    second = trained(state, job.config, seed=2)
    judged = evaluated(job, second, LOCAL).evaluation
    assert judged.champion == str(version.ref)
    assert {score.metric for score in judged.scores} == {"loss", "token_accuracy", "exact_match"}
    for score in judged.scores:
        was = alone.score(score.metric)
        assert was is not None
        assert score.champion == pytest.approx(was.after, abs=1e-5)
        assert score.before == pytest.approx(was.before, abs=1e-5)
        assert len(score.after) == judged.examples
    mine, reigning = judged.score("loss"), alone.score("loss")
    assert mine is not None
    assert reigning is not None
    assert mine.after != reigning.after  # another model was measured
    # A champion that reads other tokens, or is a reward model, is no measure of this one.
    tokenizer = tiny_tokenizer(PLAIN_TEMPLATE)
    other = evaluated(replace(job, tokenizer=tokenizer), second, LOCAL).evaluation
    assert other.champion is None
