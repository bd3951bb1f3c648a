"""Processes that act on record and die, and what somebody does who changes the record: by importable names."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Integer, String, column, insert, table, text

from llmops.core.errors import LlmopsError
from llmops.core.identity import Principal
from llmops.core.sql import Sql, open_sql
from llmops.core.state import StateConfig
from llmops.registry.audit import Audit

ALICE = Principal("alice@example.org", "person", frozenset({"risk"}))
EFFECTS = table("effects", column("writer", String), column("number", Integer))


@contextmanager
def audit_of(sql: Sql, state: StateConfig) -> Iterator[Audit]:
    audit = Audit(sql, state)
    try:
        yield audit
    finally:
        audit.close()


def make_effects(sql: Sql) -> None:
    with sql.begin() as connection:
        connection.execute(text("CREATE TABLE effects (writer VARCHAR(40), number INTEGER)"))


def effects(sql: Sql) -> list[tuple[str, int]]:
    with sql.read() as connection:
        rows = connection.execute(text("SELECT writer, number FROM effects ORDER BY writer, number"))
        return [(row.writer, row.number) for row in rows]


def act(audit: Audit, sql: Sql, writer: str, number: int) -> None:
    """One action whose effect is a row."""
    with audit.acting("deploy", f"dev.docs.{writer}", {"number": number}, ALICE) as acting, sql.begin() as connection:
        connection.execute(insert(EFFECTS).values(writer=writer, number=number))
        acting.concluded(connection, result={"number": number})


def act_often(state: StateConfig, writer: str, count: int) -> None:
    with open_sql(state) as sql, audit_of(sql, state) as audit:
        for number in range(count):
            while True:
                try:
                    act(audit, sql, writer, number)
                    break
                except LlmopsError:  # SQLite gave up waiting for the others; nothing was done
                    continue


def act_and_die(state: StateConfig, where: str) -> None:
    """Act, and be killed (SIGKILL) before the effect, within its transaction, or after its commit."""

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with open_sql(state) as sql, audit_of(sql, state) as audit, audit.acting("deploy", "dev.docs.chat") as acting:
        if where == "before":
            die()
        with sql.begin() as connection:
            connection.execute(insert(EFFECTS).values(writer="killed", number=1))
            acting.concluded(connection)
            if where == "within":
                die()
        die()


def tamper(sql: Sql, *statements: str, **values: Any) -> None:
    """Change what may not be changed, as the owner of a database can."""
    with sql.begin() as connection:
        for table_ in ("audit_log", "evidence"):
            _disarm(connection, sql, table_)
        for statement in statements:
            connection.execute(text(statement), values)


def _disarm(connection: Connection, sql: Sql, table_: str) -> None:
    if sql.is_sqlite:
        for verb in ("update", "delete"):
            connection.execute(text(f"DROP TRIGGER IF EXISTS {table_}_no_{verb}"))
    else:
        connection.execute(text(f"ALTER TABLE {table_} DISABLE TRIGGER ALL"))
