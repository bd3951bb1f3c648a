"""Conclusions become evidence, plans foretell the tests, and importing the statistics costs next to nothing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from llmops.registry import Evidence, Kind
from llmops.registry.evidence import Subject
from llmops.registry.stats import (
    Conclusion,
    EventProcess,
    MeanProcess,
    Plan,
    QuantileProcess,
    Rule,
    Tally,
    Traffic,
    combine,
    paired_bootstrap,
    plan_events,
    plan_means,
    plan_paired,
)

CONCLUSIONS = [
    EventProcess(propensity=0.1).conclude(),
    EventProcess(propensity=0.1).update(Tally(n=900, bad=9), Tally(n=100, bad=30)).conclude(),
    MeanProcess(propensity=0.5).conclude(),
    QuantileProcess(propensity=0.5).conclude(),
    paired_bootstrap([0.0, 1.0] * 20, [0.5, 1.0] * 20, Rule(resamples=200)),
]


@pytest.mark.parametrize("conclusion", CONCLUSIONS, ids=lambda conclusion: conclusion.method)
def test_a_finding_fills_an_evidence_record(conclusion: Conclusion) -> None:
    subject = Subject(kind=Kind.CHAIN, name="dev.docs.chat", version=2, digest="0" * 64)
    record = Evidence(asset=subject, gate="canary", actor="tester", **conclusion.as_evidence())
    assert Evidence.model_validate_json(record.body).evidence_id == record.evidence_id
    assert record.method.params
    assert record.verdict == conclusion.verdict
    assert record.n is not None
    assert record.n.challenger == conclusion.n_challenger
    assert Conclusion.model_validate(conclusion.model_dump()) == conclusion


@pytest.mark.parametrize(
    ("verdicts", "combined"),
    [
        (["pass", "pass"], "pass"),
        (["pass", "inconclusive"], "inconclusive"),
        (["inconclusive", "fail"], "fail"),
        ([], "inconclusive"),
    ],
)
def test_all_must_pass(verdicts: list[str], combined: str) -> None:
    assert combine(verdicts) == combined  # type: ignore[arg-type]


def test_plans_say_how_long_it_takes_or_that_it_never_does() -> None:
    traffic = Traffic(propensity=0.1, runs=200)
    plan = plan_events(0.01, 0.10, traffic)
    assert plan.median is not None
    assert plan.most is not None
    assert 100 <= plan.median <= plan.most < 2_000
    assert plan.power == 1
    assert plan == plan_events(0.01, 0.10, traffic)
    assert plan_events(0.01, 0.011, traffic) == Plan(
        median=None, most=None, power=plan_events(0.01, 0.011, traffic).power
    )
    assert (plan_means(0.5, traffic).median or 0) < (plan_means(0.3, traffic).median or 0)
    assert plan_means(0.0, traffic).median is None


def test_the_plan_for_held_out_data_is_the_textbooks() -> None:
    assert plan_paired(0.5, 1.0) == 32  # 31.4 for two-sided 5% and 80%
    assert plan_paired(0.02, 0.3, power=0.9) == 2_365


def test_importing_the_statistics_imports_neither_scipy_nor_a_database() -> None:
    code = (
        "import sys, json, llmops.registry.stats as s\n"
        "s.EventProcess(propensity=.5).update(s.Tally(n=1, bad=0), s.Tally(n=1, bad=0))\n"
        "print(json.dumps([m for m in ('scipy', 'mlflow', 'sqlalchemy', 'pandas', 'sklearn') if m in sys.modules]))"
    )
    assert json.loads(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout) == []
