"""Everything the control process works with, opened together and closed together."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from llmops.core.drain import Drainer
from llmops.core.identity import LOCAL
from llmops.core.keys import Keys
from llmops.core.lake import Lake
from llmops.core.sql import Sql, open_sql
from llmops.core.web.sign_in import KeySessions
from llmops.core.webhook import Webhook
from llmops.gateway.config import GatewayConfig
from llmops.gateway.control.acts import SERVICE
from llmops.gateway.control.alerts import Alerts, Condition
from llmops.gateway.control.budgets import Standing, conditions, standings
from llmops.gateway.control.follow import Follower
from llmops.gateway.control.keys import ADMIN, VirtualKeys
from llmops.gateway.control.meters import Merged, Meters
from llmops.gateway.control.models import ReportedModels
from llmops.gateway.control.record import Recorder
from llmops.gateway.control.snapshot import Publisher
from llmops.gateway.control.telemetry import Telemetry
from llmops.gateway.control.traces import Traces
from llmops.gateway.control.usage import UsageTable
from llmops.gateway.control.watch import SAMPLE_S, Duties, Watch
from llmops.gateway.published import CONFIG, load_published, read_status
from llmops.registry.authority import Authority

BREAKER = "llmops_gateway_breaker_open"
_log = logging.getLogger(__name__)


class Published:
    """The configuration in force, read again when it was replaced."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / CONFIG
        self._mark = self._path.stat().st_mtime_ns
        self._config = load_published(folder)

    def __call__(self) -> GatewayConfig:
        mark = self._path.stat().st_mtime_ns
        if mark != self._mark:
            self._config = load_published(self._path.parent)
            self._mark = mark
        return self._config


@dataclass
class Office:
    """What pages and API are made of. `authority` is the process' own; an act is done in its asker's name."""

    config: Published
    sql: Sql
    authority: Authority
    keys: VirtualKeys
    publisher: Publisher
    alerts: Alerts
    usage: UsageTable
    watch: Watch
    models: ReportedModels
    sessions: KeySessions
    drainer: Drainer

    @property
    def folder(self) -> Path:
        return self.config().folder

    def budgets(self) -> list[Standing]:
        """How much of each budget is spent."""
        return standings(self.config(), self.keys.policies())


@contextmanager
def open_office(folder: Path, sample_s: float = SAMPLE_S) -> Iterator[Office]:
    """Open state, lake and threads; at the end the last rows are moved into the lake."""
    published = Published(folder)
    config = published()
    with ExitStack() as stack:
        sql: Sql = stack.enter_context(open_sql(config.state))
        authority = stack.enter_context(Authority.over(sql, config.state, LOCAL, SERVICE))
        lake = Lake(config.state)
        keys, alerts = VirtualKeys(sql), Alerts(sql)
        models = ReportedModels(lake, config.inference_log)

        def wrong(merged: Merged) -> list[Condition]:
            models.look()
            now = published()
            found = conditions(standings(now, keys.policies()))
            return [*found, *_open_breakers(merged), *models.conditions(now)]

        follower = Follower(published, reload_gateway)
        stack.callback(follower.close)
        record = Recorder(folder, authority)
        duties = Duties(alerts, wrong, published, _webhook(config), _telemetry(config, folder), follower, record)
        if duties.telemetry is not None:
            stack.callback(duties.telemetry.close)
        publisher = Publisher(sql, folder)
        publisher.start()
        stack.callback(publisher.stop)
        watch = Watch(Meters(folder), duties, sample_s)
        watch.start()
        stack.callback(watch.stop)
        traces = Traces(lake, published)
        traces.start()
        stack.callback(traces.stop)  # after the drainer, so that the last rows are told of
        drainer = Drainer(config.state, lake=Lake(config.state))
        drainer.start()
        stack.callback(drainer.stop)
        usage = UsageTable(lake, config.inference_log)
        sessions = KeySessions.open(folder, Keys(sql), ADMIN)
        yield Office(published, sql, authority, keys, publisher, alerts, usage, watch, models, sessions, drainer)


def reload_gateway(folder: Path) -> bool:
    """Ask the supervisor to read its configuration again; False where it is not this process' parent."""
    status = read_status(folder)
    if status is None or status.pid != os.getppid():
        return False
    os.kill(status.pid, signal.SIGHUP)
    return True


def _open_breakers(merged: Merged) -> Iterable[Condition]:
    for (name, labels), value in merged.gauges.items():
        if name == BREAKER and value:
            known = dict(labels)
            subject = f"{known['route']}: {known['target']}"
            yield Condition("breaker_open", subject, f"{known['target']} keeps failing and is left alone for a while")


def _webhook(config: GatewayConfig) -> Webhook | None:
    control = config.control
    if control.alert_webhook is None:
        return None
    return Webhook(
        control.alert_webhook,
        control.alert_secret,
        private=control.alert_private,
        what="alert webhook",
        where="control.alert_webhook",
        hint="set `control.alert_private: true` if it is meant",
    )


def _telemetry(config: GatewayConfig, folder: Path) -> Telemetry | None:
    if config.control.otlp_endpoint is None:
        return None
    from llmops.gateway.control.meters import KEPT

    kept = folder / KEPT
    return Telemetry(config.control.otlp_endpoint, kept.stat().st_ctime if kept.exists() else None)
