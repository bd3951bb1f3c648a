"""The door of promotion: take a version as far as its evidence allows, hear approvals, roll back, tell how things are.

Knows the order of calls. The machine decides, transitions do; nothing here runs a gate or waits for anybody.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, TypeVar

from sqlalchemy import Connection

from llmops.core.errors import ConflictError, DeniedError, LlmopsError, NotFoundError, UserError
from llmops.core.names import Name, Ref
from llmops.registry import sequence
from llmops.registry.access import Privilege
from llmops.registry.authority import Authority
from llmops.registry.bootstrap import CHAMPION
from llmops.registry.evidence import Evidence
from llmops.registry.promotion import (
    approvals,
    copying,
    endings,
    findings,
    planning,
    policies,
    rollback,
    rows,
)
from llmops.registry.promotion.approvals import APPROVE, DENY, REVOKE, Said
from llmops.registry.promotion.endings import Retirement
from llmops.registry.promotion.machine import Step, Wait
from llmops.registry.promotion.overview import Overview, needs
from llmops.registry.promotion.planning import Plan
from llmops.registry.promotion.policy import Policy
from llmops.registry.promotion.records import Promotion
from llmops.registry.promotion.rollback import Planned, Rollback
from llmops.registry.promotion.states import STOPPED, State
from llmops.registry.promotion.transition import guard
from llmops.registry.records import Version

E = TypeVar("E", Rollback, Retirement)
_STEPS = 100
"""More than any way has: a walk that long goes in circles."""

_TRIES = 5
"""Words of others that may come in between before a word of one's own has its effect."""


class Promoter(Overview):
    """Promotion in the name of one principal; by default of whoever the registry acts for."""

    # --- the way to champion

    def promote(
        self,
        ref: Ref | str,
        evidence: Sequence[Evidence] = (),
        *,
        again: bool = False,
        within: frozenset[State] | None = None,
    ) -> Promotion:
        """Take a version as far towards champion as its evidence and approvals allow; call it again to go on.

        Args:
            evidence: records to file first; those filed already count as well.
            again: start anew where an earlier promotion of this version was refused or withdrawn.
            within: enter no state but these; None: all.

        Returns:
            Where it stands now; `needs` says what it waits for, `refused` whether something said no.

        Raises:
            ConflictError: somebody else moved it meanwhile; or it is champion without a promotion.
            DeniedError: the principal may not.
            IntegrityError: an evidence record about it is not what was filed.
        """
        version = self._registry.resolve(ref)
        for record in evidence:
            self._file(version, record)
        self._registry.mirror(version.name)
        promotion = self._open(version, again=again)
        try:
            return self._walk(promotion, within)
        finally:
            self._registry.mirror(version.name)

    def plan(self, ref: Ref | str) -> Plan:
        """What `promote` would find and do; changes nothing.

        Raises:
            IntegrityError: an evidence record is not what was filed.
        """
        version = self._registry.resolve(ref)
        with self._registry.sql.read() as connection:
            return planning.plan(connection, version, now=datetime.now(UTC), actor=self._authority.actor)

    # --- people

    def approve(self, ref: Ref | str, group: str, comment: str = "") -> Promotion:
        """Approve a promotion for a group. The last group needed takes it to APPROVED, not further.

        Raises:
            DeniedError: not in the group, the version's creator, the promotion's starter, or heard for another group.
            UserError: the promotion waits for nobody, or does not ask this group.
        """
        return self._say(ref, group, APPROVE, comment)

    def deny(self, ref: Ref | str, group: str, comment: str = "") -> Promotion:
        """Say no for a group: the promotion ends as DENIED.

        Raises:
            DeniedError, UserError: as `approve`.
        """
        return self._say(ref, group, DENY, comment)

    def revoke(self, ref: Ref | str, group: str, comment: str = "") -> Promotion:
        """Take back what one said for a group, as long as the version is not champion: it is waited for again.

        Raises:
            UserError: nothing was said that could be taken back.
        """
        return self._say(ref, group, REVOKE, comment)

    def objection(self, promotion: Promotion, group: str, decision: str = APPROVE) -> LlmopsError | None:
        """Why the principal can't say this for a group now; None where it can. Nothing is said or put on record."""
        said = Said(group, decision, "", datetime.now(UTC), self._authority.actor)
        with self._registry.sql.read() as connection:
            try:
                approvals.check(connection, self._authority, promotion, said)
            except (DeniedError, UserError) as error:
                return error
        return None

    def plan_word(self, ref: Ref | str, group: str, decision: str = APPROVE) -> builtins.list[str]:
        """Check that a word for a group would be heard; gives the groups that are waited for now. Changes nothing.

        Raises:
            DeniedError, UserError: as `approve`.
        """
        version = self._registry.resolve(ref)
        with self._registry.sql.read() as connection:
            promotion = _underway(connection, version)
            said = Said(group, decision, "", datetime.now(UTC), self._authority.actor)
            approvals.check(connection, self._authority, promotion, said)
            return [need.group for need in needs(guard(connection, promotion)) if need.group]

    def withdraw(self, ref: Ref | str, reason: str) -> Promotion:
        """End a version's promotion before it is champion; `promote` with `again` begins another.

        A call repeated after an interruption does nothing where the last one was carried out: the same reason means the
        same withdrawal.

        Raises:
            UserError: no reason, or the promotion has ended already.
            NotFoundError: the version is not being promoted.
            DeniedError: the principal may not promote here.
        """
        version = self._registry.resolve(ref)
        _require_reason(reason, "a withdrawal", str(version.ref))
        with self._registry.sql.read() as connection:
            done = endings.withdrawn_before(connection, version, reason)
        if done is None:
            params = {"reason": reason}
            with (
                self._authority.acting("withdraw", version.ref, params) as acting,
                self._registry.sql.begin() as connection,
            ):
                done = endings.withdraw(connection, version, reason, self._authority)
                acting.concluded(connection, result={"promotion_id": done.promotion_id}, evidence_id=done.evidence_id)
        self._registry.mirror(version.name)
        return done

    def plan_withdrawal(self, ref: Ref | str) -> Promotion:
        """The promotion that `withdraw` would end; changes nothing.

        Raises:
            UserError, NotFoundError: as `withdraw`.
        """
        version = self._registry.resolve(ref)
        with self._registry.sql.read() as connection:
            return endings.under_way(connection, version)

    # --- back

    def rollback(self, name: Name | str, reason: str, *, from_version: int | None = None) -> Rollback:
        """Make the previous champion champion again. A second rollback goes one champion further back.

        A call repeated after an interruption does nothing where the last one was carried out: the same reason, or the
        same `from_version`, means the same rollback.

        Args:
            from_version: the champion that is meant.

        Raises:
            UserError: no reason, or the champion is the first one.
            ConflictError: `from_version` is not champion.
            DeniedError: the principal may not move champion.
        """
        return self._step_down(
            _End("rollback", "rollback", rollback.done_before, rollback.undo), name, reason, from_version
        )

    def plan_rollback(self, name: Name | str) -> Planned:
        """What a rollback would do; changes nothing."""
        name = Name.parse(name) if isinstance(name, str) else name
        self._registry.show(name)
        with self._registry.sql.read() as connection:
            return rollback.plan(connection, name)

    def retire(self, name: Name | str, reason: str, *, from_version: int | None = None) -> Retirement:
        """Take the champion out of service with nobody in its place; readers are told that there is none.

        A call repeated after an interruption does nothing where the last one was carried out, as with `rollback`.

        Args:
            from_version: the champion that is meant.

        Raises:
            UserError: no reason.
            NotFoundError: nobody is champion.
            ConflictError: `from_version` is not champion.
            DeniedError: the principal may not move champion.
        """
        return self._step_down(
            _End("retirement", "retire", endings.retired_before, endings.retire), name, reason, from_version
        )

    def plan_retirement(self, name: Name | str) -> Version:
        """The champion that `retire` would take out of service; changes nothing."""
        name = Name.parse(name) if isinstance(name, str) else name
        self._registry.show(name)
        with self._registry.sql.read() as connection:
            return endings.reigning(connection, name)

    # --- other catalogs, policies

    def copy(self, ref: Ref | str, catalog: str) -> Version:
        """Register the same artefact in another catalog, digest verified, with lineage to where it came from.

        Raises:
            IntegrityError: the artefact is not what was registered.
            DeniedError: the principal may not make versions there.
        """
        return copying.copy(self._registry, self._registry.resolve(ref), catalog)

    def plan_copy(self, ref: Ref | str, catalog: str) -> Name:
        """The name that `copy` would register a version under."""
        return copying.target(self._registry.resolve(ref), catalog)

    def set_policy(self, scope: str, policy: Policy | None) -> None:
        """Give a catalog, a schema or an asset its policy (None: take its own away).

        Raises:
            DeniedError: the principal lacks MANAGE on it.
        """
        place = policies.scope(scope)
        params = {"policy": None if policy is None else policy.as_json()}
        with self._authority.acting("policy", place, params) as acting, self._registry.sql.begin() as connection:
            self._authority.require(connection, Privilege.MANAGE, place)
            policies.put(connection, place, policy, actor=self._authority.actor)
            acting.concluded(connection)

    # --- inside

    def _step_down(self, end: _End[E], name: Name | str, reason: str, from_version: int | None) -> E:
        """End a champion's reign once, on record; a repeated call gives what the first one did."""
        name = Name.parse(name) if isinstance(name, str) else name
        _require_reason(reason, f"a {end.what}", str(name))
        self._registry.show(name)
        params = {"reason": reason, "from_version": from_version}
        with self._registry.sql.read() as connection:
            done = end.before(connection, name, reason, from_version)
        if done is None:
            about = f"{name}@{CHAMPION}"
            with self._authority.acting(end.action, about, params) as acting, self._registry.sql.begin() as connection:
                sequence.lock(connection, name)
                done = end.before(connection, name, reason, from_version)
                done = done or end.act(connection, name, reason, self._authority)
                acting.concluded(connection, result={"champion": done.to_version}, evidence_id=done.evidence_id)
        self._registry.mirror(name)
        return done

    def _file(self, version: Version, record: Evidence) -> None:
        if (record.asset.name, record.asset.version, record.asset.digest) != (
            str(version.name),
            version.version,
            version.digest,
        ):
            raise UserError(
                f"this evidence speaks of {record.asset.name}/{record.asset.version}, not of {version.ref}",
                where=str(version.ref),
            )
        with self._registry.sql.read() as connection:
            if findings.filed(connection, record):
                return
        self._registry.add_evidence(record)

    def _open(self, version: Version, *, again: bool) -> Promotion:
        """The promotion that is under way, or a new one."""
        known = self._known(version, again=again)
        if known is not None:
            return known
        params = {"version": version.version}
        with self._authority.acting("promote", version.ref, params) as acting, self._registry.sql.begin() as connection:
            sequence.lock(connection, version.name)
            self._authority.require_writer(connection, version.name)
            self._authority.require(connection, Privilege.APPLY_TAG, version.name)
            found = self._current(rows.standing(connection, version.name, version.version), again=again)
            if found is None:
                policy = policies.of(connection, version.name).policy
                found = rows.begin(connection, version, policy, actor=self._authority.actor)
            acting.concluded(connection, result={"promotion_id": found.promotion_id})
        return found

    def _known(self, version: Version, *, again: bool) -> Promotion | None:
        with self._registry.sql.read() as connection:
            found = self._current(rows.standing(connection, version.name, version.version), again=again)
            held = findings.champion(connection, version.name)
        if found is None and held is not None and held.version == version.version:
            raise ConflictError(f"`{version.ref}` is champion already", code="already_champion")
        return found

    @staticmethod
    def _current(newest: Promotion | None, *, again: bool) -> Promotion | None:
        """The promotion that a call means: one refused or withdrawn stays so, unless it is to be tried again."""
        if newest is None or newest.state is State.RETIRED or (again and newest.state in STOPPED):
            return None
        return newest

    def _walk(self, promotion: Promotion, within: frozenset[State] | None) -> Promotion:
        for _ in range(_STEPS):
            due = self._transitions.due(promotion)
            if isinstance(due, Wait):
                return promotion.waiting(due.needs)
            if within is not None and due.to not in within:
                return promotion
            promotion = self._transitions.take(promotion, due) or self._again(promotion)
        raise AssertionError(f"{promotion.ref} goes in circles")

    def _again(self, promotion: Promotion) -> Promotion:
        with self._registry.sql.read() as connection:
            return rows.read(connection, promotion.promotion_id)

    def _say(self, ref: Ref | str, group: str, decision: str, comment: str) -> Promotion:
        version = self._registry.resolve(ref)
        params = {"group": group, "comment": comment}
        action = {APPROVE: "approve", DENY: "reject", REVOKE: "revoke_approval"}[decision]
        with self._authority.acting(action, version.ref, params) as acting, self._registry.sql.begin() as connection:
            sequence.lock(connection, version.name)
            promotion = _underway(connection, version)
            said = Said(group, decision, comment, datetime.now(UTC), self._authority.actor)
            approvals.check(connection, self._authority, promotion, said)
            approvals.record(connection, promotion, said)
            acting.concluded(connection, result={"promotion_id": promotion.promotion_id})
        return self._follow(promotion)

    def _follow(self, promotion: Promotion) -> Promotion:
        """Let a word for a group have its effect: APPROVED, DENIED, or waiting again; what comes then is promote's."""
        due = self._transitions.due(promotion)
        for _ in range(_TRIES):  # somebody else's word in between sends both back to look again
            if not isinstance(due, Step) or due.to not in {State.APPROVED, State.DENIED, State.AWAITING_APPROVAL}:
                break
            promotion = self._transitions.take(promotion, due) or self._again(promotion)
            self._registry.mirror(promotion.name)
            due = self._transitions.due(promotion)
        return promotion.waiting(needs(due))


@dataclass(frozen=True)
class _End(Generic[E]):
    """A way in which a reign ends: what people and the audit chain call it, and the two halves of doing it once."""

    what: str
    action: str
    before: Callable[[Connection, Name, str, int | None], E | None]
    act: Callable[[Connection, Name, str, Authority], E]


def _require_reason(reason: str, what: str, where: str) -> None:
    if not reason.strip():
        raise UserError(f"{what} needs a reason", where=where, hint='--reason "what went wrong"')


def _underway(connection: Connection, version: Version) -> Promotion:
    promotion = rows.standing(connection, version.name, version.version)
    if promotion is None:
        raise NotFoundError(f"`{version.ref}` is not being promoted", hint=f"llmops promote {version.ref}")
    return promotion
