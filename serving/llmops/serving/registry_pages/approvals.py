"""What waits for whose approval, what was said so far, and why whoever looks may not speak; and speaking itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmops.core.errors import IntegrityError, LlmopsError, UserError, did_you_mean
from llmops.registry.evidence import Filed
from llmops.registry.promotion.approvals import APPROVE, DENY, REVOKE
from llmops.registry.promotion.machine import Wait
from llmops.registry.promotion.planning import Plan
from llmops.registry.promotion.records import Approval, Promotion
from llmops.registry.promotion.states import State
from llmops.serving.registry_pages.desk import Asked
from llmops.serving.registry_pages.versions import word_json

COMMENT_CHARS = 2000
_BEFORE_END = frozenset({State.APPROVED, State.READY_TESTING, State.READY, State.SHADOW, State.CANARY, State.HELD})


@dataclass(frozen=True)
class GroupLine:
    """One group that is asked: what its people said, and why whoever looks can't speak for it (None: they can)."""

    group: str
    words: list[Approval]
    waits: bool
    why: str
    objection: LlmopsError | None
    mine: bool

    def as_json(self) -> dict[str, Any]:
        return {
            "group": self.group,
            "waits": self.waits,
            "why": self.why,
            "said": [word_json(word) for word in self.words],
            "objection": self.objection.as_json()["error"] if self.objection else None,
        }


@dataclass(frozen=True)
class Case:
    """One promotion that asks people."""

    promotion: Promotion
    plan: Plan | None
    problem: IntegrityError | None
    groups: list[GroupLine]
    evidence: dict[str, Filed]

    @property
    def heard(self) -> bool:
        """Whether somebody has said something that counts."""
        return any(group.words for group in self.groups)

    def as_json(self) -> dict[str, Any]:
        return {
            "promotion": self.promotion.as_json(),
            "plan": self.plan.as_json() if self.plan else None,
            "problem": self.problem.as_json()["error"] if self.problem else None,
            "evidence": [filed.as_json() for filed in self.evidence.values()],
            "groups": [group.as_json() for group in self.groups],
        }


@dataclass(frozen=True)
class ApprovalsPage:
    """`waiting` asks for a word, `heard` had it; `done` was just spoken about, or `problem` says why not."""

    waiting: list[Case]
    heard: list[Case]
    done: Promotion | None = None
    problem: LlmopsError | None = None
    form: Mapping[str, str] | None = None

    def as_json(self) -> dict[str, Any]:
        return {"waiting": [case.as_json() for case in self.waiting], "heard": [case.as_json() for case in self.heard]}


def approvals_page(
    asked: Asked, problem: LlmopsError | None = None, form: Mapping[str, str] | None = None
) -> ApprovalsPage:
    """What waits for approval, longest first, and what was approved and is on its way."""
    states = [promotion for promotion in asked.promoter.states() if promotion.policy.approvals]
    done = next((promotion for promotion in states if str(promotion.ref) == asked.word("done")), None)
    waiting = [_case(asked, item) for item in states if item.state is State.AWAITING_APPROVAL]
    heard = [case for item in states if item.state in _BEFORE_END and (case := _case(asked, item)).heard]
    return ApprovalsPage(sorted(waiting, key=lambda case: case.promotion.changed_at), heard, done, problem, form)


def speak(asked: Asked, form: Mapping[str, str]) -> Promotion:
    """Approve, deny or take back, in the name of whoever asks.

    Raises:
        UserError: no such word, or the promotion does not wait for it.
        DeniedError: this principal can't say it.
        ConflictError: somebody moved the promotion at the same moment.
    """
    ref, group, decision = (form.get(name, "") for name in ("ref", "group", "decision"))
    comment = form.get("comment", "").strip()
    if len(comment) > COMMENT_CHARS:
        raise UserError(f"a comment has {COMMENT_CHARS} characters at most", where="comment", hint="shorten it")
    acts = {APPROVE: asked.promoter.approve, DENY: asked.promoter.deny, REVOKE: asked.promoter.revoke}
    if decision not in acts:
        raise UserError(
            f"`{decision[:40]}` is not something to say about a promotion", where="decision",
            hint=did_you_mean(decision, acts) or "say approve, deny or revoke",
        )  # fmt: skip
    if "/" not in ref:
        raise UserError("say which version is meant", where="ref", hint="write NAME/3")
    return acts[decision](ref, group, comment)


def _case(asked: Asked, promotion: Promotion) -> Case:
    plan, problem = None, None
    try:
        plan = asked.promoter.plan(promotion.ref)
    except IntegrityError as error:
        problem = error
    words = asked.promoter.words(promotion)
    due = plan.due if plan else None
    needs = {need.group: need.why for need in due.needs} if isinstance(due, Wait) else {}
    groups = [_group(asked, promotion, group, words, needs) for group in promotion.policy.approvals]
    ids = [found.evidence_id for found in plan.gates.values() if found.evidence_id] if plan else []
    return Case(promotion, plan, problem, groups, {one: asked.registry.filed_evidence(one) for one in ids})


def _group(
    asked: Asked, promotion: Promotion, group: str, words: list[Approval], needs: Mapping[str | None, str]
) -> GroupLine:
    said = [word for word in words if word.group == group]
    return GroupLine(
        group=group,
        words=said,
        waits=promotion.state is State.AWAITING_APPROVAL and group in needs,
        why=needs.get(group, ""),
        objection=asked.promoter.objection(promotion, group),
        mine=any(word.by == asked.principal.id for word in said),
    )
