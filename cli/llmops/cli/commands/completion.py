"""`llmops completion`: the shell's completion script on stdout."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from llmops.core.errors import UserError


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script of SHELL; `eval "$(llmops completion bash)"` switches it on."""
    from llmops.cli.main import cli

    completion = get_completion_class(shell)
    if completion is None:
        raise UserError(f"no completion for `{shell}`", hint="bash, zsh and fish have one")
    click.echo(completion(cli, {}, "llmops", "_LLMOPS_COMPLETE").source())
