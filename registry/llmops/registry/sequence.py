"""One order for everything that happens to an asset: ids that rise whatever the clock does, one writer at a time.

Knows the counter in the asset's row. Taking an id locks that row until the transaction ends, so what a writer read
about the asset inside its transaction stays true; in SQLite the write transaction itself does that.
"""

from __future__ import annotations

from sqlalchemy import Connection, select, update

from llmops.core import ids
from llmops.core.errors import NotFoundError
from llmops.core.names import Name
from llmops.registry import tables


def lock(connection: Connection, name: Name) -> str | None:
    """Wait until no other transaction writes to this asset; gives the newest id that was used.

    Raises:
        NotFoundError: no such asset.
    """
    query = select(tables.assets.c.name, tables.assets.c.last_id).where(tables.assets.c.name == str(name))
    row = connection.execute(query.with_for_update()).first()
    if row is None:
        raise NotFoundError(f"no asset `{name}`", code="unknown_asset")
    last: str | None = row.last_id
    return last


def next_id(connection: Connection, name: Name) -> str:
    """A UUIDv7 that sorts after every other one of this asset."""
    fresh = ids.next_id(lock(connection, name))
    connection.execute(update(tables.assets).where(tables.assets.c.name == str(name)).values(last_id=fresh))
    return fresh


def mark(connection: Connection, name: Name) -> None:
    """Note that MLflow's copies of this asset's aliases and tags are behind from this transaction on."""
    lasting = {"last_id": ids.next_id(lock(connection, name)), "mirrored": False}
    connection.execute(update(tables.assets).where(tables.assets.c.name == str(name)).values(lasting))
