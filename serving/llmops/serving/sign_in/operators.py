"""People at the registry's pages: who is signed in may come in where the configuration names one of their groups."""

from __future__ import annotations

from collections.abc import Mapping

from llmops.core.errors import DeniedError
from llmops.core.identity import EVERYONE, Principal
from llmops.serving.sign_in.reception import Reception
from llmops.serving.sign_in.routes import sign_in_address


class Operators:
    """The door's view of the people: see `core.web.door.PeoplesDoor`."""

    def __init__(self, reception: Reception) -> None:
        self._reception = reception
        self._groups = frozenset(reception.config.operators)

    def operator(self, cookies: Mapping[str, str]) -> Principal | None:
        """Who is signed in with these cookies.

        Raises:
            DeniedError: the person is in none of the groups that may operate.
        """
        signed_in = self._reception.who(cookies)
        if signed_in is None:
            return None
        if EVERYONE not in self._groups and self._groups.isdisjoint(signed_in.principal.groups):
            raise DeniedError(
                "these pages are for operators",
                hint="`sign_in.operators` of the serve configuration names their groups",
            )
        return signed_in.principal

    def sign_in_address(self, wanted: str) -> str:
        return sign_in_address(wanted)
