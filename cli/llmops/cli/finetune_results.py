"""`llmops finetune export | search | launch`: what is done with a job beside running it here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmops.cli.output import json_option, print_json, print_table, say, set_option

if TYPE_CHECKING:
    from llmops.core.state import StateConfig

config_argument = click.argument("config", metavar="CONFIG", type=click.Path(path_type=Path))


@click.command("export")
@click.argument("what", metavar="RUN|VERSION")
@click.option("--merge", is_flag=True, help="Put an adapter into its base; also done where --quantise is asked for.")
@click.option("--quantise", type=click.Choice(["int8", "int4"]), help="Keep weights in 8 or 4 bits.")
@click.option("--to", "into", type=click.Path(path_type=Path), help="Folder to write; default: exports/<name>.")
@click.option("--verify/--no-verify", default=True, help="Load what was written in a fresh process, and compare.")
@click.option("--config", type=click.Path(path_type=Path), help="Job file whose `state:` is meant; default: .llmops.")
@json_option
def export(what: str, config: Path | None, as_json: bool, **how: Any) -> None:
    """Write the result of RUN, or a registered VERSION (`name@champion`), for other engines, with proof.

    Exit codes: 0 written, 3 what was written does not say what the trained model says, so nothing is left.
    """
    from llmops.core.errors import UserError
    from llmops.finetune.export import export as write
    from llmops.finetune.export import gguf_hint
    from llmops.finetune.export.found import locate_result

    if not how["merge"] and how["quantise"] is None:
        raise UserError("say what to make of it", hint="add --merge, or --quantise int8 or int4")
    model, base = locate_result(what, _state(config))
    into = how["into"] or Path("exports") / what.replace("/", "-").replace("@", "-")
    done = write(model, base, into, bits=how["quantise"], verify=how["verify"])
    if as_json:
        print_json(done.as_json())
        return
    click.echo(done.checks.text())
    say(f"{done.folder}: {done.size_bytes:,} bytes of weights, digest {done.digest[:12]}")
    say(f"Next: `vllm serve {done.folder}`; for llama.cpp: `{gguf_hint(done.folder)}`")


@click.command("search")
@config_argument
@click.option("--trials", type=click.IntRange(1, 10_000), default=20, show_default=True, help="Trials of the study.")
@click.option(
    "--space", "spaces", multiple=True, required=True, metavar="KEY=VALUES", help="low..high[:log], or a,b,c."
)
@set_option
@json_option
def search(config: Path, trials: int, spaces: tuple[str, ...], overrides: tuple[str, ...], as_json: bool) -> None:
    """Try values of CONFIG's keys, and print those with the least held-out loss; goes on where it was stopped."""
    from llmops.finetune.search import Space
    from llmops.finetune.search import search as look

    found = look(config, [Space.parse(one) for one in spaces], trials=trials, overrides=overrides)
    if as_json:
        print_json(found.as_json())
        return
    print_table(("key", "value"), list(found.best.items()), empty="")
    say(f"held-out loss {found.loss:.4f}, the best of {found.trials} trials; {found.pruned} were stopped early")
    say(f"Next: llmops finetune {config} {' '.join(f'--set {key}={value}' for key, value in found.best.items())}")


@click.command("launch")
@config_argument
@click.option("--plan", is_flag=True, help="Print what would be handed in; hand in nothing.")
@set_option
@json_option
def launch(config: Path, plan: bool, overrides: tuple[str, ...], as_json: bool) -> None:
    """Hand CONFIG to the cluster that its `launch.kind` names."""
    from llmops.core.config import load_config
    from llmops.core.errors import UserError
    from llmops.finetune.config import FinetuneConfig
    from llmops.finetune.launch import render, submit

    job = load_config(FinetuneConfig, config, overrides=overrides).value
    files = render(job, config)
    if not files:
        raise UserError("launch.kind is local", where=str(config), hint="`llmops finetune CONFIG` runs it here")
    if plan:
        print_json(files) if as_json else click.echo("".join(f"# {name}\n{text}\n" for name, text in files.items()))
        return
    done = submit(job, config)
    if as_json:
        print_json(done.as_json())
        return
    say(done.said or f"written: {', '.join(map(str, done.files))}")
    say(f"Next: {done.next}")


def _state(config: Path | None) -> StateConfig:
    from llmops.core.config import load_config
    from llmops.core.state import StateConfig
    from llmops.finetune.config import FinetuneConfig

    return StateConfig() if config is None else load_config(FinetuneConfig, config).value.state
