"""The workflow job file: tasks and what they pass on, when they run, who is told.

Light to import: pydantic only. What is wrong with names, order and references is found at load, with its line and
column, before any task runs. Secrets stand here only as references.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from llmops.core.names import current_catalog
from llmops.core.secret import check_reference
from llmops.core.state import StateConfig
from llmops.registry.workflow import graph
from llmops.registry.workflow.cron import Cron
from llmops.registry.workflow.params import ParamConfig

NAME = r"^[a-z][a-z0-9_]{0,62}$"
TARGET = r"^([A-Za-z_][\w]*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*|[a-z][a-z0-9_.-]*)$"
Name = Annotated[str, Field(pattern=NAME)]
Event = Literal["started", "waiting", "failed", "succeeded", "cancelled", "promoted"]
DAY_S = 86_400.0


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)


class TaskConfig(Section):
    """One step: a function in a process of its own."""

    name: Name = Field(description="What other tasks call it; a name of a built-in task needs no `run`")
    run: str | None = Field(
        None, pattern=TARGET, description="package.module:function, or the name of an installed task"
    )
    settings: dict[str, JsonValue] = Field(
        default_factory=dict, alias="with", description="What the task is told; ${...} is replaced"
    )
    needs: tuple[str, ...] | None = Field(None, description="Tasks that must have succeeded; default: the one before")
    when: str | None = Field(None, description="One ${...}; the task is skipped where that is false, null, 0 or empty")
    retries: int = Field(0, ge=0, le=100, description="Further attempts after a failure that may pass by itself")
    retry_wait_s: float = Field(
        10.0, ge=0, description="Pause before the first retry; doubles, with jitter, up to 10 minutes"
    )
    timeout_s: float = Field(DAY_S, gt=0, description="Longest attempt; then its processes are ended")
    grace_s: float = Field(10.0, ge=0, description="Time to leave by itself when it is ended")
    wait_s: float | None = Field(None, gt=0, description="Longest wait of a task that waits; then it fails")


class _Notice(Section):
    on: tuple[Event, ...] = Field(("waiting", "failed", "succeeded", "promoted"), min_length=1)
    allow_private: bool = Field(False, description="Let the receiver have a private or loopback address")


class WebhookConfig(_Notice):
    """One JSON message an event, signed where a secret is named."""

    kind: Literal["webhook"]
    url: str = Field(description="http(s) URL, or a reference to one")
    secret: str | None = Field(None, description="Reference: env:NAME or file:PATH")

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        return value if value.startswith(("http://", "https://")) else check_reference(value)

    @field_validator("secret")
    @classmethod
    def _secret(cls, value: str | None) -> str | None:
        return value if value is None else check_reference(value)


class SlackConfig(_Notice):
    """Slack's incoming webhook, or one that takes its format. Its URL is a secret."""

    kind: Literal["slack"]
    url: str = Field(description="Reference to the URL: env:NAME or file:PATH")

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        return check_reference(value)


class MailConfig(_Notice):
    """One e-mail an event."""

    kind: Literal["mail"]
    host: str = Field(min_length=1, description="SMTP server")
    port: int = Field(587, ge=1, le=65535)
    tls: Literal["starttls", "tls", "none"] = Field("starttls", description="`none` sends no password")
    ca_file: str | None = Field(None, description="Certificates to trust instead of the system's")
    user: str | None = None
    password: str | None = Field(None, description="Reference: env:NAME or file:PATH")
    sender: str = Field(alias="from", pattern=r"^[^@\s<>\r\n]+@[^@\s<>\r\n]+$")
    to: tuple[Annotated[str, Field(pattern=r"^[^@\s<>\r\n]+@[^@\s<>\r\n]+$")], ...] = Field(min_length=1)

    @field_validator("password")
    @classmethod
    def _password(cls, value: str | None) -> str | None:
        return value if value is None else check_reference(value)

    @model_validator(mode="after")
    def _not_in_the_clear(self) -> Self:
        if self.password is not None and (self.tls == "none" or self.user is None):
            raise ValueError("a password needs a `user`, and TLS to travel through")
        return self


NotifyConfig = Annotated[WebhookConfig | SlackConfig | MailConfig, Field(discriminator="kind")]


class ScheduleConfig(Section):
    """When the workflow starts by itself."""

    cron: str = Field(description="minute hour day-of-month month day-of-week, as crontab reads it")
    timezone: str = Field(
        "UTC",
        description="Such as Europe/Berlin; a time that the clock skips is made up for, one it repeats counts once",
    )
    misfire_s: float | None = Field(
        None,
        gt=0,
        description="How old a missed start may be to be made up for; default: any. Several missed ones are one run",
    )

    @model_validator(mode="after")
    def _readable(self) -> Self:
        self.reading()
        return self

    def reading(self) -> Cron:
        return Cron(self.cron, self.timezone)


class TriggerConfig(Section):
    """Who may start the workflow over HTTP, and how often."""

    keys: dict[str, str] = Field(min_length=1, description="Key id to the secret's reference: {alerts: env:ALERT_KEY}")
    cool_down_s: float = Field(600.0, ge=0, description="Least time between two runs that triggers start")
    requests_per_minute: int = Field(30, gt=0, description="More requests are answered 429")

    @field_validator("keys")
    @classmethod
    def _by_reference(cls, value: dict[str, str]) -> dict[str, str]:
        for reference in value.values():
            check_reference(reference)
        return value


class WorkflowConfig(Section):
    """One workflow job: `configs/workflows/NAME.yaml`."""

    job: Literal["workflow"] = Field("workflow", description="Which kind of job the file is for")
    name: Name = Field(description="What runs, schedules and triggers call it")
    description: str = ""
    state: StateConfig = StateConfig()
    env: str = Field(default_factory=current_catalog, pattern=NAME, description="Catalog, `${env}`; default: --env")
    params: dict[Name, ParamConfig] = Field(default_factory=dict, description="`--set params.x=...`; `${params.x}`")
    max_parallel: int = Field(4, ge=1, le=64, description="Tasks that run side by side where they may")
    max_concurrent_runs: int = Field(1, ge=1, le=64, description="Runs at once; more wait in a queue")
    tasks: tuple[TaskConfig, ...] = Field(min_length=1)
    on_failure: tuple[TaskConfig, ...] = Field((), description="Tasks that run, in order, when the run has failed")
    notify: tuple[NotifyConfig, ...] = ()
    schedule: ScheduleConfig | None = None
    trigger: TriggerConfig | None = None

    @field_validator("params", mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        return {key: ParamConfig.lengthened(item) for key, item in value.items()} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        graph.check(self)
        return self

    def task(self, name: str) -> TaskConfig:
        return next(task for task in (*self.tasks, *self.on_failure) if task.name == name)
