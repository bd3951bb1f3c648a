"""A registered route put to the test by the gateway's own engine: answers, errors, what it costs, and who is better."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.upstream import Reply, Seen, Upstream, running_upstream
from tests.support.worker import target

from llmops.core.errors import ConfigError, StorageError, UserError
from llmops.core.identity import LOCAL
from llmops.core.state import StateConfig
from llmops.gateway.config import GatewayConfig
from llmops.gateway.tasks import register_route
from llmops.gateway.trying import RouteChain, open_route_version
from llmops.registry import Registry
from llmops.registry.gates import ComparisonSpec, Report, ValidationSpec, compare, file_report, validate
from llmops.registry.promotion import Promoter
from llmops.registry.records import Version
from llmops.registry.workflow import TaskContext

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight")
SECRET = "sk-of-the-provider"


def answer(seen: Seen) -> Reply:
    """The model `good` repeats the number, `poor` does not, `broken` fails."""
    assert seen.headers["authorization"] == f"Bearer {SECRET}"
    said = seen.messages[-1]["content"].split()[-1].strip("?")
    if seen.body["model"] == "broken":
        return Reply(status=500, error="out of order")
    text = f"It is {said}." if seen.body["model"] == "good" else "Who knows."
    return Reply((text,), stream=bool(seen.body.get("stream")))


class Room:
    """A gateway's configuration, its registry, and eight questions."""

    def __init__(self, folder: Path, registry: Registry, upstream: Upstream) -> None:
        self.folder, self.registry = folder, registry
        self.gateway, self.questions = str(folder / "gateway.yaml"), str(folder / "questions.yaml")
        config = {
            "job": "gateway",
            "providers": {"first": {"url": upstream.url, "api_key": "env:TRIED_KEY"}},
            "routes": [{"name": "spare", "targets": [target(model="good")]}],
            "registered": ["gateway.fast@champion"],
        }
        Path(self.gateway).write_text(yaml.safe_dump(config))
        asked = [{"question": f"Which number is {one}?", "answer": one} for one in NUMBERS]
        Path(self.questions).write_text(yaml.safe_dump(asked))

    def registered(self, model: str, **more: Any) -> Version:
        retry = {"attempts": 1, "backoff_s": 0}
        route = {"name": "fast", "targets": [target(model=model, **more.pop("target", {}))], "retry": retry, **more}
        settings: dict[str, Any] = {"route": route, "config": self.gateway, "description": f"asks {model}"}
        context = TaskContext("run", "flow", "register", 1, settings, {}, "dev", self.registry.state, LOCAL)
        return self.registry.resolve(register_route(context)["version"])

    def asked(self) -> dict[str, Any]:
        questions = {"file": self.questions, "through": {"gateway": self.gateway}}
        return {"questions": questions, "limits": {"network": True, "environment": ["TRIED_KEY"]}}

    def validated(self, version: Version, *scores: dict[str, Any]) -> Report:
        given = self.asked()
        given["questions"] |= {"cited_min": 0, "answer_p95_ms": 60_000, "scores": list(scores)}
        return self._filed(validate(version, ValidationSpec.model_validate(given), self.registry))

    def compared(self, version: Version) -> Report:
        guards = [{"metric": "cost_usd", "margin": 0.00001}, {"metric": "answer_s", "margin": 60}]
        more = {"metric": "contains", "min_rows": 6, "guardrails": guards, "baseline": {"kind": "refuse"}}
        spec = ComparisonSpec.model_validate(self.asked() | more)
        return self._filed(compare(version, None, spec, self.registry))

    def promoted(self, version: Version) -> str:
        return Promoter(self.registry).promote(version.ref).state.value

    def _filed(self, report: Report) -> Report:
        file_report(report, self.registry)
        return report


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    monkeypatch.setenv("TRIED_KEY", SECRET)
    with running_upstream() as upstream, Registry(StateConfig(dir=tmp_path / "state")) as registry:
        upstream.answer = answer
        yield Room(tmp_path, registry, upstream)


def findings(report: Report) -> dict[str, str]:
    return {finding.check: finding.verdict for finding in report.findings}


def test_a_route_from_its_definition_to_champion(room: Room) -> None:
    good = room.registered("good")
    found = room.validated(good, {"metric": "contains", "min": 0.9}, {"metric": "cost_usd", "max": 0.001})
    assert found.verdict == "pass", findings(found)
    cost = next(finding.measured for finding in found.findings if finding.check == "score:cost_usd")
    # The upstream counts words: 4 in, 1 piece out, of 1 and 2 dollars a million tokens.
    assert cost == pytest.approx(0.000006)
    assert room.compared(good).verdict == "pass"
    assert room.promoted(good) == "promoted"

    poor = room.registered("poor")
    assert room.validated(poor).verdict == "pass"
    assert room.compared(poor).verdict == "fail"
    assert room.promoted(poor) == "rejected"

    dear = room.registered("good", target={"price": {"input": "1000", "output": "1000"}})
    assert room.validated(dear, {"metric": "cost_usd", "max": 0.001}).verdict == "fail"
    assert findings(room.compared(dear))["guard:cost_usd"] == "fail"


def test_an_error_of_the_upstream_is_a_finding_unless_a_fallback_answers(room: Room) -> None:
    broken = room.validated(room.registered("broken"))
    assert broken.verdict == "fail"
    told = next(finding.what for finding in broken.findings if finding.check.startswith("answer:"))
    assert told.startswith("5")
    saved = room.validated(room.registered("broken", fallbacks=["spare"]), {"metric": "contains", "min": 0.9})
    assert saved.verdict == "pass", findings(saved)
    assert SECRET not in str(saved.as_json()) + str(broken.as_json())


def test_what_does_not_fit_is_told(room: Room, tmp_path: Path) -> None:
    route = room.registered("good")
    with pytest.raises(UserError, match="unknown key `gatevay`"):
        open_route_version(route, room.registry, {"gatevay": room.gateway})
    lost = room.registered("good", fallbacks=["nowhere"])
    with pytest.raises(ConfigError, match="does not fit this gateway"):
        open_route_version(lost, room.registry, {"gateway": room.gateway})
    context = TaskContext("run", "flow", "register", 1, {"route": {"name": "x"}, "config": room.gateway}, {}, "dev",
                          room.registry.state, LOCAL)  # fmt: skip
    with pytest.raises(ConfigError, match="required"):
        register_route(context)


def test_without_its_key_it_does_not_load(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRIED_KEY")
    report = room.validated(room.registered("good"))
    assert findings(report)["load"] == "fail"


class Picky(RouteChain):
    """Keeps rows as a spool does: together or not at all, and some never."""

    def append_all(self, table: str, records: Sequence[Mapping[str, Any]]) -> bool:
        if any(record["tags"] == "refused" for record in records):
            raise StorageError("a record could not be written")
        return "shed" not in [record["tags"] for record in records] and super().append_all(table, records)


def test_a_row_that_is_refused_takes_no_other_with_it(tmp_path: Path) -> None:
    job = {
        "job": "gateway",
        "state": {"dir": str(tmp_path)},
        "providers": {"first": {"url": "http://127.0.0.1:9/v1"}},
        "routes": [{"name": "chat", "targets": [target(model="good")]}],
    }
    chain = Picky(GatewayConfig.model_validate(job), "chat")

    async def turn(tags: Sequence[str]) -> None:
        """The rows of one turn of the loop, and its end."""
        for number, tag in enumerate(tags):
            chain._gate.log({"layer": "gateway", "number": number, "tags": tag})
        chain._timers.outbox.turn()

    try:
        chain._wait(turn([*("kept",) * 40, "refused", *("kept",) * 40]))
        assert [row["number"] for row in chain._rows] == [*range(40), *range(41, 81)]
        chain._wait(turn(["shed"] * 3))
        counted = {name: count for (name, _), count in chain._gate.metrics._counters.items()}
        assert counted == {"llmops_gateway_rows_failed_total": 1, "llmops_gateway_rows_shed_total": 3}
    finally:
        chain.close()
