"""The door of promotion: take a version as far as its evidence allows, hear approvals, roll back, tell how things are.

Knows the order of calls. The machine decides, transitions do; nothing here runs a gate or waits for anybody.
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import Connection

from llmops.core.errors import ConflictError, DeniedError, LlmopsError, NotFoundError, UserError
from llmops.core.identity import Principal
from llmops.core.names import Name, Ref
from llmops.registry import sequence
from llmops.registry.access import Privilege, Securable
from llmops.registry.assets import Registry
from llmops.registry.authority import Authority
from llmops.registry.bootstrap import CHAMPION
from llmops.registry.evidence import Evidence
from llmops.registry.promotion import approvals, copying, findings, history, planning, policies, rollback, rows
from llmops.registry.promotion.approvals import APPROVE, DENY, REVOKE, Said
from llmops.registry.promotion.history import Entry, Reign
from llmops.registry.promotion.machine import Need, Step, Wait
from llmops.registry.promotion.planning import Plan
from llmops.registry.promotion.policies import Ruling
from llmops.registry.promotion.policy import Policy
from llmops.registry.promotion.records import Approval, Promotion
from llmops.registry.promotion.rollback import Planned, Rollback
from llmops.registry.promotion.states import FAILED, State
from llmops.registry.promotion.transition import Transitions, guard
from llmops.registry.records import Version

_STEPS = 100
"""More than any way has: a walk that long goes in circles."""


class Promoter:
    """Promotion in the name of one principal; by default of whoever the registry acts for."""

    def __init__(self, registry: Registry, *, principal: Principal | None = None) -> None:
        self._registry = registry
        authority = registry.authority
        if principal is not None:
            authority = Authority(principal, authority.access, authority.audit)
        self._authority = authority
        self._transitions = Transitions(registry.sql, authority)

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
            again: start anew where an earlier promotion of this version was refused.
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

    def words(self, promotion: Promotion) -> builtins.list[Approval]:
        """Of each person the last word for each group; what was taken back is not among them."""
        with self._registry.sql.read() as connection:
            return approvals.in_force(approvals.of_promotion(connection, promotion.promotion_id))

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
            return [need.group for need in _needs(guard(connection, promotion)) if need.group]

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
        name = Name.parse(name) if isinstance(name, str) else name
        if not reason.strip():
            raise UserError("a rollback needs a reason", where=str(name), hint='--reason "what went wrong"')
        self._registry.show(name)
        params = {"reason": reason, "from_version": from_version}
        with self._registry.sql.read() as connection:
            done = rollback.done_before(connection, name, reason, from_version)
        if done is None:
            about = f"{name}@{CHAMPION}"
            with self._authority.acting("rollback", about, params) as acting, self._registry.sql.begin() as connection:
                sequence.lock(connection, name)
                done = rollback.done_before(connection, name, reason, from_version)
                done = done or rollback.undo(connection, name, reason, self._authority)
                acting.concluded(connection, result={"champion": done.to_version}, evidence_id=done.evidence_id)
        self._registry.mirror(name)
        return done

    def plan_rollback(self, name: Name | str) -> Planned:
        """What a rollback would do; changes nothing."""
        name = Name.parse(name) if isinstance(name, str) else name
        self._registry.show(name)
        with self._registry.sql.read() as connection:
            return rollback.plan(connection, name)

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

    def policy(self, scope: Name | str) -> Ruling:
        """The policy that the next promotion in a catalog, a schema or of an asset will follow, and where it is set.

        Raises:
            UserError: the scope is no catalog, schema or asset.
        """
        policies.check_scope(str(scope))
        with self._registry.sql.read() as connection:
            return policies.of(connection, scope)

    def set_policy(self, scope: str, policy: Policy | None) -> None:
        """Give a catalog, a schema or an asset its policy (None: take its own away).

        Raises:
            DeniedError: the principal lacks MANAGE on it.
        """
        policies.check_scope(scope)
        params = {"policy": None if policy is None else policy.as_json()}
        with self._authority.acting("policy", scope, params) as acting, self._registry.sql.begin() as connection:
            self._authority.require(connection, Privilege.MANAGE, scope)
            policies.put(connection, scope, policy, actor=self._authority.actor)
            acting.concluded(connection)

    # --- reading

    def status(self, name: Name | str | None = None) -> builtins.list[Promotion]:
        """Where the versions of an asset, or of all that the principal sees, stand; those that moved last first."""
        found = self.states(name)
        with self._registry.sql.read() as connection:
            return [item.waiting(_needs(guard(connection, item))) for item in found]

    def states(self, name: Name | str | None = None) -> builtins.list[Promotion]:
        """The same without a look at the evidence, so without what they wait for."""
        wanted = Name.parse(name) if isinstance(name, str) else name
        if wanted is not None:
            self._registry.show(wanted)
        with self._registry.sql.read() as connection:
            rights = self._authority.rights(connection)
            return [item for item in rows.every(connection, wanted) if rights.sees(Securable.of(item.name))]

    def history(self, name: Name | str) -> builtins.list[Entry]:
        """Everything that happened to an asset, newest first."""
        asset = self._registry.show(name)
        with self._registry.sql.read() as connection:
            return history.story(connection, asset.name)

    def champion_at(self, name: Name | str, at: datetime) -> Reign | None:
        """Who was champion at a moment, and why; None where nobody was."""
        asset = self._registry.show(name)
        with self._registry.sql.read() as connection:
            return history.champion_at(connection, asset.name, at)

    # --- inside

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
        """The promotion that a call means: one that was refused stays refused, unless it is to be tried again."""
        if newest is None or newest.state is State.RETIRED or (again and newest.state in FAILED):
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
        if isinstance(due, Step) and due.to in {State.APPROVED, State.DENIED, State.AWAITING_APPROVAL}:
            promotion = self._transitions.take(promotion, due) or self._again(promotion)
            self._registry.mirror(promotion.name)
            due = self._transitions.due(promotion)
        return promotion.waiting(_needs(due))


def _underway(connection: Connection, version: Version) -> Promotion:
    promotion = rows.standing(connection, version.name, version.version)
    if promotion is None:
        raise NotFoundError(f"`{version.ref}` is not being promoted", hint=f"llmops promote {version.ref}")
    return promotion


def _needs(due: Step | Wait) -> tuple[Need, ...]:
    return due.needs if isinstance(due, Wait) else ()
