"""Held-out rows: the same rows are the same wherever they are stored; slices and filters say what they mean."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from llmops.core.errors import NotFoundError, UserError
from llmops.core.expressions import evaluate, keep
from llmops.core.lake import Lake
from llmops.core.state import StateConfig
from llmops.core.tables import Column, TableSpec
from llmops.registry.gates.heldout import HeldOut, content_digest, read_heldout
from llmops.registry.gates.spec import DataConfig

ROWS = pa.table(
    {"id": [1, 2, 3, 4], "amount": [10.0, 250.0, None, 900.0], "region": ["n", "s", "n", None], "label": [0, 1, 0, 1]}
)


def config(table: object, **changes: object) -> DataConfig:
    return DataConfig.model_validate({"table": str(table), "label": "label", **changes})


def test_the_digest_is_of_the_rows_not_of_the_file(tmp_path: Path) -> None:
    state = StateConfig(dir=tmp_path / "state")
    parquet.write_table(ROWS, tmp_path / "a.parquet")
    parquet.write_table(ROWS, tmp_path / "b.parquet", compression="none", row_group_size=1)
    csv.write_csv(ROWS, tmp_path / "c.csv")
    first, second = (read_heldout(config(tmp_path / name), state) for name in ("a.parquet", "b.parquet"))
    third = read_heldout(config(tmp_path / "c.csv"), state)
    assert first.data.digest == second.data.digest == content_digest(ROWS)
    assert third.data.rows == 4
    assert first.data.version != second.data.version
    changed = ROWS.set_column(1, "amount", pa.array([10.0, 250.0, None, 900.5]))
    moved_null = ROWS.set_column(1, "amount", pa.array([10.0, None, 250.0, 900.0]))
    digests = {
        content_digest(table) for table in (ROWS, changed, moved_null, ROWS.slice(0, 3), ROWS.drop_columns(["id"]))
    }
    assert len(digests) == 5


def test_rows_of_the_lake_are_pinned_by_their_version(tmp_path: Path) -> None:
    state = StateConfig(dir=tmp_path / "state")
    lake, name = Lake(state), "dev.fraud.heldout"
    lake.declare(name, TableSpec("heldout", (Column("id", "long", required=True), Column("label", "long"))))
    for number in range(3):
        lake.append(name, [{"id": number, "label": number % 2}])
    newest = read_heldout(config(name), state)
    assert (newest.data.rows, newest.data.version) == (3, str(lake.version(name)))
    older = read_heldout(config(name, version=int(newest.data.version) - 1), state)
    assert older.data.rows == 2
    with pytest.raises(NotFoundError):
        read_heldout(config("dev.fraud.gone"), state)


def test_filters_and_slices(tmp_path: Path) -> None:
    state = StateConfig(dir=tmp_path / "state")
    parquet.write_table(ROWS, tmp_path / "a.parquet")
    kept = read_heldout(config(tmp_path / "a.parquet", filter="amount > 100"), state)
    assert kept.table.column("id").to_pylist() == [2, 4]  # where it is not known it does not hold
    assert "label" not in kept.features.column_names
    heldout = read_heldout(config(tmp_path / "a.parquet"), state)
    slices = {name: rows.tolist() for name, rows in heldout.slices(["region", "amount > 100"]).items()}
    assert slices == {
        "region = None": [False, False, False, True],
        "region = n": [True, False, True, False],
        "region = s": [False, True, False, False],
        "amount > 100": [False, True, False, True],
        "not (amount > 100)": [True, False, True, False],
    }


def test_rows_without_a_label_are_refused(tmp_path: Path) -> None:
    unlabelled = ROWS.set_column(3, "label", pa.array([0, None, 1, 1]))
    parquet.write_table(unlabelled, tmp_path / "a.parquet")
    with pytest.raises(UserError, match="1 rows have no label"):
        read_heldout(config(tmp_path / "a.parquet"), StateConfig(dir=tmp_path))


@pytest.mark.parametrize(
    "expression",
    [
        "nothing > 3",
        "read_text('/etc/passwd')",
        "(SELECT content FROM read_text('/etc/passwd'))",
        "amount)) FROM rows; COPY rows TO '/tmp/stolen.csv'; SELECT ((1",
        "sum(amount)",
    ],
)
def test_an_expression_reaches_only_its_row(expression: str) -> None:
    with pytest.raises(UserError):
        evaluate(ROWS, [expression])
    assert not Path("/tmp/stolen.csv").exists()


def test_a_condition_is_true_or_false() -> None:
    with pytest.raises(UserError, match="no condition"):
        keep(ROWS, "amount + 1")
    many = pa.table({"x": list(range(300_000))})
    assert evaluate(many, ["x % 7"])[0].to_pylist() == [x % 7 for x in range(300_000)]  # in the rows' order
    assert isinstance(HeldOut(ROWS, read_data(), "label").labels.tolist(), list)


def read_data() -> object:
    from llmops.registry.evidence import Data

    return Data(table="x", version="1", rows=4, digest="0" * 64)
