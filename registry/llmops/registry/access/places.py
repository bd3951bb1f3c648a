"""Reads the place that somebody typed, so that nobody is granted something on a place that does not exist.

Elsewhere a name of two levels lies in the catalog one works in; a grant on two levels is on a schema of a catalog.
Knows what is there to tell the two apart, and refuses where it cannot.
"""

from __future__ import annotations

from sqlalchemy import Connection, select

from llmops.core.errors import NotFoundError, UserError, did_you_mean
from llmops.core.names import CATALOGS, current_catalog
from llmops.registry import tables as registry_tables
from llmops.registry.access import tables
from llmops.registry.access.rights import Rights
from llmops.registry.access.securables import Securable


def read_place(connection: Connection, text: str, rights: Rights) -> Securable:
    """The place that a text means to whoever has these rights: what they may not see is as if it were not there.

    Raises:
        NotFoundError: it begins with no catalog that is known here.
        UserError: it is written otherwise, or means a schema as well as an asset of the catalog one works in.
    """
    place = Securable.of(text)
    if place.level not in ("catalog", "schema") or text.endswith(".*") or _on_record(connection, place):
        return place
    assets = seen_assets(connection, rights)
    catalogs = {*CATALOGS, current_catalog(), *(name.partition(".")[0] for name in assets)}
    here = f"{current_catalog()}.{place}"
    if place.catalog not in catalogs:
        raise NotFoundError(
            f"there is no catalog `{place.catalog}`", where=text, hint=_hint(place, here, assets, catalogs)
        )
    if place.level == "schema" and here in assets:
        raise UserError(
            f"`{text}` is a schema of the catalog {place.catalog}, and an asset of {current_catalog()}",
            where=text,
            hint=f"write {here} for the asset, {place}.* for the schema",
        )
    return place


def seen_assets(connection: Connection, rights: Rights) -> set[str]:
    """The names of the assets that whoever has these rights may know of."""
    names = connection.execute(select(registry_tables.assets.c.name)).scalars()
    return {name for name in names if not rights.enforced or rights.sees(Securable.of(name))}


def _hint(place: Securable, here: str, assets: set[str], catalogs: set[str]) -> str:
    if here in assets:
        return f"for the asset write all three levels: {here}"
    if any(name.startswith(f"{here}.") for name in assets):
        return f"for the schema write its catalog too: {here}"
    guess = did_you_mean(str(place.catalog), sorted(catalogs)) or f"there are {', '.join(sorted(catalogs))}"
    return f"{guess}; for a catalog that is yet to come write {place}.*"


def _on_record(connection: Connection, place: Securable) -> bool:
    """Whether something was granted on, or is owned at, this very place; then that can also be taken back."""
    grants, owners = tables.grants.c.securable, tables.owners.c.securable
    granted = connection.execute(select(grants).where(grants == str(place)).limit(1)).first()
    return bool(granted or connection.execute(select(owners).where(owners == str(place)).limit(1)).first())
