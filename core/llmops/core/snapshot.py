"""Snapshots: a part of a table, from production to another catalog, the same part whenever it is asked for.

Which rows are taken is decided by a digest of each row's key and the seed, so it depends on no order and no clock.
Columns that speak of people may be dropped, or replaced by a keyed hash: equal values stay equal, in every snapshot of
this state, and whoever has the snapshot but not the key cannot try names out. One that is there is not made again.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from llmops.core import lakesql
from llmops.core.delta import Transaction
from llmops.core.errors import NotFoundError, UserError, did_you_mean
from llmops.core.files import write_atomic
from llmops.core.ids import digest
from llmops.core.lake import Lake
from llmops.core.names import Name
from llmops.core.tables import Column, TableSpec

_KEY_BYTES = 32


@dataclass(frozen=True)
class Wanted:
    """Which part of a table, and what of it must not be seen.

    Args:
        where: a SQL condition on the source's columns.
        rows: at most so many, picked evenly; None: all.
        hashed: columns whose values are replaced by their keyed hash.
        dropped: columns that are left out.
    """

    where: str | None = None
    rows: int | None = None
    seed: int = 0
    hashed: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Snapshot:
    """What was taken, from which version of what, into which version of what; a plan has no `target_version`."""

    source: str
    source_version: int
    target: str
    target_version: int | None
    wanted: Wanted
    rows: int
    of_rows: int
    made: bool

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def snapshot(lake: Lake, source: str, target: str, wanted: Wanted, *, key_file: Path, plan: bool = False) -> Snapshot:
    """Take a snapshot; the same one of the same version again changes nothing.

    Args:
        key_file: holds the key of the hashes; made where it is missing and needed.

    Raises:
        NotFoundError: no such table or column.
        UserError: the condition does not fit, the target is production or shared, or is a table of another origin.
        ConflictError: another process is writing the target.
    """
    origin, aim = Name.parse(source), Name.parse(target)
    if aim.catalog == "prod" or aim == origin:
        raise UserError("a snapshot goes to a catalog that is not production", where=target, hint="name one in dev")
    spec = lake.spec(str(origin))
    dataset, version = lake.dataset(str(origin))
    _check_columns(spec, wanted, str(origin))
    mark = digest({"source": str(origin), "version": version, **asdict(wanted)})
    taken, of_rows = _taken(dataset, str(origin), spec, wanted)
    made_from = {"source": str(origin), "version": version, "of_rows": of_rows, **asdict(wanted)}
    result = Snapshot(str(origin), version, str(aim), None, wanted, len(taken), of_rows, made=False)
    if plan:
        return result
    if lake.version(str(aim)) is not None and lake.note(str(aim)) is None and lake.dataset(str(aim))[0].count_rows():
        raise UserError(f"`{aim}` is a table of its own, not a snapshot", hint="name another target")
    shape = _shape(spec, aim.asset, wanted)
    lake.declare(str(aim), shape)
    rows = _hidden(taken, shape, wanted, key_file)
    done = lake.replace_arrow(str(aim), rows, Transaction(f"snapshot:{mark}", 1), orjson.dumps(made_from).decode())
    return Snapshot(
        str(origin), version, str(aim), lake.version(str(aim)), wanted, len(rows), of_rows, done is not None
    )


def origin_of(lake: Lake, table: str) -> dict[str, Any] | None:
    """What a snapshot was taken from, None for any other table."""
    note = lake.note(table)
    return None if note is None else dict(orjson.loads(note))


def _taken(dataset: Any, name: str, spec: TableSpec, wanted: Wanted) -> tuple[Any, int]:
    """The rows, ordered by their digests, and how many there were to pick from."""
    condition = f"WHERE ({wanted.where})" if wanted.where else ""
    by = spec.primary_key or tuple(column.name for column in spec.columns)
    text = " || '|' || ".join(f"coalesce(CAST(\"{column}\" AS VARCHAR), '')" for column in by)
    columns = ", ".join(f'"{column.name}"' for column in spec.columns if column.name not in wanted.dropped)
    limit = "" if wanted.rows is None else f"LIMIT {int(wanted.rows)}"
    query = f"SELECT {columns} FROM {name} {condition} ORDER BY md5($seed || {text}), {text} {limit}"  # noqa: S608
    sources = {name: (dataset, None)}
    taken = lakesql.select(query, sources, {"seed": f"{wanted.seed}|"})
    counted = lakesql.select(f"SELECT count(*) AS n FROM {name} {condition}", sources)  # noqa: S608
    return taken, int(counted["n"][0].as_py())


def _shape(spec: TableSpec, asset: str, wanted: Wanted) -> TableSpec:
    """The target's declaration: the source's, without what was dropped; a hash is a text."""
    columns = tuple(
        Column(c.name, "string" if c.name in wanted.hashed else c.type, c.required, c.description)
        for c in spec.columns
        if c.name not in wanted.dropped
    )
    kept = {column.name for column in columns}
    whole = kept.issuperset(spec.primary_key)
    return TableSpec(
        asset,
        columns,
        primary_key=spec.primary_key if whole else (),
        bodies={name: code for name, code in spec.bodies.items() if name in kept},
        description=spec.description,
        properties=spec.properties if whole else {},
    )


def _hidden(taken: Any, shape: TableSpec, wanted: Wanted, key_file: Path) -> Any:
    import pyarrow as pa

    key = _key(key_file) if wanted.hashed else b""
    schema = shape.schema()
    columns = []
    for field in schema:
        column = taken[field.name]
        if field.name in wanted.hashed:
            column = pa.array([_hash(key, value) for value in column.to_pylist()], pa.string())
        columns.append(column.cast(field.type))
    return pa.table(columns, schema=schema)


def _hash(key: bytes, value: Any) -> str | None:
    if value is None:
        return None
    return hmac.new(key, str(value).encode(), hashlib.sha256).hexdigest()[:32]


def _key(path: Path) -> bytes:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, secrets.token_bytes(_KEY_BYTES), mode=0o600)
    return path.read_bytes()


def _check_columns(spec: TableSpec, wanted: Wanted, source: str) -> None:
    for column in (*wanted.hashed, *wanted.dropped):
        if column not in spec.names:
            raise NotFoundError(f"no column `{column}`", where=source, hint=did_you_mean(column, spec.names))
    if both := set(wanted.hashed) & set(wanted.dropped):
        raise UserError(f"`{min(both)}` is to be hashed and dropped", where=source)
    if wanted.rows is not None and wanted.rows < 1:
        raise UserError("a snapshot has at least one row", where=source)
