"""The point-in-time join beside DuckDB, pandas and Polars: 10 million feature rows to 1 million labels.

Every join runs in a process of its own over the same Parquet files, read before the clock starts; time and the memory
above the input are the join's alone. All results are compared with ours, and ours with a look at every row for a sample
of the labels.
`--json` prints the figures alone.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.peers import PeerUnavailableError, installed

COLUMNS = tuple(f"x{number}" for number in range(4))
YEAR_US = 365 * 86_400_000_000
POLARS = "polars==2.1.0"
JOINS = ("llmops", "lake", "duckdb", "pandas", "polars")


def make(folder: Path, features: int, labels: int, keys: int, *, text: bool) -> None:
    """Rows at random moments of a year, in no order, of keys that are drawn evenly."""
    generator = np.random.default_rng(1)
    names = pa.array([f"customer-{key:07d}" for key in range(keys)])

    def rows(size: int) -> dict[str, Any]:
        drawn = pa.array(generator.integers(0, keys, size))
        moments = pa.array(generator.integers(0, YEAR_US, size)).cast(pa.timestamp("us", tz="UTC"))
        return {"customer": names.take(drawn) if text else drawn, "at": moments}

    pq.write_table(pa.table(rows(labels) | {"row": np.arange(labels)}), folder / "labels.parquet")
    values = {name: generator.standard_normal(features) for name in COLUMNS}
    pq.write_table(pa.table(rows(features) | values), folder / "features.parquet")


def join(name: str, folder: Path) -> tuple[float, float, float]:
    """Seconds, MB above the input, and the sum of the joined values, in this process."""
    labels, features = (pq.read_table(folder / f"{one}.parquet") for one in ("labels", "features"))
    pa.set_cpu_count(2)
    work = globals()[f"_{name}"](labels, features, folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    found = work()
    took = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    np.save(folder / f"{name}.npy", found)
    return took, (after - before) / 1024, after / 1024


def _llmops(labels: Any, features: Any, folder: Path) -> Any:
    from llmops.core.features.asof import FeatureRows
    from llmops.core.features.asof import join as as_of

    def work() -> Any:
        rows = FeatureRows(features.to_batches(), features.schema, ("customer",), "at", COLUMNS)
        return as_of(labels, ["customer"], "at", rows)["x0"].to_numpy()

    return work


def _lake(labels: Any, features: Any, folder: Path) -> Any:
    """Ours as it is used: the feature table is read from the lake while it is joined."""
    from llmops.core.features import FeatureSet, FeatureStore, FeatureTable
    from llmops.core.lake import Lake
    from llmops.core.state import StateConfig
    from llmops.core.tables import Column

    kind = "string" if pa.types.is_string(labels.schema.field("customer").type) else "long"
    table = FeatureTable(
        "bench.values", (Column("customer", kind),), tuple(Column(name, "double") for name in COLUMNS), timestamp="at"
    )
    store = FeatureStore(Lake(StateConfig(dir=folder / f"state-{kind}")))
    name = store.create(table)
    if store.lake.version(name) == 0:
        store.lake.append_arrow(name, features.cast(store.lake.spec(name).schema()))
    del features
    wanted = FeatureSet((Column("customer", kind),), (table.lookup(),), time="at")

    def work() -> Any:
        return wanted.training_set(labels, store).table["x0"].to_numpy()

    return work


def _duckdb(labels: Any, features: Any, folder: Path) -> Any:
    import duckdb

    def work() -> Any:
        with duckdb.connect() as connection:
            connection.execute("SET threads = 2")
            connection.register("labels", labels)
            connection.register("features", features)
            shown = ", ".join(f"f.{name}" for name in COLUMNS)
            on = "l.customer = f.customer AND l.at >= f.at"
            sql = f"SELECT l.row, {shown} FROM labels l ASOF LEFT JOIN features f ON {on}"
            found = connection.sql(sql).to_arrow_table()
            return _by_row(found)

    return work


def _pandas(labels: Any, features: Any, folder: Path) -> Any:
    import pandas as pd

    left, right = labels.to_pandas(), features.to_pandas()
    del labels, features

    def work() -> Any:
        found = pd.merge_asof(left.sort_values("at"), right.sort_values("at"), on="at", by="customer")
        return found.sort_values("row")["x0"].to_numpy()

    return work


def _polars(labels: Any, features: Any, folder: Path) -> Any:
    import polars as pl

    left, right = pl.from_arrow(labels), pl.from_arrow(features)

    def work() -> Any:
        found = left.sort("at").join_asof(right.sort("at"), on="at", by="customer", strategy="backward")
        return found.sort("row")["x0"].to_numpy()

    return work


def _by_row(found: Any) -> Any:
    values = np.full(found.num_rows, np.nan)
    values[found["row"].to_numpy()] = found["x0"].to_numpy()
    return values


def measured(folder: Path, runs: int) -> dict[str, dict[str, float | str]]:
    """Median seconds and most memory of each join; a peer that is not there says so."""
    found: dict[str, dict[str, float | str]] = {}
    for name in JOINS:
        print(f"features: {name}", file=sys.stderr)
        try:
            python = (
                installed("polars", [POLARS, "pyarrow==25.0.1", "numpy==2.4.6"]) if name == "polars" else sys.executable
            )
        except PeerUnavailableError as error:
            found[name] = {"missing": str(error)}
            continue
        command = [str(python), "-m", "benchmarks.features", "--join", name, str(folder)]
        outcomes = []
        for _ in range(runs):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                found[name] = {"missing": done.stderr.strip().splitlines()[-1]}
                break
            outcomes.append(json.loads(done.stdout))
        else:
            seconds, above, whole = zip(*outcomes, strict=True)
            found[name] = {"s": statistics.median(seconds), "above_mb": max(above), "whole_mb": max(whole)}
            _require_equal(folder, name)
    _require_naive(folder)
    return found


def _require_equal(folder: Path, name: str) -> None:
    ours, theirs = np.load(folder / "llmops.npy"), np.load(folder / f"{name}.npy")
    if not np.array_equal(ours, theirs, equal_nan=True):
        raise SystemExit(f"{name} joins otherwise in {int((ours != theirs).sum())} rows")


def _require_naive(folder: Path, sample: int = 200) -> None:
    """Ours against a look at every row, for some labels."""
    labels, features = (pq.read_table(folder / f"{one}.parquet") for one in ("labels", "features"))
    found = np.load(folder / "llmops.npy")
    for place in np.linspace(0, len(labels) - 1, sample).astype(int):
        label = labels.slice(place, 1)
        mine = features.filter(
            pc.and_(pc.equal(features["customer"], label["customer"][0]), pc.less_equal(features["at"], label["at"][0]))
        )
        newest = mine.sort_by("at").slice(max(0, len(mine) - 1))["x0"].to_pylist() or [np.nan]
        assert np.array_equal(np.array(newest, float), found[place : place + 1], equal_nan=True), place


NAMES = {
    "llmops": "llmops, from memory",
    "lake": "llmops, from its Delta table",
    "duckdb": "DuckDB ASOF JOIN",
    "pandas": "pandas merge_asof, sorting included",
    "polars": "Polars join_asof, sorting included",
}


def table(found: dict[str, dict[str, dict[str, float | str]]], features: int, labels: int) -> str:
    lines = [
        f"{features:,} feature rows of four columns, in no order, to {labels:,} labels of 100,000 keys; 2 threads.",
        "",
        "| x llmops | join | keys | seconds | MB above the input | MB in all |",
        "|---:|---|---|---:|---:|---:|",
    ]
    for keys, joins in found.items():
        ours = float(joins["llmops"]["s"])
        for name, one in joins.items():
            if "missing" in one:
                lines.append(f"| | {NAMES[name]} | {keys} | not run: {one['missing']} | | |")
                continue
            lines.append(
                f"| {float(one['s']) / ours:.1f} | {NAMES[name]} | {keys} | {one['s']:.2f} | {one['above_mb']:,.0f}"
                f" | {one['whole_mb']:,.0f} |"
            )
    lines += ["", "All five agree on every label, and with a look at every row on 200 of them. Bar: 10 s in 4 GB."]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=int, default=10_000_000)
    parser.add_argument("--labels", type=int, default=1_000_000)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true", dest="as_json")
    parser.add_argument("--join", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.join:
        print(json.dumps(join(options.join[0], Path(options.join[1]))))
        return
    found = {}
    for text in (True, False):
        with tempfile.TemporaryDirectory(prefix="llmops-features-") as temporary:
            folder = Path(temporary)
            print("features: writing rows", file=sys.stderr)
            make(folder, options.features, options.labels, options.keys, text=text)
            found["texts" if text else "whole numbers"] = measured(folder, options.runs)
    print(json.dumps(found) if options.as_json else table(found, options.features, options.labels))


if __name__ == "__main__":
    main()
