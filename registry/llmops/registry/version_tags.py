"""Tags that may change after registration, beside the version's row, which may not; MLflow gets copies.

Knows rows. `validation_status` is written by promotion alone: it says what the evidence said, and decides nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Connection, delete, insert, select

from llmops.core.errors import UserError
from llmops.core.names import Name, Ref
from llmops.registry import tables
from llmops.registry.sequence import mark

VALIDATION_STATUS = "validation_status"
PENDING, PASSED, FAILED = "PENDING", "PASSED", "FAILED"
RESERVED = frozenset({VALIDATION_STATUS})
"""What promotion alone writes."""


def require_free(ref: Ref, key: str) -> None:
    """Refuse a tag that is not a user's to set.

    Raises:
        UserError: it is reserved, empty or too long.
    """
    if key in RESERVED:
        raise UserError(f"`{key}` is set by promotion", where=str(ref), hint="run `llmops promote`")
    if not key or len(key) > 128:
        raise UserError("a tag's key has 1 to 128 characters", where=str(ref))


def put(connection: Connection, ref: Ref, key: str, value: str, *, actor: str) -> None:
    """Set a tag; the last writer's value stands."""
    here = tables.version_tags.c
    connection.execute(
        delete(tables.version_tags).where(here.name == str(ref.name), here.version == ref.version, here.key == key)
    )
    connection.execute(
        insert(tables.version_tags).values(
            name=str(ref.name),
            version=ref.version,
            key=key,
            value=value,
            set_at=datetime.now(UTC),
            set_by=actor,
            mirrored=False,
        )
    )
    mark(connection, ref.name)


def read(
    connection: Connection, name: Name | None = None, version: int | None = None
) -> dict[tuple[str, int], dict[str, str]]:
    """The tags that were set after registration, by name and version; of all, of one asset, or of one version."""
    query = select(tables.version_tags)
    if name is not None:
        query = query.where(tables.version_tags.c.name == str(name))
    if version is not None:
        query = query.where(tables.version_tags.c.version == version)
    found: dict[tuple[str, int], dict[str, str]] = {}
    for row in connection.execute(query):
        found.setdefault((row.name, row.version), {})[row.key] = row.value
    return found
