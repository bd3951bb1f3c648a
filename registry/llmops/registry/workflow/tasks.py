"""The tasks that every workflow knows by name: look at a version, compare it, wait for people, make it champion.

Each is a few calls of `gates` and `promotion`, in the name of whoever asked for the run, and may be repeated after an
interruption. They decide nothing: the gates find, the promotion's policy rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from llmops.core.errors import ConfigError, GateFailedError
from llmops.core.names import Name, Ref
from llmops.registry.assets import Registry
from llmops.registry.promotion import Promoter, Promotion, State
from llmops.registry.promotion.states import FAILED
from llmops.registry.records import Candidate, Kind, SavedModel
from llmops.registry.workflow.context import TaskContext, Waiting

if TYPE_CHECKING:
    from llmops.registry.gates import Report

Settings = TypeVar("Settings", bound=BaseModel)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ValidateSettings(_Section):
    """Of `validate`: the version, groups that must approve beside those of the policy, and what is checked."""

    version: str
    approvals: tuple[str, ...] = ()
    checks: dict[str, Any] = {}


class CompareSettings(_Section):
    """Of `compare`: the version, and what is compared. The other side is the champion, else the `baseline`."""

    version: str
    by: dict[str, Any]


class ApprovalSettings(_Section):
    version: str
    group: str


class DeploySettings(_Section):
    version: str


class RegisterSettings(_Section):
    """Of `register`: a model that MLflow has saved (`runs:/...`, `models:/...`, or a folder)."""

    asset: str
    uri: str
    kind: Kind = Kind.MODEL
    description: str = ""
    tags: dict[str, str] = {}


def register(context: TaskContext) -> dict[str, Any]:
    """Register a saved model; gives its `version`. The first one is not crowned: it goes the way of every version."""
    settings = _read(RegisterSettings, context)
    name = settings.asset if settings.asset.count(".") == 2 else f"{context.catalog}.{settings.asset}"
    candidate = Candidate(
        settings.kind,
        Name.parse(name),
        SavedModel(settings.uri),
        description=settings.description,
        tags=settings.tags,
    )
    with _acting(context) as desk:
        return {"version": str(desk.registry.register(candidate, crown_first=False).ref)}


def validate(context: TaskContext) -> dict[str, Any]:
    """Check a version by itself, file what was found, and begin its promotion: on a pass it is challenger.

    Raises:
        GateFailedError: it did not pass; the promotion is rejected, or held where the gate could not decide.
    """
    from llmops.registry.gates import ValidationSpec
    from llmops.registry.gates import validate as check

    settings = _read(ValidateSettings, context)
    spec = _spec(ValidationSpec, settings.checks, context, "checks")
    with _acting(context) as desk:
        return desk.conclude(check(settings.version, spec, desk.registry), settings.approvals)


def compare(context: TaskContext) -> dict[str, Any]:
    """Compare a version with the champion, or with the baseline where there is none, and file what was found.

    Raises:
        GateFailedError: it is not shown to be as good as asked; the champion stays.
    """
    from llmops.registry.gates import ComparisonSpec
    from llmops.registry.gates import compare as check

    settings = _read(CompareSettings, context)
    spec = _spec(ComparisonSpec, settings.by, context, "by")
    with _acting(context) as desk:
        report = check(settings.version, None, spec, desk.registry)
        if report.verdict == "pass":
            return desk.file(report)
        return desk.conclude(report)


def approval(context: TaskContext) -> dict[str, Any] | Waiting:
    """Wait until somebody of the group approved the version.

    Raises:
        GateFailedError: somebody said no, or another gate did.
        ConfigError: the promotion does not ask this group.
    """
    settings = _read(ApprovalSettings, context)
    with _acting(context) as desk:
        promotion = desk.stand(settings.version)
        if settings.group not in promotion.policy.approvals:
            raise ConfigError(
                f"the promotion of {settings.version} asks for no approval of `{settings.group}`",
                where=context.task,
                hint=f"name it where the promotion begins, in `validate`: with: {{approvals: [{settings.group}]}}",
            )
        if promotion.state is State.VALIDATED:
            promotion = desk.promoter.promote(settings.version)
        desk.refuse(promotion)
        if any(need.group == settings.group for need in promotion.needs):
            command = f"llmops approve {settings.version} --group {settings.group}"
            return Waiting(f"{settings.group} has to approve: {command}", on=f"approval:{settings.version}")
        return {"version": settings.version, "group": settings.group}


def deploy(context: TaskContext) -> dict[str, Any] | Waiting:
    """Make the version champion, if all that its policy asks for is there; a repeat finds it champion already.

    Raises:
        GateFailedError: something is missing or said no.
    """
    settings = _read(DeploySettings, context)
    with _acting(context) as desk:
        promotion = desk.stand(settings.version)
        if promotion.state is not State.PROMOTED:
            promotion = desk.promoter.promote(settings.version)
        desk.refuse(promotion)
        if promotion.state is not State.PROMOTED:
            missing = "; ".join(need.why for need in promotion.needs)
            if any(need.group is None for need in promotion.needs):
                raise GateFailedError(f"{settings.version} is {promotion.state.phrase}: {missing}", where=context.task)
            return Waiting(missing, on=f"approval:{settings.version}")
        return {"champion": settings.version, "state": promotion.state.value}


@dataclass
class _Desk:
    """What the tasks work with: the registry and its promoter, as the principal of the run."""

    registry: Registry
    promoter: Promoter

    def file(self, report: Report) -> dict[str, Any]:
        """File a report and write the version's card."""
        from llmops.registry.gates import file_report, write_card

        evidence_id = file_report(report, self.registry)
        card = write_card(self.registry.resolve(report.version.ref), self.registry)
        return {
            "version": str(report.version.ref),
            "verdict": report.verdict,
            "evidence_id": evidence_id,
            "card": str(card.page),
        }

    def conclude(self, report: Report, approvals: tuple[str, ...] = ()) -> dict[str, Any]:
        """File a report, and take the promotion as far as it now goes.

        Raises:
            GateFailedError: the report does not pass, or the promotion is refused.
        """
        filed = self.file(report)
        promotion = self.promoter.promote(report.version.ref, again=report.gate == "validation", approvals=approvals)
        if report.verdict != "pass":
            said = "; ".join(finding.what for finding in report.findings if finding.verdict == report.verdict)
            raise GateFailedError(
                f"{report.gate} of {report.version.ref}: {report.verdict}: {said}"[:1000],
                where=f"evidence {filed['evidence_id']}",
                hint=f"`llmops models show {report.version.ref}`, or its card: {filed['card']}",
            )
        self.refuse(promotion)
        return filed | {"state": promotion.state.value}

    def stand(self, version: str) -> Promotion:
        """Where the version's promotion stands.

        Raises:
            GateFailedError: it has none: nothing has looked at the version.
        """
        ref = Ref.parse(version)
        for promotion in self.promoter.status(ref.name):
            if promotion.version == ref.version:
                return promotion
        raise GateFailedError(f"{version} was not validated", where=version, hint="put `validate` before this task")

    def refuse(self, promotion: Promotion) -> None:
        """Fail where the promotion was refused or is held.

        Raises:
            GateFailedError: says why.
        """
        if promotion.state in FAILED or promotion.state is State.HELD:
            why = promotion.why or "; ".join(need.why for need in promotion.needs)
            raise GateFailedError(
                f"{promotion.ref} is {promotion.state.phrase}: {why}",
                where=f"evidence {promotion.evidence_id}" if promotion.evidence_id else str(promotion.ref),
                hint=f"`llmops models history {promotion.name}` tells how it came to this",
            )


@contextmanager
def _acting(context: TaskContext) -> Iterator[_Desk]:
    with Registry(context.state, principal=context.principal) as registry:
        yield _Desk(registry, Promoter(registry))


def _read(model: type[Settings], context: TaskContext) -> Settings:
    try:
        return model.model_validate(dict(context.settings))
    except ValidationError as error:
        raise _wrong(error, f"{context.task}.with") from error


def _spec(model: type[Settings], given: Mapping[str, Any], context: TaskContext, key: str) -> Settings:
    try:
        return model.model_validate({**given, "state": context.state})
    except ValidationError as error:
        raise _wrong(error, f"{context.task}.with.{key}") from error


def _wrong(error: ValidationError, where: str) -> ConfigError:
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return ConfigError(f"`{place}`: {first['msg'].lower()}", where=where)
