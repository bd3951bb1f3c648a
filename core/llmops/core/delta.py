"""Delta tables under one root, each a folder `<catalog>/<schema>/<asset>`: made, read, appended to, merged, kept small.

This module is the one that knows deltalake. Every commit of a local table is durable before a method returns. A table
that was declared keeps its description in its own metadata, so that it goes where the table goes. Rows are Arrow here.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from llmops.core import deltafiles
from llmops.core.deltastore import file_system
from llmops.core.errors import ConflictError, IntegrityError, LlmopsError, NotFoundError, StorageError
from llmops.core.files import exclusive_lock
from llmops.core.names import Name
from llmops.core.tables import TABLES, TableSpec

_CHECKPOINT_EVERY = 100
_VACUUM_AFTER_H = 168
_SPEC = "llmops.table"
_NOTE = "llmops.note"
_LOG_KEPT = "delta.logRetentionDuration"
WRITER_WAIT_S = 30.0
RETAIN_DAYS = "retain_days"
"""The property of a declared table that says for how long its old versions can be read; else 90 days."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """An application's mark in a table's log: everything of `app_id` up to `version` is in."""

    app_id: str
    version: int


class DeltaTables:
    """All tables under one root. Thread-safe; several processes may read, and append, at once."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.is_local = "://" not in root
        self._handles: dict[str, Any] = {}
        self.lock = threading.RLock()

    def names(self) -> list[str]:
        """The names of the local tables that exist."""
        root = Path(self.root)
        return sorted(".".join(log.parent.relative_to(root).parts) for log in root.glob("*/*/*/_delta_log"))

    def open(self, table: str) -> Any:
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

    def at(self, table: str, version: int) -> Any:
        """The table as it was at a version.

        Raises:
            NotFoundError: it never got there, or what it was made of is no longer kept.
        """
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError

        handle = self.open(table)
        if handle is None:
            raise NotFoundError(f"no table `{table}`")
        if handle.version() == version:
            return handle
        try:
            return DeltaTable(self._uri(table), version=version)
        except (DeltaError, ValueError, OverflowError) as error:
            hint = f"it is at version {handle.version()}; old ones are kept for a time"
            raise NotFoundError(f"`{table}` has no version {version}", hint=hint) from error

    def spec(self, handle: Any) -> TableSpec | None:
        """The description a table carries, None where it was not declared."""
        kept = handle.metadata().configuration.get(_SPEC)
        return None if kept is None else TableSpec.from_json(orjson.loads(kept))

    def create(self, table: str, spec: TableSpec) -> Any:
        """Make a table, or give the one there is: another process may be as fast."""
        from deltalake import DeltaTable

        if self.is_local:
            self.path(table).mkdir(parents=True, exist_ok=True)
        handle = DeltaTable.create(
            self._uri(table),
            schema=spec.schema(),
            mode="ignore",
            partition_by=[spec.partition_by] if spec.partition_by else None,
            description=spec.description or None,
            configuration=_configuration(spec),
            raise_if_key_not_exists=False,
        )
        if self.is_local:
            deltafiles.sync_new_table(self.path(table), Path(self.root))
        self._handles[table] = handle
        return handle

    def declare(self, table: str, handle: Any, spec: TableSpec) -> None:
        """Bring a table that is there to a later declaration of it: columns may be added, descriptions may change.

        Raises:
            IntegrityError: the declaration takes a column away, or changes what one is.
        """
        kept = self.spec(handle) or TableSpec.of_schema(spec.asset, _arrow_schema(handle))
        if kept == spec:
            return
        now = {column.name: (column.type, column.required) for column in spec.columns}
        before = {column.name: (column.type, column.required) for column in kept.columns}
        wrong = [name for name, what in before.items() if now.get(name) != what]
        wrong += [name for name, (_, required) in now.items() if name not in before and required]
        if wrong or (kept.primary_key, kept.partition_by) != (spec.primary_key, spec.partition_by):
            what = f"column `{wrong[0]}`" if wrong else "key or partition"
            hint = "columns may be added where they need not be filled; anything else is another table"
            raise IntegrityError(f"the table there has another {what}", where=table, hint=hint, code="schema_mismatch")
        there = {field.name for field in handle.schema().fields}
        if added := [field for field in _delta_schema(spec).fields if field.name not in there]:
            handle.alter.add_columns(added)
            self._settle(table, handle)
        handle.alter.set_table_properties(_configuration(spec), raise_if_not_exists=False)
        self._settle(table, handle)

    def append(self, table: str, handle: Any, arrow: Any, transactions: Sequence[Transaction]) -> int:
        """Append in one durable commit; gives its version."""
        from deltalake import write_deltalake

        known = {field.name for field in handle.schema().fields}
        write_deltalake(
            handle,
            arrow,
            mode="append",
            schema_mode=None if known.issuperset(arrow.schema.names) else "merge",
            commit_properties=_marked(transactions),
            post_commithook_properties=_no_hooks(),
            writer_properties=_writer(),
        )
        return self._settle(table, handle)

    def merge(
        self, table: str, handle: Any, arrow: Any, key: Sequence[str], transactions: Sequence[Transaction]
    ) -> int:
        """Replace rows of the same key and add the others, in one durable commit; gives its version."""
        predicate = " AND ".join(f'kept."{name}" = given."{name}"' for name in key)
        merger = handle.merge(
            arrow,
            predicate,
            source_alias="given",
            target_alias="kept",
            writer_properties=_writer(),
            commit_properties=_marked(transactions),
            post_commithook_properties=_no_hooks(),
        )
        merger.when_matched_update_all().when_not_matched_insert_all().execute()
        return self._settle(table, handle)

    def replace(self, table: str, handle: Any, arrow: Any, transactions: Sequence[Transaction], note: str) -> int:
        """Put these rows in the place of all there were, in one durable commit with a note; gives its version."""
        from deltalake import write_deltalake

        write_deltalake(
            handle,
            arrow,
            mode="overwrite",
            commit_properties=_marked(transactions, {_NOTE: note}),
            post_commithook_properties=_no_hooks(),
            writer_properties=_writer(),
        )
        return self._settle(table, handle)

    def erase(self, table: str, handle: Any, rows: str, blanked: Mapping[str, str] | None) -> int:
        """Delete the rows that an SQL condition names, or put other values into some of their columns.

        Old versions still hold them until `purge`. The condition stays in the log: let it name keys, and no words.

        Args:
            blanked: SQL expression by column; None: delete.
        """
        settings = {"writer_properties": _writer(), "post_commithook_properties": _no_hooks()}
        if blanked is None:
            handle.delete(rows, **settings)
        else:
            handle.update(updates=dict(blanked), predicate=rows, **settings)
        return self._settle(table, handle)

    def purge(self, table: str, handle: Any) -> None:
        """Delete what only old versions refer to, and the log's own words about it; a reader of those must read again.

        Files that no version ever named stay: another process may be about to commit them.
        """
        hooks = _no_hooks()
        handle.vacuum(0, dry_run=False, enforce_retention_duration=False, post_commithook_properties=hooks)
        kept = handle.metadata().configuration.get(_LOG_KEPT, "interval 30 days")
        handle.alter.set_table_properties({_LOG_KEPT: "interval 0 days"}, raise_if_not_exists=False)
        self._settle(table, handle)
        self._checkpoint(handle, table)
        handle.cleanup_metadata()
        handle.alter.set_table_properties({_LOG_KEPT: kept}, raise_if_not_exists=False)
        self._settle(table, handle)
        if self.is_local:
            for torn in (self.path(table) / "_delta_log").glob("*.torn"):
                torn.unlink()

    def note(self, handle: Any) -> str | None:
        """The note of the last replacement that the log still tells of."""
        return next((str(entry[_NOTE]) for entry in handle.history() if _NOTE in entry), None)

    def dataset(self, handle: Any, table: str, files: Sequence[str] | None = None) -> Any:
        """The table's files for Arrow to read, by Arrow's own code.

        Raises:
            ConfigError: the root is in a store that Arrow can't read.
        """
        found = handle.to_pyarrow_dataset(filesystem=file_system(self._uri(table)))
        if files is None:
            return found
        import pyarrow.dataset as ds

        wanted = [one for one in found.get_fragments() if one.path in set(files)]
        return ds.FileSystemDataset(wanted, found.schema, found.format, found.filesystem)

    def maintain(self, table: str) -> dict[str, Any]:
        """Rewrite small files into large ones, delete what nothing refers to any more, shorten the log."""
        handle = self.open(table)
        if handle is None:
            return {}
        before = handle.version()
        metrics: dict[str, Any] = handle.optimize.compact(post_commithook_properties=_no_hooks())
        if handle.version() != before and self.is_local:
            deltafiles.sync_commit(self.path(table), handle.version())
        hours = _VACUUM_AFTER_H if self.spec(handle) is None else None  # a declared table says itself
        removed = handle.vacuum(retention_hours=hours, dry_run=False, post_commithook_properties=_no_hooks())
        self._checkpoint(handle, table)
        handle.cleanup_metadata()
        return {
            "files_merged": metrics["numFilesRemoved"],
            "files_written": metrics["numFilesAdded"],
            "files_deleted": len(removed),
        }

    def mend(self, table: str) -> list[int]:
        """Set torn commits of a power cut aside; for a table's one writer, before it writes."""
        self._handles.pop(table, None)
        return deltafiles.set_aside_torn_commits(self.path(table)) if self.is_local else []

    @contextmanager
    def alone(self, table: str) -> Iterator[None]:
        """Hold a local table against its other writers on this machine, and mend what a power cut left of theirs.

        Raises:
            ConflictError: another process has been writing it for half a minute.
        """
        if not self.is_local:
            yield
            return
        lock = Path(self.root) / ".locks" / f"{table}.lock"
        with self.lock, exclusive_lock(lock, what=f"writing {table}", wait_s=WRITER_WAIT_S):
            self.mend(table)
            yield

    def path(self, table: str) -> Path:
        return Path(self._uri(table))

    def _uri(self, table: str) -> str:
        name = Name.parse(table)
        return "/".join((self.root.rstrip("/"), name.catalog, name.schema, name.asset))

    def _settle(self, table: str, handle: Any) -> int:
        version: int = handle.version()
        if self.is_local:
            deltafiles.sync_commit(self.path(table), version)
        if version % _CHECKPOINT_EVERY == 0:
            self._checkpoint(handle, table)
        return version

    def _checkpoint(self, handle: Any, table: str) -> None:
        handle.create_checkpoint()
        if self.is_local:
            deltafiles.sync_log(self.path(table))


def is_in(handle: Any, transaction: Transaction) -> bool:
    """Whether a table has an application's transaction already."""
    version = handle.transaction_version(transaction.app_id)
    return version is not None and version >= transaction.version


@contextmanager
def translated(table: str) -> Iterator[None]:
    """Say deltalake's errors in our words."""
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


def _configuration(spec: TableSpec) -> dict[str, str]:
    indexed = [column.name for column in spec.columns if column.name not in spec.bodies]
    # the log's statistics must not repeat what people wrote
    shared = {"delta.dataSkippingStatsColumns": ",".join(indexed)}
    if spec.asset in TABLES:
        # a commit every few seconds makes many entries; checkpoints hold what older ones said
        return shared | {_LOG_KEPT: "interval 1 days"}
    kept = f"interval {int(spec.properties.get(RETAIN_DAYS, '90'))} days"
    kept_for = {_LOG_KEPT: kept, "delta.deletedFileRetentionDuration": kept}
    return shared | kept_for | {_SPEC: orjson.dumps(spec.as_json()).decode()}


def _arrow_schema(handle: Any) -> Any:
    import pyarrow as pa

    return pa.schema(handle.schema().to_arrow())


def _delta_schema(spec: TableSpec) -> Any:
    from deltalake import Schema

    return Schema.from_arrow(spec.schema())


def _marked(transactions: Sequence[Transaction], metadata: dict[str, str] | None = None) -> Any:
    from deltalake import CommitProperties
    from deltalake import Transaction as DeltaTransaction

    marks = [DeltaTransaction(one.app_id, one.version) for one in transactions]
    return CommitProperties(custom_metadata=metadata, app_transactions=marks)


def _writer() -> Any:
    from deltalake import WriterProperties

    return WriterProperties(compression="ZSTD", compression_level=1)


def _no_hooks() -> Any:
    """No checkpoint and no clean-up behind our back: both have to wait for our fsync."""
    from deltalake import PostCommitHookProperties

    return PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)


def _meaning(error: Exception, table: str) -> LlmopsError:
    text = str(error)
    if isinstance(error, OSError) or "os error" in text:
        return StorageError(f"the lake cannot be read or written: {text}", where=table, hint="is the disk full?")
    return IntegrityError(
        f"the table cannot be opened: {text}",
        where=table,
        hint="a running drainer sets aside what a power cut left torn",
    )
