"""Who may speak for a group about a version, what they said, and whether it still counts.

Knows rows and rules: a member of the group, never the version's creator nor whoever started the promotion, each group
by another person. A denial ends the promotion; an approval may be revoked, and runs out.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from llmops.core.errors import DeniedError, UserError, did_you_mean
from llmops.registry import lineage, sequence
from llmops.registry.authority import Authority
from llmops.registry.promotion.machine import Group
from llmops.registry.promotion.records import Approval, Promotion
from llmops.registry.promotion.states import State
from llmops.registry.promotion.tables import approvals

APPROVE, DENY, REVOKE = "approve", "deny", "revoke"
_BEFORE = frozenset({State.REGISTERED, State.VALIDATING, State.VALIDATED})


@dataclass(frozen=True)
class Said:
    """What somebody says for a group, before it is written down."""

    group: str
    decision: str
    comment: str
    at: datetime
    by: str


def of_promotion(connection: Connection, promotion_id: str) -> list[Approval]:
    """Everything said about one promotion, oldest first."""
    query = select(approvals).where(approvals.c.promotion_id == promotion_id).order_by(approvals.c.approval_id)
    return [_approval(row) for row in connection.execute(query)]


def of_asset(connection: Connection, name: str) -> list[Approval]:
    """Everything said about an asset's promotions, oldest first."""
    query = select(approvals).where(approvals.c.name == name).order_by(approvals.c.approval_id)
    return [_approval(row) for row in connection.execute(query)]


def standing(connection: Connection, promotion: Promotion, *, now: datetime) -> dict[str, Group]:
    """How each group of the promotion's policy stands."""
    said = _words(connection, promotion)
    return {group: _stand(group, said, promotion, now) for group in promotion.policy.approvals}


def in_force(said: list[Approval]) -> list[Approval]:
    """Of each person the last word for each group; what was revoked is gone."""
    last = {(item.group, item.by): item for item in said}
    return [item for item in last.values() if item.decision != REVOKE]


def check(connection: Connection, authority: Authority, promotion: Promotion, said: Said) -> None:
    """Pass only a word that may be said: by a member of the group, about somebody else's work, while it matters.

    Raises:
        UserError: the promotion has ended, does not ask this group, or is not yet or no more waiting for its word.
        DeniedError: not a member, the version's creator, the promotion's starter, or heard for another group.
    """
    policy, where = promotion.policy, str(promotion.ref)
    if said.group not in policy.approvals:
        known = ", ".join(policy.approvals)
        hint = did_you_mean(said.group, policy.approvals) or f"it asks {known or 'no group at all'}"
        raise UserError(f"this promotion does not ask the group `{said.group}`", where=where, hint=hint)
    if promotion.ended:
        raise UserError(f"this promotion has ended: it is {promotion.state.phrase}", where=where)
    if said.decision == REVOKE:
        if not any(item.by == said.by and item.group == said.group for item in _words(connection, promotion)):
            raise UserError(f"`{said.by}` has said nothing for `{said.group}` that could be taken back", where=where)
        return
    if (promotion.held_from or promotion.state) in _BEFORE:
        raise UserError(
            f"this promotion does not wait for approval yet: it is {promotion.state.phrase}",
            where=where,
            hint=f"llmops promote {promotion.ref} --plan shows what it needs first",
        )
    _member(connection, authority, promotion, said.group)
    _other_hands(connection, promotion, said)


def _member(connection: Connection, authority: Authority, promotion: Promotion, group: str) -> None:
    """Members of a group speak for it; once access is enforced, others where its governed tag was granted to them."""
    principal, where = authority.principal, str(promotion.ref)
    if not authority.access.enforced(connection):
        if group not in principal.groups:
            raise DeniedError(f"`{principal.id}` is not in the group `{group}`", where=where)
        return
    authority.access.require_approver(connection, principal, promotion.name, group)


def _other_hands(connection: Connection, promotion: Promotion, said: Said) -> None:
    """Nobody approves their own work, and each group is spoken for by another person; as far as the policy says so."""
    policy, who, where = promotion.policy, said.by, str(promotion.ref)
    if not policy.self_approval and who in {promotion.started_by, *lineage.creators(connection, promotion.ref)}:
        raise DeniedError(
            f"`{who}` made this version or started its promotion, and can't approve it",
            where=where,
            hint=f"ask somebody else of the group `{said.group}`",
            code="self_approval",
        )
    others = [item.group for item in _words(connection, promotion) if item.by == who and item.group != said.group]
    if policy.distinct_approvers and others:
        raise DeniedError(
            f"`{who}` already spoke for `{others[0]}`; each group needs another person",
            where=where,
            code="same_approver",
        )


def _words(connection: Connection, promotion: Promotion) -> list[Approval]:
    return in_force(of_promotion(connection, promotion.promotion_id))


def record(connection: Connection, promotion: Promotion, said: Said) -> Approval:
    """Write down what was said, in its asset's order."""
    number = sequence.next_id(connection, promotion.name)
    connection.execute(
        insert(approvals).values(
            approval_id=number,
            promotion_id=promotion.promotion_id,
            name=str(promotion.name),
            version=promotion.version,
            approver_group=said.group,
            decision=said.decision,
            comment=said.comment,
            at=said.at,
            by=said.by,
        )
    )
    return Approval(
        number,
        promotion.promotion_id,
        promotion.version,
        said.group,
        said.decision,
        said.comment,
        said.at,
        said.by,
    )


def _stand(group: str, said: list[Approval], promotion: Promotion, now: datetime) -> Group:
    mine = [item for item in said if item.group == group]
    denial = next((item for item in mine if item.decision == DENY), None)
    if denial is not None:
        return Group(denied=True, why=f"{group} denied it ({denial.by}): {denial.comment or 'no comment'}")
    valid_s = promotion.policy.approval_valid_s
    fresh = [item for item in mine if valid_s is None or now - item.at <= timedelta(seconds=valid_s)]
    if fresh:
        return Group(approved=True)
    return Group(why=f"the approval of {group} ran out" if mine else f"{group} has not approved yet")


def _approval(row: Row[Any]) -> Approval:
    values = row._asdict()
    values["group"] = values.pop("approver_group")
    values.pop("name")
    return Approval(**values)
