"""A registry with a good story in it: champions, a refusal, a rollback, one held, one that waits for approval, runs.

Everything happened through the registry's own doors, but for the versions, which are rows without files.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from tests.support.chain import Shelf, SmallChain
from tests.support.promotions import Desk, found
from tests.support.registry_rows import seed
from tests.support.serving import Running, running
from tests.support.workflows import Bench, task

from llmops.core.identity import Principal
from llmops.core.ids import digest
from llmops.core.keys import REGISTRY_SCOPE, Keys
from llmops.core.names import Name
from llmops.core.state import StateConfig
from llmops.registry import Evidence, Kind, Version, tables
from llmops.registry.evidence import Counts, Data, Method, Subject
from llmops.registry.gates import ComparisonSpec, Finding, Report, file_report
from llmops.registry.gates.spec import DataConfig
from llmops.registry.lineage import Edge, Relation, dataset
from llmops.registry.promotion import Policy, Promoter
from llmops.registry.stats import Rule, paired_bootstrap
from llmops.registry.workflow import Workflows
from llmops.serving.registry_pages.app import Rooms

FRAUD = Name.parse("dev.fraud.fraud_clf")
PROMPT = Name.parse("dev.docs.answer_prompt")
CHAIN = Name.parse("dev.docs.chat")
HOSTILE = "<script>document.title='owned'</script> & \"quotes\" " + "x" * 120
TEXTS = (
    "Answer from the passages.\nCite each one.\n",
    "Answer from the passages.\nCite each one.\nSay so if none helps.\n",
)


@dataclass
class Story:
    """The registry, who plays in it (with the tokens of their keys), and its workflow runs."""

    registry: Desk
    workflows: Workflows
    people: dict[str, Principal]
    tokens: dict[str, str]
    versions: dict[int, Version]
    waiting: Version
    decision: str
    """The evidence on which version 3 became champion."""
    run_id: str = ""

    def promoter(self, who: str) -> Promoter:
        return Promoter(self.registry, principal=self.people[who])

    def ask(self, starter: str = "deploy") -> Version:
        """One more version that waits for the approval of `risk`."""
        version = seed_more(self.registry, FRAUD)
        self._gates(version, "pass", (0.012, 0.002, 0.022))
        self.promoter(starter).promote(version.ref)
        return version

    def _gates(self, version: Version, verdict: str, effect: tuple[float, float, float]) -> None:
        champion = self.registry.alias(version.name, "champion")
        baseline = None if champion is None else self.registry.resolve(f"{version.name}/{champion.version}")
        self.registry.add_evidence(found(version, actor="gate"))
        self.registry.add_evidence(compared(version, baseline, verdict, effect))


def compared(version: Version, champion: Version | None, verdict: str, effect: tuple[float, float, float]) -> Evidence:
    """What a comparison over held-out rows found."""
    params = {"metric": "average_precision", "margin": 0.005, "bootstrap": 2000}
    return found(
        version, "comparison", verdict, baseline=None if champion is None else Subject.of(champion),
        method=Method(name="paired_bootstrap", version="1", params=params, seed=7), alpha=0.05,
        effect=effect[0], ci_low=effect[1], ci_high=effect[2], n=Counts(champion=8000, challenger=8000),
        data=Data(table="dev.fraud.heldout", version="12", rows=8000, digest="ab" * 32),
    )  # fmt: skip


def _seed_text(registry: Desk, text: str) -> None:
    """A prompt's version, as its registration leaves it."""
    if not any(asset.name == PROMPT for asset in registry.list()):
        row = {"name": str(PROMPT), "kind": "prompt", "created_at": datetime.now(UTC), "created_by": "seed"}
        with registry.sql.begin() as connection:
            connection.execute(tables.assets.insert().values(row))
    with registry.sql.begin() as connection:
        last = connection.execute(select(func.max(tables.versions.c.version)).filter_by(name=str(PROMPT))).scalar() or 0
        values = {
            "name": str(PROMPT), "version": last + 1, "digest": digest(text), "source": "", "description": "",
            "tags": {}, "params": {}, "created_at": datetime.now(UTC), "created_by": "seed", "content": text,
        }  # fmt: skip
        connection.execute(tables.versions.insert().values(values))


def seed_more(registry: Desk, name: Name) -> Version:
    """A further version of an asset, as a registration leaves it."""
    with registry.sql.begin() as connection:
        row = connection.execute(select(tables.versions).where(tables.versions.c.name == str(name))).mappings().all()
        number = len(row) + 1
        values = dict(row[-1]) | {"version": number, "digest": digest(f"{name}/{number}"), "params": {"number": number}}
        connection.execute(tables.versions.insert().values(values))
    return registry.resolve(f"{name}/{number}")


@contextmanager
def story(folder: Path, *, runs: bool = True) -> Iterator[Story]:
    """Tell the whole story in a state folder; `runs` also runs two small workflows, which takes seconds."""
    state = StateConfig(dir=folder)
    people = {"deploy": Principal("svc:deploy", "service"), "gate": Principal("gate", "service")}
    tokens = {}
    with Desk(state, principal=people["deploy"]) as registry, Workflows(state) as workflows:
        for name, groups in (("anna", ["risk"]), ("boris", ["risk"]), ("clara", ["legal"])):
            tokens[name], key = Keys(registry.sql).create(name, scopes=[REGISTRY_SCOPE], groups=groups)
            people[name] = key.principal
        made = seed(registry.sql, str(FRAUD), 6, Kind.MODEL)
        told = Story(registry, workflows, people, tokens, {one.version: one for one in made}, made[5], "")
        tell(told)
        prompts(registry)
        _lineage(registry)
        if runs:
            told.run_id = _runs(folder, state)
        yield told


def tell(told: Story) -> None:
    """From the first champion to the one that waits."""
    deploy = told.promoter("deploy")
    deploy.set_policy("dev.fraud.*", Policy(approvals=("risk",)))
    told.registry.tag(told.versions[1].ref, "note", HOSTILE)
    _promoted(told, 1, (0.31, 0.27, 0.35), "The heuristic it replaces missed half of it")
    told._gates(told.versions[2], "fail", (-0.02, -0.031, -0.009))
    deploy.promote(told.versions[2].ref)
    _promoted(told, 3, (0.021, 0.004, 0.038), HOSTILE)
    held = told.registry.alias(FRAUD, "champion")
    assert held is not None
    told.decision = held.evidence_id
    told._gates(told.versions[4], "inconclusive", (0.004, -0.006, 0.014))
    deploy.promote(told.versions[4].ref)
    deploy.rollback(FRAUD, "It refuses too many payments from Norway")
    _promoted(told, 5, (0.016, 0.006, 0.026), "Norway is mended")
    reported(told)
    deploy.promote(told.waiting.ref)


def reported(told: Story) -> None:
    """Evidence with whole reports beside it, as the gates file them."""
    version, champion = told.waiting, told.versions[5]
    told.registry.add_evidence(found(version, actor="gate"))
    data = Data(table="dev.fraud.heldout", version="12", rows=8000, digest="ab" * 32)
    spec = ComparisonSpec(
        metric="average_precision", claim="not_worse", margin=0.005, data=DataConfig(table=data.table, label="fraud")
    )
    old = [(place * 7919 % 100) / 100 for place in range(200)]
    new = [score + 0.02 + (place % 5) / 100 for place, score in enumerate(old)]
    effect = paired_bootstrap(old, new, Rule(margin=0.005, resamples=500))
    rows = [
        {"metric": "average_precision", "side": side, "slice": name, "n": 8000, "value": value, "interval": interval}
        for side, name, value, interval in (
            ("champion", None, 0.71, [0.69, 0.73]),
            ("challenger", None, 0.744, [0.72, 0.76]),
            ("challenger", "country = '<NO>'", 0.68, None),
        )
    ]
    report = Report(
        "comparison", version, spec, baseline=champion, effect=effect, data=data, started=datetime.now(UTC),
        findings=[
            Finding("effect:average_precision", "pass", "the challenger is not worse", 0.034, "not worse by > 0.005"),
            Finding("guard:recall", "pass", "is not worse where <b>small</b>", 0.01, slice="amount < 10"),
        ],
        figures={
            "metrics": rows,
            "calibration": [{"score": tenth / 10, "share": tenth / 11, "n": 100} for tenth in range(10)],
            "confusion": {"classes": ["fair", "fraud"], "counts": [[7000, 120], [80, 800]]},
        },
    )  # fmt: skip
    file_report(report, told.registry)


def prompts(registry: Desk) -> None:
    """A prompt whose second version changes a line; nobody is asked about it yet."""
    for text in TEXTS:
        _seed_text(registry, text)
    first = registry.resolve(f"{PROMPT}/1")
    registry.point("champion", first.ref, found(first, "registry.bootstrap"), etag=None)
    seed(registry.sql, str(CHAIN), 1, Kind.CHAIN)


def _promoted(told: Story, number: int, effect: tuple[float, float, float], comment: str) -> None:
    version = told.versions[number]
    told._gates(version, "pass", effect)
    told.promoter("deploy").promote(version.ref)
    told.promoter("anna").approve(version.ref, "risk", comment)
    told.promoter("deploy").promote(version.ref)


def _lineage(registry: Desk) -> None:
    registry.link(
        [
            dataset("dev.fraud.payments", 7, "cd" * 32, f"{FRAUD}/6"),
            Edge("run:5f0c2a", Relation.RUN, f"{FRAUD}/6"),
            Edge(f"{PROMPT}@champion", Relation.PROMPT, f"{CHAIN}/1"),
            Edge(f"{FRAUD}/6", Relation.SERVED_BY, "endpoint:fraud"),
        ]
    )


def _runs(folder: Path, state: StateConfig) -> str:
    """One run that waits for somebody, one that a gate refused; gives the first one's id."""
    bench = Bench(folder, state)
    with bench.flows:
        bench.run([task("train"), task("compare", "refuse")], name="fraud_nightly")
        steps = [
            task("train", given={"version": f"{FRAUD}/6", "note": HOSTILE}),
            task("explain", needs=["train"]),
            task("validate", needs=["train"]),
            task("ask", "wait", needs=["explain", "validate"], given={"file": str(folder / "never")}),
        ]
        return bench.run(steps, name="fraud")[0].run_id


@contextmanager
def serving_story(folder: Path, **settings: Any) -> Iterator[tuple[Story, Running]]:
    """A server with the chat and the registry's pages over the story."""
    runs = bool(settings.pop("runs", True))
    with story(folder, runs=runs) as told:
        rooms = Rooms(told.registry, told.workflows)
        with running(folder, Shelf({1: SmallChain}), rooms=rooms, **settings) as server:
            yield told, server
