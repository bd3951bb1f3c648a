"""`llmops models register`, `diff` and `policy`: a new version, two versions beside each other, what promotion asks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmops.cli.output import json_option, print_json, print_table, say
from llmops.cli.registry_job import config_option, existing_registry, exists, job_state, open_registry
from llmops.core.errors import UserError
from llmops.core.names import Name, Ref
from llmops.registry.records import Candidate, Kind, PromptText, SavedModel

if TYPE_CHECKING:
    from llmops.registry.diff import Diff, Difference

_SAVED = (Kind.MODEL, Kind.LLM, Kind.ADAPTER, Kind.CHAIN, Kind.JUDGE)


@click.command("register")
@click.argument("name")
@click.argument("source")
@click.option("--kind", type=click.Choice([kind.value for kind in (*_SAVED, Kind.PROMPT)]), default="model")
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="A tag of the version; may be repeated.")
@click.option("--description", default="", help="What this version is, in a sentence.")
@click.option("--champion", is_flag=True, help="Make it champion at once if it is the asset's very first version.")
@click.option("--plan", is_flag=True, help="Only say what would be registered.")
@config_option
@json_option
def register(name: str, source: str, config: Path | None, as_json: bool, **options: Any) -> None:
    """Register SOURCE as the next version of NAME: an MLflow folder, runs:/RUN/PATH, models:/..., or a prompt's file.

    The same content again gives the version there is. A version from a run notes the run, its data sets and its code.
    """
    candidate = _candidate(Name.parse(name), source, options)
    if options["plan"]:
        planned = {"name": name, "kind": candidate.kind.value, "source": source, "tags": candidate.tags}
        print_json(planned) if as_json else say(f"would register {source} as {candidate.kind.noun} under {name}")
        return
    with open_registry(job_state(config)) as registry:
        version = registry.register(candidate, crown_first=options["champion"])
    if as_json:
        print_json(version.as_json())
        return
    click.echo(str(version.ref))
    if "champion" not in version.aliases:
        say(f"`llmops promote {version.ref} --plan` says what it needs to become champion")


@click.command("diff")
@click.argument("left")
@click.argument("right")
@config_option
@json_option
def diff(left: str, right: str, config: Path | None, as_json: bool) -> None:
    """Print what differs between two versions: params, tags, metrics, files, prompt text, and their evidence."""
    from llmops.registry.diff import diff as compare

    with existing_registry(job_state(config), left) as registry:
        found = compare(registry, registry.resolve(Ref.parse(left)), registry.resolve(Ref.parse(right)))
    if as_json:
        print_json(found.as_json())
        return
    rows = _rows(found)
    print_table(("what", str(found.left.ref), str(found.right.ref)), rows, empty="nothing differs but the text")
    if found.text:
        click.echo(found.text)


@click.command("policy")
@click.argument("scope")
@click.option("--set", "file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="A policy as YAML.")
@click.option("--unset", is_flag=True, help="Take the scope's own policy away: the wider one holds again.")
@click.option("--plan", is_flag=True, help="Only check the file.")
@config_option
@json_option
def policy(scope: str, file: Path | None, unset: bool, plan: bool, config: Path | None, as_json: bool) -> None:
    """Print the policy that holds for SCOPE, or give it one of its own.

    SCOPE is a catalog (prod), a schema (prod.fraud.*) or an asset (prod.fraud.fraud_clf; fraud.fraud_clf in --env).
    """
    from llmops.core.config import load_config
    from llmops.registry.promotion import Policy, Promoter
    from llmops.registry.promotion.policies import DEFAULT, Ruling, written
    from llmops.registry.promotion.policies import scope as read_scope

    wanted = load_config(Policy, file, environment={}).value if file else None
    place, state = written(read_scope(scope)), job_state(config)
    changes = (wanted is not None or unset) and not plan
    ruling = Ruling(DEFAULT, None)
    if changes or exists(state):
        with open_registry(state) as registry:
            promoter = Promoter(registry)
            if changes:
                promoter.set_policy(place, wanted)
            ruling = promoter.policy(place)
    shown = wanted if plan and wanted is not None else ruling.policy
    if as_json:
        print_json({"scope": place, "from": ruling.named, "policy": shown.as_json()})
        return
    print_table(("rule", "value"), [(key, _plain(value)) for key, value in shown.as_json().items()], empty="")
    say(f"{place}: from {ruling.named}" if ruling.named else f"{place}: the default")


def _candidate(name: Name, source: str, options: dict[str, Any]) -> Candidate:
    kind = Kind(options["kind"])
    artifact: PromptText | SavedModel = SavedModel(source)
    if kind is Kind.PROMPT:
        artifact = PromptText(_text(source))
    return Candidate(kind, name, artifact, description=options["description"], tags=_pairs(options["tags"]))


def _text(source: str) -> str:
    try:
        return Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("the prompt's file cannot be read", where=source, hint=str(error)) from None


def _pairs(tags: Sequence[str]) -> dict[str, str]:
    found = {}
    for tag in tags:
        key, equals, value = tag.partition("=")
        if not (key and equals):
            raise UserError(f"`{tag}` is no tag", hint="write --tag KEY=VALUE")
        found[key] = value
    return found


def _rows(found: Diff) -> list[tuple[str, Any, Any]]:
    rows: list[tuple[str, Any, Any]] = []
    for what in ("params", "tags", "metrics", "files"):
        differences: list[Difference] = getattr(found, what)
        rows += [(f"{what[:-1]} {item.key}", _short(item.left), _short(item.right)) for item in differences]
    rows += [(f"evidence {item.key}", _finding(item.left), _finding(item.right)) for item in found.evidence]
    return rows


def _short(value: Any) -> Any:
    return value[:12] if isinstance(value, str) and len(value) == 64 else value


def _finding(record: dict[str, Any] | None) -> str | None:
    if record is None:
        return None
    effect = f" {record['effect']:+.4g}" if "effect" in record else ""
    return f"{record['verdict']}{effect} ({record['evidence_id'][:12]})"


def _plain(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list) else value
