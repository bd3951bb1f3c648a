"""Runs from end to end: order, values, retries, gates, waiting, cancelling; over SQLite and PostgreSQL."""

from __future__ import annotations

from tests.support.migrations import differences
from tests.support.workflows import Bench, task

from llmops.registry.workflow import RunStatus, tables


def test_the_migration_makes_the_tables_that_the_code_defines(sql_bench: Bench) -> None:

    assert differences(sql_bench.flows.sql, tables.metadata) == []


def test_values_pass_from_task_to_task_with_their_types(sql_bench: Bench) -> None:
    bench = sql_bench
    run, tasks = bench.run(
        [
            task("train", given={"version": 3, "deep": {"list": [1, 2.5, None, True]}, "seed": "${params.seed}"}),
            task(
                "report",
                given={
                    "version": "${train.version}",
                    "second": "${train.deep.list.1}",
                    "whole": "${train.deep}",
                    "text": "${env}.fraud/${train.version} by ${run.workflow}, $${kept}",
                },
            ),
            task("hand", "whole", given={"seed": "${train.seed}"}),
        ],
        params={"seed": 7},
        overrides=("params.seed=8",),
    )
    assert run.status is RunStatus.SUCCEEDED
    assert tasks["report"].values == {
        "version": 3,
        "second": 2.5,
        "whole": {"list": [1, 2.5, None, True]},
        "text": "dev.fraud/3 by flow, ${kept}",
    }
    handed = tasks["hand"].values
    assert handed is not None
    assert handed["settings"] == {"seed": 8}
    assert handed["token"] == f"{run.run_id}/hand"
    assert (handed["attempt"], handed["catalog"], handed["principal"]) == (1, "dev", "local")
    assert handed["session"] is True
    assert handed["root"] == str(bench.state.root)
    assert handed["values"]["train"]["version"] == 3
