"""The built-in tasks, from validate to retrain. Thin: gates look, promotion decides.

Each may be killed and repeated at any point: what was filed counts once more, what was moved is found moved. A version
is `version: dev.fraud.clf/3`, or of two levels in the run's catalog.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from llmops.core.errors import ConfigError, GateFailedError, UserError
from llmops.core.names import Name, Ref
from llmops.core.positions import load_yaml
from llmops.registry.promotion.states import LIVE, STOPPED, State
from llmops.registry.workflow.context import TaskContext, Waiting

if TYPE_CHECKING:
    from llmops.registry.assets import Registry
    from llmops.registry.gates import Report
    from llmops.registry.promotion import Promotion
    from llmops.registry.records import Version

OFFLINE = frozenset({State.VALIDATING, State.VALIDATED, State.REJECTED, State.HELD})
"""What the gates of a workflow move by themselves; the rest is for people, and for `deploy`."""
HEARING = OFFLINE | {State.AWAITING_APPROVAL, State.APPROVED, State.DENIED}
_OWN = ("version", "config")
Spec = TypeVar("Spec", bound=BaseModel)


def validate(context: TaskContext) -> dict[str, Any]:
    """Look at a version by itself; settings: those of `job: validation`, or `config:` with its file, or both.

    Raises:
        GateFailedError: it does not pass, or nothing could be decided.
    """
    from llmops.registry.gates import ValidationSpec
    from llmops.registry.gates import validate as check

    with _registry(context) as registry:
        version = registry.resolve(_ref(context))
        if _is_champion(registry, version):
            return {"version": str(version.ref), "verdict": "pass", "champion": True}
        report = check(version, _spec(ValidationSpec, context), registry)
        return _concluded(report, registry, again=True)


def compare(context: TaskContext) -> dict[str, Any]:
    """Compare a version with the champion, or with a heuristic; settings: those of `job: comparison`, or `config:`.

    Raises:
        GateFailedError: it is not better, or nothing could be decided.
    """
    from llmops.registry.gates import ComparisonSpec
    from llmops.registry.gates import compare as check

    with _registry(context) as registry:
        version = registry.resolve(_ref(context))
        if _is_champion(registry, version):
            return {"version": str(version.ref), "verdict": "pass", "champion": True}
        report = check(version, None, _spec(ComparisonSpec, context), registry)
        return _concluded(report, registry, again=False)


def approval(context: TaskContext) -> dict[str, Any] | Waiting:
    """Wait until a group has approved; settings: `version`, `group` (default: the task's name after `approval_`).

    Raises:
        GateFailedError: a group said no, or a gate did.
        UserError: the asset's policy does not ask this group.
    """
    group = str(context.settings.get("group") or context.task.removeprefix("approval").lstrip("_"))
    with _registry(context) as registry:
        version = registry.resolve(_ref(context))
        if _is_champion(registry, version):
            return {"version": str(version.ref), "approved": True, "champion": True}
        promotion = _promoter(registry).promote(version.ref, within=HEARING)
        if group not in promotion.policy.approvals:
            asked = ", ".join(promotion.policy.approvals) or "no group"
            hint = f"name the group in `approvals` of the asset's policy; it asks {asked}"
            raise UserError(f"this promotion does not ask the group `{group}`", where=str(version.ref), hint=hint)
        _require_on_its_way(promotion)
        if any(need.group == group for need in promotion.needs):
            reason = f"`{group}` has to approve {version.ref}: llmops approve {version.ref} --group {group}"
            return Waiting(reason, on=approval_word(version.ref))
    return {"version": str(version.ref), "approved": True, "group": group}


def deploy(context: TaskContext) -> dict[str, Any] | Waiting:
    """Make a version champion, as far as its policy allows now; waits for people and for live traffic.

    Raises:
        GateFailedError: a gate or a group said no, or a gate was not asked.
    """
    with _registry(context) as registry:
        version = registry.resolve(_ref(context))
        if _is_champion(registry, version) and not _was_promoted(registry, version):
            return {"version": str(version.ref), "champion": str(version.ref), "promoted": False}
        promotion = _promoter(registry).promote(version.ref)
    return _deployed(version, promotion)


def _deployed(version: Version, promotion: Promotion) -> dict[str, Any] | Waiting:
    """What came of a promotion, or what it waits for.

    Raises:
        GateFailedError: a gate or a group said no, or a gate was not asked.
    """
    told = {"version": str(version.ref), "state": promotion.state.value, "evidence_id": promotion.evidence_id}
    if promotion.state is State.PROMOTED:
        return {**told, "champion": str(version.ref), "promoted": True}
    groups = [need.group for need in promotion.needs if need.group is not None]
    if groups:
        reason = f"{', '.join(f'`{group}`' for group in groups)} has to approve {version.ref}"
        return Waiting(reason, on=approval_word(version.ref))
    if promotion.state in LIVE:
        return Waiting(f"{version.ref} is on trial in live traffic: {promotion.state.phrase}")
    _require_on_its_way(promotion)
    missing = "; ".join(f"{need.what}: {need.why}" for need in promotion.needs)
    raise GateFailedError(f"{version.ref} may not be deployed yet: {missing}", where=str(version.ref))


def register(context: TaskContext) -> dict[str, Any]:
    """Register a prompt (`text:` or `file:`) or a saved model (`uri:`) as a version of `asset`; crowns nobody."""
    from llmops.registry.records import Candidate, Kind, PromptText, SavedModel

    settings = dict(context.settings)
    name = Name.parse(str(settings.pop("asset", "")))
    artifact: SavedModel | PromptText
    if "uri" in settings:
        kind, artifact = Kind.MODEL, SavedModel(str(settings.pop("uri")))
    elif "file" in settings or "text" in settings:
        text = settings.pop("text", None) or Path(str(settings.pop("file"))).read_text(encoding="utf-8")
        kind, artifact = Kind.PROMPT, PromptText(str(text))
    else:
        raise UserError("nothing to register", where=f"task `{context.task}`", hint="give `text`, `file` or `uri`")
    description, tags = str(settings.pop("description", "")), settings.pop("tags", None) or {}
    if settings or not isinstance(tags, dict):
        raise UserError(f"unknown settings: {', '.join(settings) or 'tags'}", where=f"task `{context.task}`")
    words = {key: str(value) for key, value in tags.items()}
    with _registry(context) as registry:
        candidate = Candidate(kind, name, artifact, description=description, tags=words)
        version = registry.register(candidate, crown_first=False)
    return {"version": str(version.ref), "digest": version.digest}


def retrain(context: TaskContext) -> dict[str, Any]:
    """Start a run of another workflow (`config:` its file; `params`, `key`, `note`), under its cool-down, once."""
    from llmops.registry.workflow.door import Workflows
    from llmops.registry.workflow.job import load_job
    from llmops.registry.workflow.trigger import Sender, TriggerRequest, admit

    settings = dict(context.settings)
    job = load_job(Path(str(settings.get("config"))))
    wanted = {key: settings[key] for key in ("params", "key", "note") if settings.get(key) is not None}
    request = TriggerRequest.model_validate({"id": context.token, "note": f"from {context.workflow}", **wanted})
    sender = Sender(f"workflow:{context.workflow}", "", context.principal, "retrain")
    with Workflows(context.state, principal=context.principal) as flows:
        admitted = admit(flows, job, request, sender)
    return {"status": admitted.outcome, "run_id": admitted.run_id}


def approval_word(ref: Ref) -> str:
    """What a run waits for while it waits for approvals of a version; `Workflows.wake` takes it."""
    return f"approval:{ref}"


def _registry(context: TaskContext) -> Registry:
    from llmops.registry.assets import Registry

    return Registry(context.state, principal=context.principal)


def _promoter(registry: Registry) -> Any:
    from llmops.registry.promotion import Promoter

    return Promoter(registry)


def _ref(context: TaskContext) -> Ref:
    given = context.settings.get("version")
    if not isinstance(given, str):
        raise UserError(
            "the task needs a version", where=f"task `{context.task}`", hint='with: {version: "${train.version}"}'
        )
    return Ref.parse(given)


def _spec(model: type[Spec], context: TaskContext) -> Spec:
    """The gate's specification: the file's, the task's own settings laid over it, in the run's state.

    Raises:
        ConfigError: what is wrong with it.
    """
    given = {key: value for key, value in context.settings.items() if key not in _OWN}
    config = context.settings.get("config")
    base: Mapping[str, Any] = load_yaml(Path(str(config))).values if config is not None else {}
    try:
        return model.model_validate({**base, **given, "state": context.state})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = f"task `{context.task}`, with.{'.'.join(map(str, problem['loc']))}"
        raise ConfigError(f"{problem['msg'][:1].lower()}{problem['msg'][1:]}", where=where) from error


def _is_champion(registry: Registry, version: Version) -> bool:
    alias = registry.alias(version.name, "champion")
    return alias is not None and alias.version == version.version


def _was_promoted(registry: Registry, version: Version) -> bool:
    """Whether it became champion by a promotion: perhaps by an earlier attempt of this very task."""
    standing = _promoter(registry).status(version.name)
    return any(one.version == version.version and one.state is State.PROMOTED for one in standing)


def _concluded(report: Report, registry: Registry, *, again: bool) -> dict[str, Any]:
    """File a report, write the card, and let the promotion know; a verdict other than a pass ends the run."""
    from llmops.registry.gates import file_report, write_card

    evidence_id = file_report(report, registry)
    ref = report.version.ref
    card = write_card(registry.resolve(ref), registry)
    promotion = _promoter(registry).promote(ref, again=again, within=OFFLINE)
    if report.verdict != "pass":
        found = [finding.what for finding in report.findings if finding.verdict == report.verdict]
        raise GateFailedError(
            f"the {report.gate} of {ref} is {_WORDS[report.verdict]}: {'; '.join(found[:3])}",
            where=str(ref),
            hint=f"`llmops models show {ref}` has the evidence {evidence_id[:12]}; the card is {card.page}",
        )
    return {
        "version": str(ref),
        "verdict": report.verdict,
        "evidence_id": evidence_id,
        "state": promotion.state.value,
        "baseline": None if report.baseline is None else str(report.baseline.ref),
    }


_WORDS = {"fail": "a fail", "inconclusive": "inconclusive"}


def _require_on_its_way(promotion: Promotion) -> None:
    """Raises GateFailedError where the promotion was refused or withdrawn, or is held."""
    if promotion.state in STOPPED or promotion.state is State.HELD:
        raise GateFailedError(
            f"{promotion.ref} is {promotion.state.phrase}: {promotion.why or 'its evidence does not pass'}",
            where=str(promotion.ref),
            hint=f"`llmops models show {promotion.ref}` has the evidence",
        )
