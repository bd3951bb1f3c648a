"""The values of workflow runs: a run, its tasks, the attempts at them. Knows no SQL and no process."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import JsonValue

from llmops.core.errors import GateFailedError, LlmopsError
from llmops.core.identity import Principal
from llmops.core.ids import canonical_json, digest


class RunStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        return self in (RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED)


class TaskStatus(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    SKIPPED = "skipped"
    FAILED = "failed"
    CANCELLED = "cancelled"


ACTIVE = (RunStatus.RUNNING, RunStatus.WAITING)
Means = Literal["manual", "schedule", "trigger", "retrain"]


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a run was started. With a `key` it is started once: the same key again gives the same run."""

    means: Means = "manual"
    key: str | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong, without secrets, as it is kept and shown."""

    what: str
    where: str | None = None
    hint: str | None = None
    code: str = "task_failed"
    exit_code: int = 1
    task: str | None = None
    log: str | None = None

    @classmethod
    def of(cls, error: LlmopsError) -> Failure:
        return cls(error.what, error.where, error.hint, error.error_code, error.exit_code)

    @property
    def gate(self) -> bool:
        return self.exit_code == GateFailedError.exit_code

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a workflow, with the configuration it was started with."""

    run_id: str
    workflow: str
    status: RunStatus
    config: dict[str, Any]
    config_file: str
    params: dict[str, JsonValue]
    catalog: str
    cause: Cause
    requested_by: Principal
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    active_s: float
    wake_at: datetime | None
    reason: str | None
    error: Failure | None
    cancelled_by: str | None
    engine: str | None
    interrupted: bool
    """It says it is running, but no engine has renewed its lease: resume it."""

    @property
    def shown(self) -> str:
        """The status in the word that people are shown."""
        return "interrupted" if self.interrupted else self.status.value

    @property
    def exit_code(self) -> int:
        """What a command that ran it to its end exits with."""
        if self.status is RunStatus.FAILED:
            return self.error.exit_code if self.error else 1
        return 1 if self.status is RunStatus.CANCELLED else 0

    def as_json(self) -> dict[str, Any]:
        times = {name: getattr(self, name) for name in ("created_at", "started_at", "ended_at", "wake_at")}
        return {
            "run_id": self.run_id,
            "workflow": self.workflow,
            "status": self.shown,
            "config_file": self.config_file,
            "params": self.params,
            "catalog": self.catalog,
            "cause": {"means": self.cause.means, "key": self.cause.key, "note": self.cause.note},
            "requested_by": self.requested_by.id,
            **{name: time.isoformat() if time else None for name, time in times.items()},
            "active_s": round(self.active_s, 3),
            "reason": self.reason,
            "error": self.error.as_json() if self.error else None,
            "cancelled_by": self.cancelled_by,
        }


@dataclass(frozen=True, slots=True)
class Task:
    """One task of a run as it stands."""

    run_id: str
    task: str
    position: int
    handler: bool
    status: TaskStatus
    attempts: int
    failures: int
    interruptions: int
    values: dict[str, JsonValue] | None
    error: Failure | None
    reason: str | None
    waiting_since: datetime | None
    wake_at: datetime | None
    wake_on: str | None
    started_at: datetime | None
    ended_at: datetime | None
    duration_s: float | None
    log: str | None

    def as_json(self) -> dict[str, Any]:
        times = {name: getattr(self, name) for name in ("waiting_since", "wake_at", "started_at", "ended_at")}
        return {
            "task": self.task,
            "handler": self.handler,
            "status": self.status.value,
            "attempts": self.attempts,
            "values": self.values,
            "reason": self.reason,
            "error": self.error.as_json() if self.error else None,
            **{name: time.isoformat() if time else None for name, time in times.items()},
            "duration_s": None if self.duration_s is None else round(self.duration_s, 3),
            "log": self.log,
        }


def config_hash(config: dict[str, Any], params: dict[str, JsonValue]) -> str:
    """Equal for runs that do the same: whether `run` again means the unfinished run or another one."""
    return digest(canonical_json([config, params]))
