"""One change of state, done so that a kill at any point leaves it whole or undone.

The order is: guard, intent on record, then one transaction of guard again, compare-and-set, effect and outcome.
MLflow's copies follow after the commit. Knows this order; what each part does is its own room's matter.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Connection

from llmops.core.sql import Sql
from llmops.registry import sequence
from llmops.registry.access import Privilege
from llmops.registry.authority import Authority
from llmops.registry.bootstrap import CHAMPION
from llmops.registry.promotion import effects, findings, rows
from llmops.registry.promotion.machine import Step, Wait, decide
from llmops.registry.promotion.records import Promotion
from llmops.registry.promotion.states import FAILED, State

_ACTIONS = {State.PROMOTED: "deploy", State.CANARY: "weight"} | dict.fromkeys(FAILED, "reject")


class Transitions:
    """Takes promotions from state to state, in the name of one principal."""

    def __init__(self, sql: Sql, authority: Authority) -> None:
        self._sql = sql
        self._authority = authority

    def due(self, promotion: Promotion) -> Step | Wait:
        """What comes next for a promotion, as things stand now.

        Raises:
            IntegrityError: an evidence record is not what was filed.
        """
        with self._sql.read() as connection:
            return guard(connection, promotion)

    def take(self, promotion: Promotion, due: Step) -> Promotion | None:
        """Take the step; None where, looked at again inside the transaction, another one is due.

        What only follows from people's words is drawn by whoever comes first; for the others it is done already.

        Raises:
            ConflictError: somebody moved the promotion first.
            DeniedError: the principal may not.
        """
        params = {"promotion_id": promotion.promotion_id, "from": promotion.state.value, "to": due.to.value}
        action = _ACTIONS.get(due.to, "promote")
        with self._authority.acting(action, promotion.ref, params) as acting, self._sql.begin() as connection:
            sequence.lock(connection, promotion.name)
            self._require(connection, promotion, due)
            drawn = _follows_from_a_word(promotion, due) and not rows.unmoved(connection, promotion)
            if not drawn:
                rows.same(connection, promotion)
            if drawn or guard(connection, promotion) != due:
                acting.concluded(connection, result={"overtaken": True})
                return None
            filed = effects.apply(connection, promotion, due, actor=self._authority.actor)
            change = rows.Change(due.to, due.step, filed, due.why)
            moved = rows.swap(connection, promotion, change, actor=self._authority.actor)
            acting.concluded(connection, result={"state": moved.state.value}, evidence_id=filed[-1] if filed else None)
        return moved

    def _require(self, connection: Connection, promotion: Promotion, due: Step) -> None:
        if _follows_from_a_word(promotion, due):
            return
        self._authority.require_writer(connection, promotion.name)
        self._authority.require(connection, Privilege.APPLY_TAG, promotion.name)
        if due.to is State.PROMOTED:
            self._authority.require_alias(connection, promotion.name, CHAMPION)


def guard(connection: Connection, promotion: Promotion) -> Step | Wait:
    """Decide about a promotion by what this transaction sees."""
    view = findings.scene(connection, promotion)
    found = findings.gather(connection, promotion, view, now=datetime.now(UTC))
    return decide(promotion.position, promotion.policy, found)


def _follows_from_a_word(promotion: Promotion, due: Step) -> bool:
    """Whether the step only draws the conclusion from approvals, whose authors were checked when they spoke."""
    asked_again = due.to is State.AWAITING_APPROVAL and promotion.state is not State.VALIDATED
    return asked_again or promotion.state is State.AWAITING_APPROVAL
