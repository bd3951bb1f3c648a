"""`llmops data`: the tables of the lake, what they hold, and parts of them for other environments."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmops.cli.group import Group
from llmops.cli.output import json_option, print_json, print_table, say
from llmops.cli.registry_job import config_option, job_state

if TYPE_CHECKING:
    from llmops.core.lake import Lake


@click.group("data", cls=Group)
def command() -> None:
    """List and describe tables; take a part of production's to dev."""


@command.command("list")
@click.option("--catalog", help="Only the tables of this environment.")
@config_option
@json_option
def list_(catalog: str | None, config: Path | None, as_json: bool) -> None:
    """Print every table with its version, rows and key; feature tables with their time column."""
    lake = _lake(config)
    found = [_entry(lake, name) for name in lake.tables() if catalog is None or name.startswith(f"{catalog}.")]
    if as_json:
        print_json(found)
        return
    columns = ("table", "kind", "version", "rows", "key", "description")
    rows = [[one[column] for column in columns] for one in found]
    for row in rows:
        row[4] = ", ".join(row[4])
    print_table(
        columns,
        rows,
        empty="no tables yet: `llmops up` writes the first, of what was asked",
    )


@command.command("describe")
@click.argument("table")
@config_option
@json_option
def describe(table: str, config: Path | None, as_json: bool) -> None:
    """Print a table's columns, key and origin; of a feature table also how late its online copy is."""
    from llmops.core.names import Name

    lake, name = _lake(config), str(Name.parse(table))
    shown = _entry(lake, name) | lake.spec(name).as_json() | _more(lake, name, config)
    if as_json:
        print_json(shown)
        return
    facts = [(key, shown[key]) for key in ("table", "kind", "version", "rows", "description") if shown[key] is not None]
    facts += [
        (key, ", ".join(f"{k} {v}" for k, v in shown[key].items())) for key in ("snapshot", "online") if shown[key]
    ]
    print_table(("field", "value"), facts, empty="")
    rows = [
        (c["name"], c["type"], "key" if c["name"] in shown["primary_key"] else None, c["required"], c["description"])
        for c in shown["columns"]
    ]
    click.echo()
    print_table(("column", "type", "key", "required", "description"), rows, empty="")


@command.command("snapshot")
@click.argument("source")
@click.argument("target")
@click.option("--where", metavar="CONDITION", help="Only rows for which this SQL condition holds.")
@click.option("--rows", type=click.IntRange(min=1), metavar="N", help="At most N rows, picked evenly.")
@click.option("--seed", type=int, default=0, show_default=True, help="Which N: the same seed picks the same rows.")
@click.option("--hash", "hashed", multiple=True, metavar="COLUMN", help="Replace its values by keyed hashes.")
@click.option("--drop", "dropped", multiple=True, metavar="COLUMN", help="Leave it out.")
@click.option("--plan", is_flag=True, help="Only say what would be taken.")
@config_option
@json_option
def snapshot(source: str, target: str, plan: bool, config: Path | None, as_json: bool, **chosen: Any) -> None:
    """Take a part of SOURCE (prod.serving.inference_log) to TARGET (dev.serving.last_week); the version is recorded.

    The same snapshot of the same version again changes nothing; another one into the same target takes its place.
    """
    from llmops.core.snapshot import Wanted
    from llmops.core.snapshot import snapshot as take

    state = job_state(config)
    taken = take(_lake(config), source, target, Wanted(**chosen), key_file=state.root / "snapshot.key", plan=plan)
    if as_json:
        print_json(taken.as_json())
        return
    of = f"{taken.rows:,} of {taken.of_rows:,} rows of {taken.source} at version {taken.source_version}"
    if plan:
        say(f"would take {of} to {taken.target}")
    else:
        say(f"{'took' if taken.made else 'there already:'} {of}, {taken.target} at version {taken.target_version}")
        say(f"`llmops data describe {taken.target}` shows its columns")


def _lake(config: Path | None) -> Lake:
    from llmops.core.lake import Lake

    return Lake(job_state(config))


def _entry(lake: Lake, name: str) -> dict[str, Any]:
    dataset, version = lake.dataset(name)
    spec = lake.spec(name)
    kind = "features" if "features" in spec.properties else "snapshot" if lake.note(name) else "table"
    return {
        "table": name,
        "kind": kind,
        "version": version,
        "rows": dataset.count_rows(),
        "key": list(spec.primary_key),
        "description": spec.description or None,
    }


def _more(lake: Lake, name: str, config: Path | None) -> dict[str, Any]:
    from llmops.core.snapshot import origin_of

    online = None
    if "features" in lake.spec(name).properties:
        from llmops.core.features import FeatureStore, open_online, staleness

        store = open_online(job_state(config))
        try:
            online = staleness(FeatureStore(lake, name.partition(".")[0]), name, store).as_json()
        finally:
            store.close()
    return {"snapshot": origin_of(lake, name), "online": online}
