"""`llmops models list`, `show` and `repair`: what is registered, and which version each alias names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmops.cli.output import json_option, print_json, print_table, say
from llmops.cli.registry_job import config_option, existing_registry, exists, job_state
from llmops.core.names import Name, Ref
from llmops.core.state import StateConfig
from llmops.registry.records import Kind, Version

if TYPE_CHECKING:
    from llmops.registry.evidence import Evidence


@click.command("list")
@click.option("--kind", type=click.Choice([kind.value for kind in Kind]), help="Only assets of this kind.")
@click.option("--versions", "each", is_flag=True, help="Print every version, not only the assets.")
@config_option
@json_option
def list_(kind: str | None, each: bool, config: Path | None, as_json: bool) -> None:
    """Print every asset with its aliases; with --versions every version, newest first."""
    state = job_state(config)
    chosen = Kind(kind) if kind else None
    found: list[Any] = []
    if exists(state):
        with existing_registry(state) as registry:
            found = list(registry.versions(kind=chosen) if each else registry.list(chosen))
    empty = "nothing is registered yet; `llmops ingest` makes the first chain" if chosen is None else f"no {kind} yet"
    if as_json:
        print_json([item.as_json() for item in found])
    elif each:
        _print_versions(found, empty)
    else:
        rows = [
            (item.name, item.kind.value, item.versions, item.latest, _pairs(item.aliases), f"{item.updated_at:%F %R}")
            for item in found
        ]
        print_table(("name", "kind", "versions", "latest", "aliases", "updated (UTC)"), rows, empty=empty)


@click.command("show")
@click.argument("ref")
@config_option
@json_option
def show(ref: str, config: Path | None, as_json: bool) -> None:
    """Print an asset and its versions (dev.docs.chat), or one version (dev.docs.chat/3, dev.docs.chat@champion)."""
    state = job_state(config)
    if "/" in ref or "@" in ref:
        _show_version(state, Ref.parse(ref), as_json)
        return
    name = Name.parse(ref)
    with existing_registry(state, ref) as registry:
        asset, versions = registry.show(name), registry.versions(name)
    if as_json:
        print_json(asset.as_json() | {"history": [version.as_json() for version in versions]})
        return
    _print_versions(versions, "")
    say(f"`llmops models show {versions[0].ref}` shows one version with its evidence")


@click.command("repair")
@click.option("--plan", is_flag=True, help="Only say what differs.")
@config_option
@json_option
def repair(plan: bool, config: Path | None, as_json: bool) -> None:
    """Make MLflow's copies of aliases and tags equal to the record, and clear interrupted registrations."""
    with existing_registry(job_state(config)) as registry:
        found = registry.repair(plan=plan)
    if as_json:
        print_json(found.as_json())
        return
    rows: list[tuple[Any, ...]] = [(d.name, f"alias {d.alias}", d.mlflow, d.record) for d in found.copies.aliases]
    rows += [(f"{d.name}/{d.version}", f"tag {d.key}", d.mlflow, d.record) for d in found.copies.tags]
    rows += [(r.name, "interrupted registration", r.registration_id, None) for r in found.registrations]
    rows += [(a.about, f"{a.action_name} without an outcome", a.event_time[:19], "abandoned") for a in found.actions]
    print_table(("name", "what", "found", "should be"), rows, empty="nothing differs")
    if rows and plan:
        say("`llmops models repair` puts this right")


def _show_version(state: StateConfig, ref: Ref, as_json: bool) -> None:
    from llmops.registry.promotion import Promoter

    with existing_registry(state, str(ref)) as registry:
        version = registry.resolve(ref)
        records = registry.evidence(version)
        standing = [item for item in Promoter(registry).status(version.name) if item.version == version.version]
    if as_json:
        found = [record_json(record) for record in records]
        shown = standing[0].as_json() if standing else None
        print_json(version.as_json() | {"promotion": shown, "evidence": found})
        return
    values = version.as_json()
    lines: dict[str, Any] = {key: value for key, value in values.items() if key not in ("tags", "params", "aliases")}
    lines["aliases"] = ", ".join(version.aliases) or None
    lines["promotion"] = standing[0].state.phrase if standing else None
    lines |= {f"tag {key}": value for key, value in version.tags.items()}
    lines |= {f"param {key}": value for key, value in version.params.items()}
    rows = [*lines.items(), *((f"evidence {record.gate}", _evidence_line(record)) for record in records)]
    print_table(("field", "value"), rows, empty="")


def _print_versions(versions: list[Version], empty: str) -> None:
    rows = [
        (v.ref, v.kind.value, ", ".join(v.aliases), v.digest[:12], f"{v.created_at:%F %R}", v.created_by, v.description)
        for v in versions
    ]
    print_table(("version", "kind", "aliases", "digest", "created (UTC)", "by", "description"), rows, empty=empty)


def _evidence_line(record: Evidence) -> str:
    effect = "" if record.effect is None else f" {record.effect:+.4g}"
    interval = (
        "" if record.ci_low is None or record.ci_high is None else f" [{record.ci_low:.4g}, {record.ci_high:.4g}]"
    )
    return f"{record.verdict}{effect}{interval} {record.evidence_id}"


def record_json(record: Evidence) -> dict[str, Any]:
    return {"evidence_id": record.evidence_id, **record.model_dump(mode="json", exclude_none=True)}


def _pairs(aliases: dict[str, int]) -> str:
    return ", ".join(f"{alias} {version}" for alias, version in sorted(aliases.items()))
