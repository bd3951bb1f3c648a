"""The lake: Delta tables by three-level name, written exactly once and durably, queried with SQL.

`dev.serving.feedback` is the folder (or URL) `<root>/dev/serving/feedback`. Shared tables are known by the last part of
their name; any other table is declared first, and carries its description with it. What still lies in the spool can
be read along, so that a thumb is visible at once. How Delta is written is `delta`'s matter, how SQL runs `lakesql`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from llmops.core import lakesql
from llmops.core.convert import to_arrow
from llmops.core.delta import DeltaTables, Transaction, is_in, translated
from llmops.core.errors import IntegrityError, NotFoundError, UserError, did_you_mean
from llmops.core.names import Name
from llmops.core.pending import pending_rows
from llmops.core.segments import open_segments
from llmops.core.state import StateConfig
from llmops.core.tables import TABLES, VIEWS, TableSpec, spec_of

__all__ = ["Lake", "Transaction"]

_ERASED_AT_ONCE = 500


class Lake:
    """All tables under one root. Thread-safe; several processes may read, and append, at once."""

    def __init__(self, state: StateConfig) -> None:
        self._delta = DeltaTables(state.lake)
        self._lock = self._delta.lock
        self._spool = state.spool

    @property
    def root(self) -> str:
        return self._delta.root

    @property
    def is_local(self) -> bool:
        return self._delta.is_local

    def tables(self) -> list[str]:
        """The names of the local tables that exist."""
        return self._delta.names()

    def declare(self, table: str, spec: TableSpec) -> None:
        """Make a table of a user's own, or bring the one there is to this declaration; declaring it again is harmless.

        Raises:
            UserError: the last part of the name belongs to a shared table.
            IntegrityError: the table that is there cannot become the declared one.
        """
        asset = Name.parse(table).asset
        if asset in TABLES or asset in VIEWS:
            raise UserError(f"`{asset}` is a table that the product itself keeps", where=table, hint="take another")
        if spec.asset != asset:
            raise UserError(f"the declaration is of `{spec.asset}`", where=table)
        with self._lock, translated(table):
            handle = self._delta.open(table)
            if handle is not None and self._delta.spec(handle) == spec:
                return
        with self._lock, translated(table), self._delta.alone(table):
            handle = self._delta.open(table)
            if handle is None:
                self._delta.create(table, spec)
            else:
                self._delta.declare(table, handle, spec)

    def spec(self, table: str) -> TableSpec:
        """What a table is: shared, declared, or as far as its columns tell.

        Raises:
            NotFoundError: there is no such table; names the nearest.
            UserError: somebody else made it, of columns that the lake does not describe.
        """
        asset = table.rpartition(".")[2]
        if asset in TABLES:
            return TABLES[asset]
        with self._lock, translated(table):
            handle = self._delta.open(table)
            if handle is None:
                raise self._missing(table)
            return self._delta.spec(handle) or TableSpec.of_schema(asset, self._delta.dataset(handle, table).schema)

    def version(self, table: str) -> int | None:
        """The number of a table's newest version, None where there is no table."""
        with self._lock, translated(table):
            handle = self._delta.open(table)
            return None if handle is None else int(handle.version())

    def append(
        self,
        table: str,
        rows: Sequence[Mapping[str, Any]],
        transaction: tuple[str, int] | Transaction | Sequence[Transaction] = (),
    ) -> int | None:
        """Append rows in one commit, made durable before this returns; gives the table's new version.

        Where every transaction is in the table already, nothing is done and None given: that is how a repeat after a
        crash stays harmless.

        Raises:
            IntegrityError: a row does not fit the table's columns; nothing is appended.
            ConflictError: another process committed the same transaction at this moment.
            StorageError: the disk is full or failing; nothing is in the table.
        """
        return self.append_arrow(table, rows_of(self.spec(table), table, rows), _transactions(transaction))

    def append_arrow(self, table: str, arrow: Any, transactions: Sequence[Transaction] = ()) -> int | None:
        """Like `append`, for a pyarrow table in the table's own schema."""
        with self._lock, translated(table):
            handle = self._delta.open(table) or self._delta.create(table, self.spec(table))
            if transactions and all(is_in(handle, transaction) for transaction in transactions):
                return None
            return self._delta.append(table, handle, arrow, transactions)

    def merge_arrow(self, table: str, arrow: Any, transactions: Sequence[Transaction] = ()) -> int | None:
        """Like `append_arrow`, but a row of a primary key that is there takes its row's place.

        One writer at a time: what is found missing stays missing until it is written. Keys within `arrow` must differ.

        Raises:
            ConflictError: another process is writing the table.
        """
        key = self.spec(table).primary_key
        if not key:
            raise UserError("rows are replaced by their primary key, and the table has none", where=table)
        with self._lock, translated(table), self._delta.alone(table):
            handle = self._delta.open(table) or self._delta.create(table, self.spec(table))
            if transactions and all(is_in(handle, transaction) for transaction in transactions):
                return None
            if not handle.file_uris():
                return self._delta.append(table, handle, arrow, transactions)
            return self._delta.merge(table, handle, arrow, key, transactions)

    def replace_arrow(self, table: str, arrow: Any, transaction: Transaction, note: str) -> int | None:
        """Put these rows in the place of all there were, unless that was done already; `note` is kept with the commit.

        Raises:
            ConflictError: another process is writing the table.
        """
        with self._lock, translated(table), self._delta.alone(table):
            handle = self._delta.open(table)
            if handle is None:
                raise self._missing(table)
            if is_in(handle, transaction):
                return None
            return self._delta.replace(table, handle, arrow, [transaction], note)

    def erase(self, table: str, keys: Sequence[str], blanked: Mapping[str, str] | None = None) -> None:
        """Delete rows by their primary key, or put other values into some of their columns; `purge` ends their history.

        Args:
            keys: values of the one column that is the primary key.
            blanked: SQL expression by column; None: delete.

        Raises:
            ConflictError: another process kept changing the table.
        """
        (key,) = self.spec(table).primary_key
        for start in range(0, len(keys), _ERASED_AT_ONCE):
            some = ", ".join("'" + one.replace("'", "''") + "'" for one in keys[start : start + _ERASED_AT_ONCE])
            with self._lock, translated(table), self._delta.alone(table):
                handle = self._delta.open(table)
                if handle is None:
                    raise self._missing(table)
                self._delta.erase(table, handle, f"{key} IN ({some})", blanked)

    def expire(self, table: str, column: str, before: datetime) -> int:
        """Delete the rows whose time is before another; tells how many. Old versions hold them until they are vacuumed.

        Raises:
            ConflictError: another process changed the table first.
        """
        import pyarrow.dataset as ds

        with self._lock, translated(table), self._delta.alone(table):
            handle = self._delta.open(table)
            if handle is None:
                return 0
            gone: int = self._delta.dataset(handle, table).count_rows(filter=ds.field(column) < before)
            if gone:
                time = (
                    f"arrow_cast('{before.astimezone(UTC):%Y-%m-%dT%H:%M:%S}', 'Timestamp(Microsecond, Some(\"UTC\"))')"
                )
                self._delta.erase(table, handle, f"{column} < {time}", None)
            return gone

    def purge(self, table: str) -> None:
        """Delete all old versions of a table, so that what was erased is in no file any more."""
        with self._lock, translated(table), self._delta.alone(table):
            handle = self._delta.open(table)
            if handle is not None:
                self._delta.purge(table, handle)

    def note(self, table: str) -> str | None:
        """What the last `replace_arrow` left, None where there was none."""
        with self._lock, translated(table):
            handle = self._delta.open(table)
            return None if handle is None else self._delta.note(handle)

    def committed(self, table: str, app_ids: Iterable[str]) -> dict[str, int]:
        """Up to which version each application's transactions are in the table; -1 for none."""
        with self._lock, translated(table):
            handle = self._delta.open(table)
            found = {app_id: None if handle is None else handle.transaction_version(app_id) for app_id in app_ids}
            return {app_id: -1 if version is None else int(version) for app_id, version in found.items()}

    def rows(
        self,
        table: str,
        where: Mapping[str, Any] | None = None,
        columns: Sequence[str] | None = None,
        include_pending: bool = True,
    ) -> list[dict[str, Any]]:
        """Rows whose columns equal `where` (a list means any of them), one per primary key.

        With `include_pending` also what is appended to the spool and not yet drained, in any process of this machine.
        """
        found: list[dict[str, Any]] = self._arrow(table, where, columns, include_pending).to_pylist(
            maps_as_pydicts="strict"
        )
        key = self.spec(table).primary_key
        if not key or (columns is not None and not set(key) <= set(columns)):
            return found
        return list({tuple(row[name] for name in key): row for row in found}.values())

    def dataset(self, table: str, version: int | None = None) -> tuple[Any, int]:
        """A table as a pyarrow dataset to read from, and which version that is: the newest, or the one asked for.

        Raises:
            NotFoundError: no such table, or it is no longer kept at this version.
        """
        with self._lock, translated(table):
            handle = self._delta.open(table) if version is None else self._delta.at(table, version)
            if handle is None:
                raise self._missing(table)
            return self._delta.dataset(handle, table), int(handle.version())

    def changed(self, table: str, known: Iterable[str]) -> tuple[Any, list[str], int]:
        """What is new in a table since its files were `known`: a dataset of the others, all files now, the version.

        A file is never changed, so whoever has read the known ones has read what is left of them; a row that was
        replaced since lies in one of the others. Rows that were deleted are not told of.
        """
        with self._lock, translated(table):
            handle = self._delta.open(table)
            if handle is None:
                raise self._missing(table)
            files = [fragment.path for fragment in self._delta.dataset(handle, table).get_fragments()]
            fresh = set(files) - set(known)
            return self._delta.dataset(handle, table, sorted(fresh)), files, int(handle.version())

    def query(
        self, sql: str, params: Sequence[Any] | Mapping[str, Any] = (), include_pending: bool = False
    ) -> list[dict[str, Any]]:
        """Run one SELECT; tables are written by their three-level names, values go by `params` (`?` or `$name`).

        `<catalog>.<schema>.inference_log_payload` and `..._requests` show an inference log under Databricks' names.
        """
        arrow = self.query_arrow(sql, params, include_pending)
        rows: list[dict[str, Any]] = arrow.to_pylist(maps_as_pydicts="strict")
        return rows

    def query_arrow(
        self, sql: str, params: Sequence[Any] | Mapping[str, Any] = (), include_pending: bool = False
    ) -> Any:
        """Like `query`, as a pyarrow table."""
        sources = {}
        for name in lakesql.names_in(sql):
            schema, _, asset = name.rpartition(".")
            view = VIEWS.get(asset)
            source = self._source(f"{schema}.{view.base}" if view else name, include_pending)
            if source is not None:
                sources[name] = (source, view)
        return lakesql.select(sql, sources, params)

    def maintain(self, table: str) -> dict[str, Any]:
        """Rewrite small files into large ones, delete what nothing refers to any more, shorten the log."""
        with self._lock, translated(table):
            return self._delta.maintain(table)

    def mend(self, table: str) -> list[int]:
        """Set torn commits of a power cut aside; for the one drainer, before it writes."""
        with self._lock:
            return self._delta.mend(table)

    def _missing(self, table: str) -> NotFoundError:
        near = did_you_mean(table, self.tables()) if self.is_local else None
        return NotFoundError(f"no table `{table}`", hint=near or "`llmops data list` lists those there are")

    def _arrow(
        self, table: str, where: Mapping[str, Any] | None, columns: Sequence[str] | None, include_pending: bool
    ) -> Any:
        import pyarrow as pa

        spec = self.spec(table)
        _check_columns(spec, [*(where or ()), *(columns or ())], table)
        stored, waiting = self._snapshot(table, where, include_pending)
        pieces = []
        for piece in (stored, waiting):
            if piece is not None:
                pieces.append(piece.to_table(columns=columns, filter=condition(where)))
        if not pieces:
            schema = spec.schema()
            return schema.empty_table().select(list(columns) if columns is not None else schema.names)
        return pa.concat_tables(pieces, promote_options="default")

    def _source(self, name: str, include_pending: bool) -> Any:
        """What stands behind a name in a query: a dataset, or one table of everything; None for no table of ours."""
        if name.rpartition(".")[2] not in TABLES:
            with self._lock, translated(name):
                handle = self._delta.open(name)
                return None if handle is None else self._delta.dataset(handle, name)
        if not include_pending:
            stored, _ = self._snapshot(name, None, include_pending=False)
            return stored if stored is not None else spec_of(name).schema().empty_table()
        return self._arrow(name, None, None, include_pending=True)

    def _snapshot(self, table: str, where: Mapping[str, Any] | None, include_pending: bool) -> tuple[Any, Any]:
        """The table's dataset, and a dataset of the records that are in the spool and not in that very version of it.

        The segments and their notes come first. What is drained meanwhile is in the table when it is read, and the
        table's own transactions say up to where it goes.
        """
        import pyarrow.dataset as ds

        stored = None
        with open_segments(self._spool if include_pending else None) as segments:
            starts = {segment: segment.drained() for segment in segments}
            with self._lock, translated(table):
                handle = self._delta.open(table)
                if handle is not None:
                    stored = self._delta.dataset(handle, table)
                    starts = {s: max(start, handle.transaction_version(s.name) or 0) for s, start in starts.items()}
            records = list(pending_rows(table, starts, where))
        if not records:
            return stored, None
        arrow, _ = to_arrow(spec_of(table), records)  # what does not fit will be set aside by the drainer
        return stored, ds.dataset(arrow) if arrow.num_rows else None


def rows_of(spec: TableSpec, table: str, rows: Sequence[Mapping[str, Any]]) -> Any:
    """Rows of JSON values as a pyarrow table.

    Raises:
        IntegrityError: one does not fit; says which and why.
    """
    arrow, bad = to_arrow(spec, rows)
    if bad:
        raise IntegrityError(
            f"row {bad[0].place} does not fit the table: {bad[0].reason}",
            where=table,
            hint=f"{len(bad)} of {len(rows)} rows are wrong; nothing was written",
        )
    return arrow


def condition(where: Mapping[str, Any] | None) -> Any:
    """An Arrow filter: columns equal these values, a list means any of them."""
    import pyarrow.dataset as ds

    found = None
    for column, value in (where or {}).items():
        field = ds.field(column)
        if value is None:
            one = field.is_null()
        else:
            one = field.isin(value) if isinstance(value, list | tuple | set | frozenset) else field == value
        found = one if found is None else found & one
    return found


def _transactions(given: tuple[str, int] | Transaction | Sequence[Transaction]) -> list[Transaction]:
    if isinstance(given, Transaction):
        return [given]
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], str) and isinstance(given[1], int):
        return [Transaction(given[0], given[1])]
    return [one for one in given if isinstance(one, Transaction)]


def _check_columns(spec: TableSpec, asked: Sequence[str], table: str) -> None:
    for column in asked:
        if column not in spec.names:
            raise NotFoundError(f"no column `{column}`", where=table, hint=f"it has {', '.join(sorted(spec.names))}")
