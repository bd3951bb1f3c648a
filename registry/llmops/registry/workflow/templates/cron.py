"""A crontab line, and a systemd service with its timer."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from llmops.core.errors import ConfigError
from llmops.registry.workflow.cron import DAY_NAMES, Cron
from llmops.registry.workflow.job import Job


def render(job: Job, *, image: str) -> dict[str, str]:
    del image
    if job.config.schedule is None:
        raise ConfigError("the workflow has no `schedule`", where=job.file, hint='add `schedule: {cron: "0 9 * * *"}`')
    cron, name = job.config.schedule.reading(), job.config.name
    return {
        f"llmops-{name}.crontab": _crontab(job, cron),
        f"llmops-{name}.service": _service(job),
        f"llmops-{name}.timer": _timer(job, cron),
    }


def calendars(cron: Cron) -> list[str]:
    """The times as systemd writes them; two where crontab's "or" of day and weekday needs two."""
    month, hour, minute = (_listed(cron.fields[name]) for name in ("month", "hour", "minute"))
    day, weekday = cron.fields["day"], cron.fields["weekday"]
    names = "" if weekday is None else ",".join(DAY_NAMES[number].capitalize() for number in weekday) + " "
    zone = cron.zone.key
    either = [(f"*-{month}-{_listed(day)}", ""), (f"*-{month}-*", names)]
    chosen = either if day is not None and names else [(f"*-{month}-{_listed(day)}", names)]
    return [f"{days}{date} {hour}:{minute}:00 {zone}" for date, days in chosen]


def _crontab(job: Job, cron: Cron) -> str:
    key = '"cron-$(date -u +%Y-%m-%dT%H:%M)"'.replace("%", "\\%")
    command = f"cd {shlex.quote(str(Path.cwd()))} && {_command(job)} --key ".replace("%", "\\%") + key
    return (
        f"# Workflow {job.config.name} of {job.file}. Not every cron knows CRON_TZ (cronie does, Debian's does not):\n"
        f"# where yours does not, it must run in {cron.zone.key}, or use the systemd timer.\n"
        f"CRON_TZ={cron.zone.key}\n"
        f"{cron.line} {command}\n"
    )


def _service(job: Job) -> str:
    return f"""\
[Unit]
Description=llmops workflow {job.config.name}
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
WorkingDirectory={str(Path.cwd()).replace("%", "%%")}
ExecStart={_command(job).replace("%", "%%")}
TimeoutStopSec=60
# Secrets that the configuration refers to, NAME=value a line:
EnvironmentFile=-/etc/llmops/{job.config.name}.env
"""


def _timer(job: Job, cron: Cron) -> str:
    times = "\n".join(f"OnCalendar={calendar}" for calendar in calendars(cron))
    return f"""\
[Unit]
Description=llmops workflow {job.config.name}, at its times

[Timer]
{times}
Persistent=true
AccuracySec=1s

[Install]
WantedBy=timers.target
"""


def _command(job: Job) -> str:
    program = Path(sys.executable).with_name("llmops")
    return f"{shlex.quote(str(program))} workflow run {shlex.quote(job.file)}"


def _listed(values: list[int] | None) -> str:
    return "*" if values is None else ",".join(map(str, values))
