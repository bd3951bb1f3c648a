"""An Airflow DAG of one task: a sensor, so that a run which waits for people holds no worker."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from llmops.registry.workflow.job import Job

_WAITS = 99


def render(job: Job, *, image: str) -> dict[str, str]:
    del image
    command = f"cd {shlex.quote(str(Path.cwd()))} && llmops workflow run {shlex.quote(job.file)}"
    command += f' --key "airflow-{{{{ run_id }}}}" --waiting-exit-code {_WAITS}'
    schedule = "None"
    if job.config.schedule is not None:
        cron = job.config.schedule.reading()
        schedule = f"CronTriggerTimetable({json.dumps(cron.line)}, timezone={json.dumps(cron.zone.key)})"
    seconds = round(sum(task.timeout_s for task in job.config.tasks)) + 7 * 86_400
    text = f'''\
"""Workflow {job.config.name}: written by `llmops workflow template airflow`; change the workflow's own file instead.

For Airflow 3 with its standard provider. The task fails where the workflow does; exit code {_WAITS} means that the run
waits for people, and is asked again.
"""

from datetime import datetime, timedelta, timezone

from airflow.providers.standard.sensors.bash import BashSensor
from airflow.sdk import DAG
from airflow.timetables.trigger import CronTriggerTimetable

with DAG(
    dag_id={json.dumps("llmops_" + job.config.name)},
    description={json.dumps(job.config.description or "llmops workflow " + job.config.name)},
    schedule={schedule},
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    max_active_runs={job.config.max_concurrent_runs},
    tags=["llmops"],
):
    BashSensor(
        task_id={json.dumps(job.config.name)},
        bash_command={json.dumps(command)},
        retry_exit_code={_WAITS},
        mode="reschedule",
        poke_interval=60,
        timeout=timedelta(seconds={seconds}),
        retries=2,
        retry_delay=timedelta(minutes=1),
    )
'''
    return {f"llmops_{job.config.name}.py": text}
