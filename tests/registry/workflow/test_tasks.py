"""The built-in tasks: from a version to champion, refusal with evidence, approval by people, retraining once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support import fraud as payments
from tests.support.fraud import NAME, Fraud
from tests.support.promotions import against, found
from tests.support.workflows import HERE, Bench, task, write

from llmops.core.identity import Principal
from llmops.core.state import StateConfig
from llmops.registry import Registry, Version
from llmops.registry.promotion import Policy, Promoter
from llmops.registry.workflow import Run, RunStatus, Task, Workflows
from llmops.registry.workflow.tasks import OFFLINE, approval_word

RISK = Principal("rita", "person", frozenset({"risk"}))


@pytest.fixture(scope="session")
def fraud(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Fraud:
    return payments.make(tmp_path_factory.mktemp("fraud"), empty_mlflow)


@pytest.fixture
def desk(fraud: Fraud, tmp_path: Path) -> Iterator[Bench]:
    """A bench over a copy of the state with its models."""
    shutil.copytree(fraud.state.root, tmp_path / "state")
    bench = Bench(tmp_path, StateConfig(dir=tmp_path / "state"), Principal("trainer", "service"))
    yield bench
    bench.flows.close()


def flow(fraud: Fraud, version: str) -> list[dict[str, Any]]:
    """The gates for real."""
    data = {"table": str(fraud.rows), "label": "fraud"}
    common = {"version": "${train.version}", "data": data, "resamples": 200}
    metrics = [{"metric": "roc_auc", "min": 0.75}]
    return [
        task("train", given={"version": version}),
        {"name": "validate", "with": {**common, "metrics": metrics}},
        {"name": "compare", "with": {**common, "metric": "roc_auc", "baseline": {"kind": "majority"}}},
        {"name": "deploy", "with": {"version": "${train.version}"}},
    ]


def asked(desk: Bench, version: Version, group: str) -> tuple[Run, dict[str, Task]]:
    """A run that asks a group and deploys, of a version that has passed its gates."""
    with Registry(desk.state) as registry:
        Promoter(registry).set_policy("dev.fraud.*", Policy(approvals=("risk",)))
        Promoter(registry).promote(version.ref, [found(version), against(version, None)], within=OFFLINE)
    settings = {"version": str(version.ref)}
    return desk.run([{"name": f"approval_{group}", "with": settings}, {"name": "deploy", "with": settings}])


def champion(bench: Bench) -> int | None:
    with Registry(bench.state) as registry:
        alias = registry.alias(NAME, "champion")
    return None if alias is None else alias.version


def test_from_a_version_to_champion_and_a_worse_one_is_refused(desk: Bench, fraud: Fraud) -> None:
    good, weak = fraud.good, fraud.weak
    run, tasks = desk.run(flow(fraud, f"fraud.clf/{good.version}"))
    assert run.status is RunStatus.SUCCEEDED, (run.error, desk.log(list(tasks.values())[-1]))
    validated, compared, deployed = (tasks[name].values or {} for name in ("validate", "compare", "deploy"))
    assert (validated["version"], validated["verdict"], validated["state"]) == (str(good.ref), "pass", "validated")
    assert (compared["verdict"], compared["baseline"]) == ("pass", None)
    assert (deployed["promoted"], deployed["champion"]) == (True, str(good.ref))
    assert champion(desk) == good.version
    with Registry(desk.state) as registry:
        filed = {record.evidence_id for record in registry.evidence(good)}
    assert {validated["evidence_id"], compared["evidence_id"]} <= filed

    run, tasks = desk.run(flow(fraud, str(weak.ref)))
    assert (run.status, run.exit_code) == (RunStatus.FAILED, 3)
    assert run.error is not None
    assert run.error.task in ("validate", "compare")
    assert run.error.what.startswith(
        f"the {'comparison' if run.error.task == 'compare' else 'validation'} of {weak.ref}"
    )
    assert champion(desk) == good.version

    run, tasks = desk.run(flow(fraud, str(good.ref)))  # the same again changes nothing
    assert run.status is RunStatus.SUCCEEDED
    assert (tasks["compare"].values or {})["champion"] is True


def test_an_approval_waits_for_its_group_and_a_word_wakes_it(desk: Bench, fraud: Fraud) -> None:
    run, tasks = asked(desk, fraud.good, "risk")
    assert run.status is RunStatus.WAITING, run.error
    assert tasks["approval_risk"].reason == (
        f"`risk` has to approve {fraud.good.ref}: llmops approve {fraud.good.ref} --group risk"
    )
    assert champion(desk) is None
    with Registry(desk.state, principal=RISK) as registry:
        Promoter(registry).approve(fraud.good.ref, "risk")
    assert champion(desk) is None  # an approval deploys nothing by itself
    assert desk.flows.wake(approval_word(fraud.good.ref)) == [run.run_id]
    desk.flows.engine().carry(run.run_id, ask=False)
    run, tasks = desk.shown(run.run_id)
    assert run.status is RunStatus.SUCCEEDED, run.error
    assert tasks["approval_risk"].values == {"version": str(fraud.good.ref), "approved": True, "group": "risk"}
    assert champion(desk) == fraud.good.version


def test_a_withdrawal_ends_the_run_that_waits(desk: Bench, fraud: Fraud) -> None:
    run, _ = asked(desk, fraud.good, "risk")
    with Registry(desk.state) as registry:
        Promoter(registry).withdraw(fraud.good.ref, "the data was wrong")
    run, _ = desk.carry(run.run_id)
    assert (run.status, run.exit_code) == (RunStatus.FAILED, 3)
    assert run.error is not None
    assert "withdrawn: the data was wrong" in run.error.what
    assert champion(desk) is None


def test_a_denial_ends_the_run_at_the_gate(desk: Bench, fraud: Fraud) -> None:
    run, _ = asked(desk, fraud.good, "risk")
    with Registry(desk.state, principal=RISK) as registry:
        Promoter(registry).deny(fraud.good.ref, "risk", "not before the audit")
    run, _ = desk.carry(run.run_id)
    assert (run.status, run.exit_code) == (RunStatus.FAILED, 3)
    assert run.error is not None
    assert "denied" in run.error.what
    assert champion(desk) is None


def test_a_group_that_the_policy_does_not_ask_is_told(desk: Bench, fraud: Fraud) -> None:
    run, _ = asked(desk, fraud.good, "legal")
    assert run.error is not None
    assert (run.error.task, run.error.what) == ("approval_legal", "this promotion does not ask the group `legal`")
    assert "it asks risk" in (run.error.hint or "")


def test_a_wrong_setting_of_a_gate_is_told_with_its_place(desk: Bench, fraud: Fraud) -> None:
    run, _ = desk.run([{"name": "validate", "with": {"version": str(fraud.good.ref), "metrics": [{"metrik": "x"}]}}])
    assert run.error is not None
    assert run.error.where == "task `validate`, with.metrics.0.metric"
    run, _ = desk.run([{"name": "deploy", "with": {}}])
    assert run.error is not None
    assert run.error.what == "the task needs a version"
    run, _ = desk.run([{"name": "deploy", "with": {"version": str(fraud.good.ref)}}])
    assert run.exit_code == 3
    assert run.error is not None
    assert "may not be deployed yet" in run.error.what


def test_a_prompt_is_registered_once(desk: Bench) -> None:
    settings = {"asset": "docs.greeting", "text": "Say hello to {name}.", "description": "hello"}
    for _ in range(2):
        run, tasks = desk.run([{"name": "register", "with": settings}])
        assert (tasks["register"].values or {})["version"] == "dev.docs.greeting/1", run.error
    with Registry(desk.state) as registry:
        assert registry.alias("dev.docs.greeting", "champion") is None


def test_retrain_starts_another_workflow_once(bench: Bench) -> None:
    rules = {"keys": {"alerts": "env:ALERT_KEY"}, "cool_down_s": 600}
    other = write(bench.folder, [task("a")], state=bench.state, name="other", params={"seed": 1}, trigger=rules)
    settings = {"config": str(other), "params": {"seed": 2}, "key": "drift"}
    run, tasks = bench.run([{"name": "retrain", "with": settings}])
    given = tasks["retrain"].values or {}
    assert given["status"] == "accepted", run.error
    started, _ = bench.flows.show(str(given["run_id"]))
    assert (started.workflow, started.cause.means, started.params) == ("other", "retrain", {"seed": 2})
    run, tasks = bench.run([{"name": "retrain", "with": settings}])
    assert (tasks["retrain"].values or {})["status"] == "duplicate"
    assert len(bench.flows.list("other")) == 1
    with Workflows(bench.state) as flows:
        flows.engine().carry(started.run_id)
    run, tasks = bench.run([{"name": "retrain", "with": settings}])
    assert (tasks["retrain"].values or {})["status"] == "cooling"
    assert HERE in str(started.config)
