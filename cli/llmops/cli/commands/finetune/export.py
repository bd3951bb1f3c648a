"""`llmops finetune export RUN|VERSION`: merged, pruned, in fewer bits, with proof."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from llmops.cli.finetune_job import config_option, run_state
from llmops.cli.output import json_option, print_json, say


@click.command("export")
@click.argument("what", metavar="RUN|VERSION")
@click.option("--merge", is_flag=True, help="Put an adapter into its base; also done with --prune and --quantise.")
@click.option("--quantise", type=click.Choice(["int8", "int4"]), help="Keep weights in 8 or 4 bits.")
@click.option("--prune", metavar="2:4|SHARE", help="Set the smallest weights to zero: two of four, or a share.")
@click.option("--to", "into", type=click.Path(path_type=Path), help="Folder to write; default: exports/<name>.")
@click.option("--verify/--no-verify", default=True, help="Load what was written in a fresh process, and compare.")
@config_option
@json_option
def command(what: str, config: Path | None, as_json: bool, **how: Any) -> None:
    """Write the result of RUN, or a registered VERSION (`name@champion`), for other engines, with proof.

    Exit codes: 0 written, 3 what was written does not say what the trained model says, so nothing is left.
    """
    from llmops.core.errors import UserError
    from llmops.finetune.export import export as write
    from llmops.finetune.export import gguf_hint
    from llmops.finetune.export.found import locate_result

    if not how["merge"] and how["quantise"] is None and how["prune"] is None:
        raise UserError("say what to make of it", hint="add --merge, --quantise int8 or int4, or --prune 2:4")
    model, base = locate_result(what, run_state(config))
    into = how["into"] or Path("exports") / what.replace("/", "-").replace("@", "-")
    done = write(model, base, into, bits=how["quantise"], zeros=how["prune"], verify=how["verify"])
    if as_json:
        print_json(done.as_json())
        return
    click.echo(done.checks.text())
    say(f"{done.folder}: {done.size_bytes:,} bytes of weights, digest {done.digest[:12]}")
    say(f"Next: `vllm serve {done.folder}`; for llama.cpp: `{gguf_hint(done.folder)}`")
