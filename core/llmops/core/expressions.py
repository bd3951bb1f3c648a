"""SQL expressions over the columns of a table in memory: which rows, and what a rule says of each.

Knows duckdb's language and no table of the lake. An expression reaches nothing but the row: neither files nor network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmops.core.errors import UserError


def evaluate(table: Any, expressions: Sequence[str]) -> list[Any]:
    """The value of each expression in every row of a pyarrow table, in the rows' order.

    Raises:
        UserError: an expression does not fit the table's columns.
    """
    import duckdb

    with duckdb.connect() as connection:
        connection.execute("SET enable_external_access = false; SET TimeZone = 'UTC'")
        connection.register("rows", table)
        found = []
        for expression in expressions:
            try:
                relation = connection.sql(f"SELECT ({expression}) AS value FROM rows")  # noqa: S608 - the user's own
                values = relation.to_arrow_table().column("value")
            except duckdb.Error as error:
                raise UserError(
                    f"the expression does not fit the table: {str(error).partition(chr(10))[0]}",
                    where=expression,
                    hint=f"its columns are {', '.join(table.column_names)}",
                ) from error
            if len(values) != table.num_rows:
                raise UserError("the expression gives no value a row", where=expression)
            found.append(values)
        return found


def keep(table: Any, condition: str) -> Any:
    """The rows for which a condition holds; where it is null it does not."""
    (values,) = evaluate(table, [condition])
    if str(values.type) != "bool":
        raise UserError("this is no condition: it is not true or false", where=condition)
    return table.filter(values)
