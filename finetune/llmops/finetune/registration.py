"""From a trained run to a version with evidence: registered, judged, tried in a confined process, made challenger.

Knows the order. Every step may be repeated after a kill: the same weights are the same version, evidence of a result
is filed once. A result that does not pass is registered all the same, with the evidence that refused it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from llmops.core.errors import GateFailedError, UserError
from llmops.core.names import Name
from llmops.finetune import artefact, gate
from llmops.finetune.artefact import Pinned
from llmops.finetune.config import FinetuneConfig
from llmops.finetune.gate import Judged
from llmops.finetune.results import Base, Result
from llmops.finetune.runs import RunFolder
from llmops.registry import Candidate, Kind, Registry, SavedModel, Version
from llmops.registry.bootstrap import CHAMPION
from llmops.registry.gates import Report, ValidationSpec, file_report, validate, write_card
from llmops.registry.gates.environment import environment
from llmops.registry.lineage import Edge, Relation, node
from llmops.registry.promotion import Promoter, Promotion
from llmops.registry.workflow.tasks import OFFLINE

_PACKAGE = "package"
_WORDS = {"fail": "refused", "inconclusive": "held: it could not be decided"}


def register(folder: RunFolder, config: FinetuneConfig, registry: Registry) -> Version:
    """Make a version of a run's result, judge it, and offer it as challenger where it passes.

    The run's record gets the version's name as soon as there is one, also where the gate then refuses it.

    Raises:
        GateFailedError: it did not pass; the version is registered, and its evidence says why.
        UserError: the job names no version to register, or the run's files are unfit.
        NotFoundError: the run has not been trained and evaluated yet.
    """
    result = Result.load(folder)
    version = made(folder, config, result, registry)
    folder.update(version=str(version.ref))
    passed(version, config, result, registry)
    if config.track.promote:
        offer(version, registry)
    return registry.resolve(version.ref)


def made(folder: RunFolder, config: FinetuneConfig, result: Result, registry: Registry) -> Version:
    """The version of a run's files with its lineage; the one there is where these files are registered already."""
    if config.track.register_as is None:
        raise UserError("the job says no name to register as", hint="set track.register_as: docs.assistant")
    base = _placed(result.base, registry)
    package = artefact.write(folder.model, folder.path / _PACKAGE, _pinned(config, replace(result, base=base)))
    version = registry.register(_candidate(folder, config, result, str(package)), crown_first=False)
    registry.link(list(edges(version, replace(result, base=base))))
    return version


def passed(version: Version, config: FinetuneConfig, result: Result, registry: Registry) -> Report:
    """Judge a version by its run's evaluation, and file what was found.

    Raises:
        GateFailedError: the gate refuses it, or cannot decide.
    """
    judged = Judged(version, result.evaluation, datetime.now(UTC), result.digest, _champion(version, registry))
    report = gate.judge(judged, config)
    _file_once(report, registry)
    compared = gate.compare(judged, config)
    if compared is not None:
        _file_once(compared, registry)
    write_card(version, registry)
    _require(report)
    return report


def offer(version: Version, registry: Registry) -> Promotion:
    """Try the version in a confined process, and take it as far as evidence goes: to challenger.

    Raises:
        GateFailedError: it does not load or answer, or something else that is checked of its kind fails.
    """
    if not any(record.gate == "validation" and record.verdict == "pass" for record in registry.evidence(version)):
        report = validate(version, ValidationSpec(state=registry.state), registry)
        file_report(report, registry)
        write_card(version, registry)
        Promoter(registry).promote(version.ref, again=True, within=OFFLINE)
        _require(report)
    return Promoter(registry).promote(version.ref, within=OFFLINE)


def edges(version: Version, result: Result) -> Iterator[Edge]:
    """What the version was made of: base model, data, code, and the tracked run."""
    ref, base = str(version.ref), result.base
    if base is not None:
        detail = {"digest": base.digest, "revision": base.revision, "licence": base.licence, "uri": base.uri}
        upstream = base.version or node(Relation.BASE_MODEL, base.uri[:300], base.revision or base.digest[:12])
        yield Edge(upstream, Relation.BASE_MODEL, ref, {key: value for key, value in detail.items() if value})
    for one in result.data:
        told = {"table": one.uri, "version": one.version, "digest": one.digest, "rows": one.rows, "use": one.use}
        upstream = node(Relation.DATASET, one.uri[:300], one.version or one.digest[:12])
        yield Edge(upstream, Relation.DATASET, ref, told)
    if (revision := environment().git) is not None:
        yield Edge(node(Relation.CODE, revision), Relation.CODE, ref, {"git": revision})
    if result.tracked is not None:
        yield Edge(node(Relation.RUN, result.tracked), Relation.RUN, ref, {"catalog": version.name.catalog})


def _pinned(config: FinetuneConfig, result: Result) -> Pinned:
    return Pinned(
        task=config.task,
        method=config.method.kind,
        base=result.base,
        template=result.template,
        merge=config.target.merge,
        max_new_tokens=config.generation.max_new_tokens,
    )


def _candidate(folder: RunFolder, config: FinetuneConfig, result: Result, package: str) -> Candidate:
    adapter = artefact.is_adapter(folder.model)
    if adapter and result.base is None:
        raise UserError("an adapter needs the base it was trained on", where=str(folder.path))
    return Candidate(
        Kind.ADAPTER if adapter else Kind.LLM,
        Name.parse(str(config.track.register_as)),
        SavedModel(package),
        description=_described(config, result),
        tags=_tags(config, result),
        params=_shown(folder, config, result),
        run_id=result.tracked,
    )


def _described(config: FinetuneConfig, result: Result) -> str:
    rows = sum(one.rows for one in result.data if one.use == "train")
    what = "Weights" if config.method.kind == "full" else f"An adapter ({config.method.kind})"
    of = "made from nothing" if result.base is None else f"of `{result.base.version or result.base.uri}`"
    return f"{what} {of}, trained by {config.task} on {rows:,} rows; {result.evaluation.examples} examples held out."


def _tags(config: FinetuneConfig, result: Result) -> dict[str, str]:
    tags: dict[str, str] = {"task": config.task, "method": config.method.kind}
    if result.base is not None:
        tags["base"] = (result.base.version or result.base.uri)[:500]
        if result.base.licence is not None:
            tags["base_license"] = result.base.licence
    return tags


def _shown(folder: RunFolder, config: FinetuneConfig, result: Result) -> dict[str, Any]:
    """What is worth comparing between versions."""
    shown: dict[str, Any] = {
        "run": folder.run_id,
        "task": config.task,
        "method": config.method.kind,
        "lr": config.train.lr,
        "seed": config.train.seed,
        "budget": config.train.budget.model_dump(exclude_none=True),
        "data": {one.uri: one.version or one.digest[:12] for one in result.data},
        "identity": config.identity,
    }
    if config.method.kind not in ("full", "ia3"):
        shown |= {"r": config.method.r, "alpha": config.method.alpha}
    means = {one.metric: sum(one.after) / len(one.after) for one in result.evaluation.scores if one.after}
    return shown | {f"heldout.{metric}": round(value, 6) for metric, value in means.items()}


def _placed(base: Base | None, registry: Registry) -> Base | None:
    """A registered base with the digest under which the cache has its files: behind fences no database is asked."""
    if base is None or base.version is None:
        return base
    version = registry.resolve(base.version)
    return replace(base, version=str(version.ref), files=version.artifact_digest)


def _champion(version: Version, registry: Registry) -> Version | None:
    alias = registry.alias(version.name, CHAMPION)
    if alias is None or alias.version == version.version:
        return None
    return registry.resolve(f"{version.name}/{alias.version}")


def _file_once(report: Report, registry: Registry) -> None:
    """File a report, unless one of the same gate, result and champion is there."""
    baseline = None if report.baseline is None else report.baseline.version
    for record in registry.evidence(report.version):
        about = record.method.params.get("facts", {}).get("result")
        beside = None if record.baseline is None else record.baseline.version
        if (record.gate, about, beside) == (report.gate, report.facts["result"], baseline):
            return
    file_report(report, registry)


def _require(report: Report) -> None:
    """Raises GateFailedError where the verdict is no pass."""
    if report.verdict == "pass":
        return
    found = [finding for finding in report.findings if finding.verdict == report.verdict]
    hints = [finding.hint for finding in found if finding.hint]
    raise GateFailedError(
        f"{report.version.ref} is {_WORDS[report.verdict]} by the gate `{report.gate}`: "
        + "; ".join(finding.what for finding in found[:3]),
        where=str(report.version.ref),
        hint="; ".join(dict.fromkeys([*hints[:2], f"`llmops models show {report.version.ref}` has the evidence"])),
    )
