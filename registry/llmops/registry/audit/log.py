"""The audit log: an intent is committed before its effect, an outcome together with it, each row sealed to the last.

Knows the order of the steps and how rows are appended by many writers at once. Checking the chain is `verify`'s; who
may act is `access`'.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from llmops.core.errors import ConflictError, DeniedError, IntegrityError, LlmopsError
from llmops.core.identity import LOCAL, Principal
from llmops.core.ids import new_id
from llmops.core.names import CATALOGS
from llmops.core.sql import Sql
from llmops.core.state import StateConfig
from llmops.registry.audit import entries, tables
from llmops.registry.audit.anchor import Anchor, Mark
from llmops.registry.audit.entries import ABANDONED, DENIED, DONE, FAILED, INTENT, Entry, Origin
from llmops.registry.audit.keyfile import load_key
from llmops.registry.audit.reading import Wanted, find
from llmops.registry.audit.session import Session, ended, forget
from llmops.registry.audit.verification import Report, verify

_log = logging.getLogger(__name__)


class Acting:
    """One action under way: its intent is on record, and its outcome will be."""

    def __init__(self, audit: Audit, said: dict[str, Any]) -> None:
        self._audit = audit
        self._said = said
        self._concluded = False

    @property
    def action_id(self) -> str:
        """What intent and outcome have in common; worth keeping beside the effect."""
        return str(self._said["action_id"])

    def concluded(
        self, connection: Connection, *, result: Mapping[str, Any] | None = None, evidence_id: str | None = None
    ) -> None:
        """Write the outcome in the effect's own transaction; best as its last statement, for other writers wait for it.

        Raises:
            ConflictError: the action was given up for dead, and concluded as abandoned, while it ran.
        """
        outcome = {"status_code": 200, "evidence_id": evidence_id}
        if result is not None:
            outcome["result"] = entries.clean_json(result)
        if not self._audit._conclude(connection, self._said, DONE, outcome):
            raise ConflictError(
                "this action was concluded as abandoned while it ran", where=str(self._said["about"]), hint="run again"
            )
        self._concluded = True


class Audit:
    """The log of one state. Thread-safe; each process that acts opens its own."""

    def __init__(self, sql: Sql, state: StateConfig, *, origin: Origin | None = None) -> None:
        self._sql = sql
        self._state = state
        self._origin = origin or Origin.local()
        self._anchor = Anchor(state.anchor)
        self._lock = threading.Lock()
        self._live: set[str] = set()
        self._owing = False  # an outcome that could not be written
        self._session: Session | None = None
        self._key = b""

    def close(self) -> None:
        with self._lock:
            if self._session is not None:
                self._session.close(owing=self._owing)
                self._session, self._owing = None, False

    @contextmanager
    def acting(
        self, action: str, about: str, params: Mapping[str, Any] | None = None, principal: Principal = LOCAL,
        origin: Origin | None = None,
    ) -> Iterator[Acting]:  # fmt: skip
        """Put an action on record around its effect. Enter it outside any transaction: the intent has its own.

        An exception is recorded as the outcome `failed`, a DeniedError as `denied`, in a transaction of its own; a
        block that ends well without `concluded` is recorded as done.

        Args:
            origin: where the principal comes from, where it is not this process itself.

        Raises:
            IntegrityError: the key is gone, or is not the one this chain was begun with.
            StorageError, UnavailableError: the intent cannot be written; nothing else was done.
        """
        self._open()
        said = self._saying(action, about, params or {}, principal, origin)
        acting = Acting(self, said)
        self._live.add(acting.action_id)
        try:
            with self._sql.begin() as connection:
                seq = self._append(connection, said | {"phase": INTENT})
                self._note_open(connection, said, seq)
            try:
                self._anchored()
                yield acting
            except BaseException as error:
                self._fail(said, error)
                raise
            if not acting._concluded:
                self._conclude_late(acting)
            self._anchored_later()
        finally:
            self._live.discard(acting.action_id)

    def refused(
        self, action: str, about: str, error: DeniedError, params: Mapping[str, Any] | None = None,
        principal: Principal = LOCAL, *, origin: Origin | None = None,
    ) -> None:  # fmt: skip
        """Put an attempt on record that was refused before it had become an action: intent and outcome at once."""
        self._open()
        said = self._saying(action, about, params or {}, principal, origin)
        with self._sql.begin() as connection:
            self._append(connection, said | {"phase": INTENT})
            self._append(connection, said | _failure(error))
        self._anchored_later()

    def witnessed(
        self, action: str, about: str, params: Mapping[str, Any], outcome: Mapping[str, Any], *,
        principal: Principal = LOCAL, origin: Origin,
    ) -> bool:  # fmt: skip
        """Put on record what another process did, and wrote down itself before and after: intent and outcome at once.

        Args:
            outcome: the outcome's own columns, `phase` among them.
            origin: its `request_id` names the act; False where the log tells of that one already.

        Raises:
            IntegrityError: the key is gone, or is not the one this chain was begun with.
            StorageError, UnavailableError: it cannot be written; tell it again later.
        """
        self._open()
        said = self._saying(action, about, params, principal, origin)
        known = select(tables.log.c.seq).where(
            tables.log.c.about == about, tables.log.c.request_id == origin.request_id
        )
        with self._sql.begin() as connection:
            connection.execute(select(tables.head).with_for_update()).one()  # another who tells the same has to wait
            if connection.execute(known.limit(1)).first() is not None:
                return False
            self._append(connection, said | {"phase": INTENT})
            self._append(connection, said | _told(outcome))
        self._anchored_later()
        return True

    def recover(self, took_effect: Callable[[Entry], bool] = lambda intent: False) -> list[Entry]:
        """Conclude what processes of this state folder left open when they died; gives the intents concluded.

        Args:
            took_effect: tells of an intent whose effect lies outside this database whether it came about; then it is
                concluded as done, not as abandoned. An effect inside has its outcome beside it.
        """
        dead = ended(self._state)
        found = []
        if any(self._left_by(dead)):
            self._begin()
            found = [intent for intent in self._left_by(dead) if self._abandon(intent, done=took_effect(intent))]
            self._anchored_later()
        for session_id in dead:
            forget(self._state, session_id)
        return found

    def read(self, wanted: Wanted | None = None) -> list[Entry]:
        """Rows of the log, newest first."""
        with self._sql.read() as connection:
            return find(connection, wanted or Wanted())

    def ends(self) -> Mark:
        """Where the log ends, as its head remembers; 0 before the first row."""
        return self._head()[0]

    def verify(self) -> Report:
        """Check the whole chain; see `verify`."""
        return verify(self._sql, self._state)

    def left_open(self) -> list[Entry]:
        """The intents that `recover` would conclude now."""
        return self._left_by(ended(self._state))

    def _open(self) -> None:
        """Before the first row of this process: begin, and conclude what the dead left."""
        if self._begin():
            self.recover()

    def _begin(self) -> bool:
        """Have the key and be known as alive; False where that was so already.

        Raises:
            IntegrityError: the key is gone, or is another.
        """
        with self._lock:
            if self._session is not None:
                return False
            mark, chain = self._head()
            self._key = load_key(self._state, make=mark.seq == 0)
            if chain and chain != entries.fingerprint(self._key):
                raise _other_key(self._state)
            if mark.seq == 0:
                self._anchor.begin(mark)
            self._session = Session(self._state)
        self._anchored()
        return True

    def _saying(
        self, action: str, about: str, params: Mapping[str, Any], principal: Principal, origin: Origin | None = None
    ) -> dict[str, Any]:
        """The columns that an intent and its outcome have in common."""
        catalog = about.partition(".")[0]
        of_catalog = "." in about or catalog in CATALOGS
        origin = origin or self._origin
        assert self._session is not None
        return {
            "action_id": new_id(),
            "version": entries.VERSION,
            "audit_level": "WORKSPACE_LEVEL" if of_catalog else "ACCOUNT_LEVEL",
            "account_id": entries.fingerprint(self._key),
            "org_id": catalog if of_catalog else None,
            "source_ip_address": origin.source_ip_address,
            "user_agent": origin.user_agent,
            "session_id": self._session.session_id,
            "request_id": origin.request_id,
            **entries.who(principal),
            "service_name": origin.service_name,
            "action_name": action,
            "about": about[:300],
            "request_params": entries.clean_json(params),
        }

    def _append(self, connection: Connection, values: dict[str, Any]) -> int:
        """Seal a row to the last one. The lock on the head makes all writers of this database stand in one line."""
        head = connection.execute(select(tables.head).with_for_update()).one()
        if head.account_id and head.account_id != values["account_id"]:
            raise _other_key(self._state)
        seq: int = head.seq + 1
        row: dict[str, Any] = dict.fromkeys(entries.COLUMNS) | values
        row |= {"seq": seq, "event_time": entries.now(), "prev_hash": head.hash}
        row["hash"] = entries.seal(self._key, [row[column] for column in entries.SEALED])
        connection.execute(insert(tables.log).values(row))
        moved = {"seq": seq, "hash": row["hash"], "account_id": row["account_id"]}
        connection.execute(update(tables.head).values(moved))
        return seq

    def _note_open(self, connection: Connection, said: dict[str, Any], seq: int) -> None:
        row = {"action_id": said["action_id"], "seq": seq, "session_id": said["session_id"]}
        connection.execute(insert(tables.open_actions).values(row))

    def _conclude(self, connection: Connection, said: dict[str, Any], phase: str, outcome: dict[str, Any]) -> bool:
        """Write an action's one outcome; False where it has it already."""
        still = tables.open_actions.c.action_id == said["action_id"]
        if connection.execute(delete(tables.open_actions).where(still)).rowcount == 0:
            return False
        self._append(connection, said | {"phase": phase} | outcome)
        return True

    def _conclude_late(self, acting: Acting) -> None:
        """The outcome `done` of an effect that had no transaction of its own to write it in."""
        try:
            with self._sql.begin() as connection:
                acting.concluded(connection)
        except LlmopsError:
            self._owing = True
            raise

    def _fail(self, said: dict[str, Any], error: BaseException) -> None:
        """Record why it did not come about, unless it did and only what followed failed."""
        try:
            with self._sql.begin() as connection:
                failure = _failure(error)
                self._conclude(connection, said, failure.pop("phase"), failure)
        except LlmopsError as again:  # the error that matters is on its way to the caller; `recover` finds the intent
            self._owing = True
            _log.error("the outcome of %s on %s is not on record: %s", said["action_name"], said["about"], again.what)
        else:
            self._anchored_later()

    def _abandon(self, intent: Entry, *, done: bool) -> bool:
        said = {name: value for name, value in vars(intent).items() if name not in _OF_ONE_ROW}
        outcome = {"result": entries.clean_json({"recovered": True})}
        with self._sql.begin() as connection:
            return self._conclude(connection, said, DONE if done else ABANDONED, outcome)

    def _left_by(self, dead: set[str]) -> list[Entry]:
        """The open intents of sessions that died, and of this one where nobody is at them any more."""
        mine = {self._session.session_id} if self._session is not None else set()
        still = tables.open_actions.c
        query = select(tables.log).join(tables.open_actions, still.seq == tables.log.c.seq)
        with self._sql.read() as connection:
            rows = connection.execute(query.where(still.session_id.in_(dead | mine)).order_by(still.seq))
            return [intent for intent in (Entry(*row) for row in rows) if intent.action_id not in self._live]

    def _head(self) -> tuple[Mark, str]:
        with self._sql.read() as connection:
            row = connection.execute(select(tables.head)).one()
        return Mark(row.seq, row.hash), row.account_id

    def _anchored(self) -> None:
        """Let the anchor follow what is committed; where somebody took it away, the chain itself tells of the new one.

        Raises:
            StorageError: it cannot be written.
        """
        mark, _ = self._head()
        if self._anchor.advance(mark):
            return
        said = self._saying(entries.ANCHOR, "*", {"after": mark.seq, "path": str(self._anchor.path)}, LOCAL)
        with self._sql.begin() as connection:
            self._append(connection, said | {"phase": INTENT})
            self._append(connection, said | {"phase": DONE, "status_code": 200})
        self._anchor.begin(self._head()[0])

    def _anchored_later(self) -> None:
        """The same after an effect, which stands whether the anchor can be written or not."""
        try:
            self._anchored()
        except LlmopsError as error:
            _log.warning("the anchor of the audit chain is behind: %s (%s)", error.what, error.where)


_OF_OUTCOME = {"status_code", "error_message", "result", "evidence_id"}
_OF_ONE_ROW = {"seq", "phase", "event_time", "prev_hash", "hash"} | _OF_OUTCOME


def _told(outcome: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of an outcome that was told, as clean as one of our own."""
    error, result = outcome.get("error_message"), outcome.get("result")
    return {
        **outcome,
        "error_message": None if error is None else entries.clean_text(error),
        "result": None if result is None else entries.clean_json(result),
    }


def _failure(error: BaseException) -> dict[str, Any]:
    """The columns of an outcome that is no success."""
    what = error.what if isinstance(error, LlmopsError) else f"{type(error).__name__}: {error}"
    return {
        "phase": DENIED if isinstance(error, DeniedError) else FAILED,
        "status_code": error.http_status if isinstance(error, LlmopsError) else 500,
        "error_message": entries.clean_text(what),
    }


def _other_key(state: StateConfig) -> IntegrityError:
    return IntegrityError(
        "the key is not the one that this audit chain was begun with",
        where=state.audit_key or str(state.root / "audit.key"),
        hint="restore the key; nothing was written",
    )
