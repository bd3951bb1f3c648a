"""Where promotions stand, for whoever asks: states and what they wait for, words, policies, the story of an asset.

Reads, and changes nothing. Shows what the principal may know of.
"""

from __future__ import annotations

import builtins
from datetime import datetime

from llmops.core.identity import Principal
from llmops.core.names import Name
from llmops.registry.access import Securable
from llmops.registry.assets import Registry
from llmops.registry.authority import Authority
from llmops.registry.promotion import approvals, history, policies, rows
from llmops.registry.promotion.history import Entry, Reign
from llmops.registry.promotion.machine import Need, Step, Wait
from llmops.registry.promotion.policies import Ruling
from llmops.registry.promotion.records import Approval, Promotion
from llmops.registry.promotion.transition import Transitions, guard


class Overview:
    """Promotion as one principal sees it; by default as whoever the registry acts for."""

    def __init__(self, registry: Registry, *, principal: Principal | None = None) -> None:
        self._registry = registry
        authority = registry.authority
        if principal is not None:
            authority = Authority(principal, authority.access, authority.audit)
        self._authority = authority
        self._transitions = Transitions(registry.sql, authority)

    def status(self, name: Name | str | None = None) -> builtins.list[Promotion]:
        """Where the versions of an asset, or of all that the principal sees, stand; those that moved last first."""
        found = self.states(name)
        with self._registry.sql.read() as connection:
            return [item.waiting(needs(guard(connection, item))) for item in found]

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

    def words(self, promotion: Promotion) -> builtins.list[Approval]:
        """Of each person the last word for each group; what was taken back is not among them."""
        with self._registry.sql.read() as connection:
            return approvals.in_force(approvals.of_promotion(connection, promotion.promotion_id))

    def policy(self, scope: Name | str) -> Ruling:
        """The policy that the next promotion in a catalog, a schema or of an asset will follow, and where it is set.

        Args:
            scope: `prod`, `prod.fraud.*`, `prod.fraud.fraud_clf`, or `fraud.fraud_clf` in the catalog worked in.

        Raises:
            UserError: the scope is no catalog, schema or asset.
        """
        place = policies.scope(scope)
        with self._registry.sql.read() as connection:
            return policies.of(connection, place)


def needs(due: Step | Wait) -> tuple[Need, ...]:
    """What is waited for; nothing where a step is due."""
    return due.needs if isinstance(due, Wait) else ()
