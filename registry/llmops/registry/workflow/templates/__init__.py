"""What starts a workflow by somebody else's scheduler. Each keeps to `llmops workflow run CONFIG --key ...`.

The key makes a start that is repeated the same run; interrupted ones are taken along. So a scheduler's own retries are
safe, and state, values and retries stay where they are: in the run's rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from llmops.registry.workflow.job import Job

KINDS = {"cron": "cron", "kubernetes": "kubernetes", "airflow": "airflow", "github-actions": "github"}


def rendered(kind: str, job: Job, *, image: str) -> dict[str, str]:
    """File name to text of one kind.

    Raises:
        ConfigError: the workflow has no schedule, and this kind is nothing but one.
    """
    module = import_module(f"{__name__}.{KINDS[kind]}")
    render: Callable[..., dict[str, str]] = module.render
    return render(job, image=image)


def variables(value: Any) -> list[str]:
    """The environment variables that a configuration refers to, in order, each once."""
    return list(dict.fromkeys(_variables(value)))


def _variables(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _variables(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _variables(item)
    elif isinstance(value, str) and value.startswith("env:"):
        yield value.removeprefix("env:")


def referred(job: Job) -> list[str]:
    """The environment variables that a job needs."""
    return variables(job.config.model_dump(mode="json"))
