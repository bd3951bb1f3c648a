"""The lake: Delta tables by three-level name, appended to exactly once and durably, queried with DuckDB.

`dev.serving.feedback` is the folder (or URL) `<root>/dev/serving/feedback`. What still lies in the spool can be read
along, so that a thumb is visible at once. This module is the one that knows deltalake and duckdb.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops.core import deltafiles
from llmops.core.convert import to_arrow
from llmops.core.errors import ConflictError, IntegrityError, LlmopsError, NotFoundError, StorageError, UserError
from llmops.core.names import Name
from llmops.core.pending import pending_rows
from llmops.core.segments import open_segments
from llmops.core.state import StateConfig
from llmops.core.tables import TABLES, VIEWS, TableSpec, ViewSpec, spec_of

_NAME_IN_SQL = re.compile(r"\b[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*\b")
_CHECKPOINT_EVERY = 100
_VACUUM_AFTER_H = 168


@dataclass(frozen=True, slots=True)
class Transaction:
    """An application's mark in a table's log: everything of `app_id` up to `version` is in."""

    app_id: str
    version: int


class Lake:
    """All tables under one root. Thread-safe; several processes may read, and append, at once."""

    def __init__(self, state: StateConfig) -> None:
        self.root = state.lake
        self.is_local = "://" not in state.lake
        self._spool = state.spool
        self._handles: dict[str, Any] = {}
        self._lock = threading.RLock()

    def tables(self) -> list[str]:
        """The names of the local tables that exist."""
        root = Path(self.root)
        return sorted(".".join(log.parent.relative_to(root).parts) for log in root.glob("*/*/*/_delta_log"))

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
        arrow, bad = to_arrow(spec_of(table), rows)
        if bad:
            raise IntegrityError(
                f"row {bad[0].place} does not fit the table: {bad[0].reason}",
                where=table,
                hint=f"{len(bad)} of {len(rows)} rows are wrong; nothing was appended",
            )
        return self.append_arrow(table, arrow, _transactions(transaction))

    def append_arrow(self, table: str, arrow: Any, transactions: Sequence[Transaction] = ()) -> int | None:
        """Like `append`, for a pyarrow table in the table's own schema."""
        from deltalake import CommitProperties, WriterProperties, write_deltalake
        from deltalake import Transaction as DeltaTransaction

        with self._lock, _translated(table):
            handle = self._open(table) or self._create(table)
            if transactions and all(_is_in(handle, transaction) for transaction in transactions):
                return None
            known = {field.name for field in handle.schema().fields}
            write_deltalake(
                handle,
                arrow,
                mode="append",
                schema_mode=None if known.issuperset(arrow.schema.names) else "merge",
                commit_properties=CommitProperties(
                    app_transactions=[DeltaTransaction(one.app_id, one.version) for one in transactions]
                ),
                post_commithook_properties=_no_hooks(),
                writer_properties=WriterProperties(compression="ZSTD", compression_level=1),
            )
            version: int = handle.version()
            if self.is_local:
                deltafiles.sync_commit(self._path(table), version)
            if version % _CHECKPOINT_EVERY == 0:
                self._checkpoint(handle, table)
            return version

    def committed(self, table: str, app_ids: Iterable[str]) -> dict[str, int]:
        """Up to which version each application's transactions are in the table; -1 for none."""
        with self._lock, _translated(table):
            handle = self._open(table)
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
        key = spec_of(table).primary_key
        if columns is not None and key not in columns:
            return found
        return list({row[key]: row for row in found}.values())

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
        import duckdb

        with duckdb.connect() as connection:
            for place, name in enumerate(sorted(set(_NAME_IN_SQL.findall(sql)))):
                schema, _, asset = name.rpartition(".")
                view = VIEWS.get(asset)
                source = self._source(f"{schema}.{view.base}" if view else name, include_pending)
                if source is not None:
                    connection.register(f"source_{place}", source)
                    _show(connection, name, f"source_{place}", view)
            connection.execute("SET enable_external_access = false; SET TimeZone = 'UTC'")
            try:
                relation = connection.sql(sql, params=params or None)
                if relation is None:
                    raise UserError("the query gives no rows", where=sql, hint="write one SELECT")
                return relation.to_arrow_table()
            except duckdb.Error as error:
                raise UserError(f"the query failed: {error}", where=sql) from error

    def maintain(self, table: str) -> dict[str, Any]:
        """Rewrite small files into large ones, delete what nothing refers to any more, shorten the log."""
        with self._lock, _translated(table):
            handle = self._open(table)
            if handle is None:
                return {}
            before = handle.version()
            metrics: dict[str, Any] = handle.optimize.compact(post_commithook_properties=_no_hooks())
            if handle.version() != before and self.is_local:
                deltafiles.sync_commit(self._path(table), handle.version())
            removed = handle.vacuum(
                retention_hours=_VACUUM_AFTER_H, dry_run=False, post_commithook_properties=_no_hooks()
            )
            self._checkpoint(handle, table)
            handle.cleanup_metadata()
            return {
                "files_merged": metrics["numFilesRemoved"],
                "files_written": metrics["numFilesAdded"],
                "files_deleted": len(removed),
            }

    def mend(self, table: str) -> list[int]:
        """Set torn commits of a power cut aside; for the one drainer, before it writes."""
        with self._lock:
            self._handles.pop(table, None)
            return deltafiles.set_aside_torn_commits(self._path(table)) if self.is_local else []

    def _arrow(
        self, table: str, where: Mapping[str, Any] | None, columns: Sequence[str] | None, include_pending: bool
    ) -> Any:
        import pyarrow as pa

        spec = spec_of(table)
        _check_columns(spec, [*(where or ()), *(columns or ())], table)
        stored, waiting = self._snapshot(table, where, include_pending)
        pieces = []
        for piece in (stored, waiting):
            if piece is not None:
                pieces.append(piece.to_table(columns=columns, filter=_condition(where)))
        if not pieces:
            schema = spec.schema()
            return schema.empty_table().select(list(columns) if columns is not None else schema.names)
        return pa.concat_tables(pieces, promote_options="default")

    def _source(self, name: str, include_pending: bool) -> Any:
        """What stands behind a name in a query: a dataset, or one table of everything; None for no table of ours."""
        if name.rpartition(".")[2] not in TABLES:
            if self._open(name) is None:
                return None
            return self._dataset(self._open(name), name)
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
            with self._lock, _translated(table):
                handle = self._open(table)
                if handle is not None:
                    stored = self._dataset(handle, table)
                    starts = {s: max(start, handle.transaction_version(s.name) or 0) for s, start in starts.items()}
            records = list(pending_rows(table, starts, where))
        arrow, _ = to_arrow(spec_of(table), records)  # what does not fit will be set aside by the drainer
        return stored, ds.dataset(arrow) if arrow.num_rows else None

    def _dataset(self, handle: Any, table: str) -> Any:
        """The table's files for Arrow to read; local ones by Arrow's own code.

        deltalake's file system calls back into Python. An Arrow thread that lets go of its file while the interpreter
        ends is killed inside C++, and the whole process with it: one reading command in four ended so.
        """
        from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

        files = SubTreeFileSystem(str(self._path(table)), LocalFileSystem()) if self.is_local else None
        return handle.to_pyarrow_dataset(filesystem=files)

    def _path(self, table: str) -> Path:
        return Path(self._uri(table))

    def _uri(self, table: str) -> str:
        name = Name.parse(table)
        return "/".join((self.root.rstrip("/"), name.catalog, name.schema, name.asset))

    def _open(self, table: str) -> Any:
        """The table at its newest version, or None where there is none yet."""
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, TableNotFoundError

        handle = self._handles.get(table)
        if handle is not None:
            try:
                handle.update_incremental()
            except DeltaError:  # the log was shortened, or the table removed, since we looked: open it anew
                del self._handles[table]
            else:
                return handle
        uri = self._uri(table)
        if self.is_local and not (Path(uri) / "_delta_log").is_dir():
            return None
        try:
            self._handles[table] = DeltaTable(uri)
        except TableNotFoundError:
            return None
        return self._handles[table]

    def _create(self, table: str) -> Any:
        from deltalake import DeltaTable

        spec = spec_of(table)
        indexed = [column.name for column in spec.columns if column.name not in spec.bodies]
        if self.is_local:
            self._path(table).mkdir(parents=True, exist_ok=True)
        handle = DeltaTable.create(
            self._uri(table),
            schema=spec.schema(),
            mode="ignore",  # another process may be as fast
            partition_by=[spec.partition_by] if spec.partition_by else None,
            configuration={
                # the log's statistics must not repeat what people wrote
                "delta.dataSkippingStatsColumns": ",".join(indexed),
                # a commit every few seconds makes many entries; checkpoints hold what older ones said
                "delta.logRetentionDuration": "interval 1 days",
            },
        )
        if self.is_local:
            deltafiles.sync_new_table(self._path(table), Path(self.root))
        self._handles[table] = handle
        return handle

    def _checkpoint(self, handle: Any, table: str) -> None:
        handle.create_checkpoint()
        if self.is_local:
            deltafiles.sync_log(self._path(table))


def _transactions(given: tuple[str, int] | Transaction | Sequence[Transaction]) -> list[Transaction]:
    if isinstance(given, Transaction):
        return [given]
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], str) and isinstance(given[1], int):
        return [Transaction(given[0], given[1])]
    return [one for one in given if isinstance(one, Transaction)]


def _is_in(handle: Any, transaction: Transaction) -> bool:
    found = handle.transaction_version(transaction.app_id)
    return found is not None and found >= transaction.version


def _no_hooks() -> Any:
    """No checkpoint and no clean-up behind our back: both have to wait for our fsync."""
    from deltalake import PostCommitHookProperties

    return PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)


def _condition(where: Mapping[str, Any] | None) -> Any:
    import pyarrow.dataset as ds

    condition = None
    for column, value in (where or {}).items():
        field = ds.field(column)
        if value is None:
            one = field.is_null()
        else:
            one = field.isin(value) if isinstance(value, list | tuple | set | frozenset) else field == value
        condition = one if condition is None else condition & one
    return condition


def _check_columns(spec: TableSpec, asked: Sequence[str], table: str) -> None:
    for column in asked:
        if column not in spec.names:
            raise NotFoundError(f"no column `{column}`", where=table, hint=f"it has {', '.join(sorted(spec.names))}")


def _show(connection: Any, name: str, source: str, view: ViewSpec | None) -> None:
    """Put a source behind a three-level name: each catalog is an empty database in memory."""
    parsed = Name.parse(name)
    connection.execute(f"ATTACH IF NOT EXISTS ':memory:' AS \"{parsed.catalog}\"")
    connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{parsed.catalog}"."{parsed.schema}"')
    columns = ", ".join(f"{sql} AS {column}" for column, sql in view.columns.items()) if view else "*"
    shown = f'"{parsed.catalog}"."{parsed.schema}"."{parsed.asset}"'
    connection.execute(f"CREATE VIEW {shown} AS SELECT {columns} FROM {source}")  # noqa: S608 - parts of a checked Name


@contextmanager
def _translated(table: str) -> Iterator[None]:
    from deltalake.exceptions import CommitFailedError, DeltaError, SchemaMismatchError

    try:
        yield
    except CommitFailedError as error:
        raise ConflictError(f"another process changed the table first: {error}", where=table) from error
    except SchemaMismatchError as error:
        raise IntegrityError(
            f"the stored table has other columns: {error}", where=table, code="schema_mismatch"
        ) from error
    except (OSError, DeltaError) as error:
        raise _meaning(error, table) from error


def _meaning(error: Exception, table: str) -> LlmopsError:
    text = str(error)
    if isinstance(error, OSError) or "os error" in text:
        return StorageError(f"the lake cannot be read or written: {text}", where=table, hint="is the disk full?")
    return IntegrityError(
        f"the table cannot be opened: {text}",
        where=table,
        hint="a running drainer sets aside what a power cut left torn",
    )
