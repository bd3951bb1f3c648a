"""The entry point: finds the command, and turns every error into what, where, and what to do.

Knows the names and one-line summaries of all commands, so that `llmops --help` imports none of them.
"""

from __future__ import annotations

import os
import select
import sys
import traceback
from importlib.metadata import version
from typing import Any

import click

from llmops.cli.group import LazyGroup
from llmops.core.errors import LlmopsError, did_you_mean, render
from llmops.core.names import ENVIRONMENT, working_in

COMMANDS: dict[str, str] = {
    "init": "Write a starter project: configs and a first document.",
    "up": "Ingest, serve and open a chat over your documents.",
    "doctor": "Check this machine and configuration, and say what to mend.",
    "config": "Show, validate and describe configuration files.",
    "ingest": "Refresh the vector index from its documents.",
    "forget": "Erase a document, or a person's exchanges, everywhere and for good.",
    "chat": "Ask the documents a question.",
    "serve": "Open the chat page and its API.",
    "finetune": "Train a model on your data and hand the result to the gates.",
    "gateway": "Open one door to every model: keys, limits, budgets, usage.",
    "models": "List, show, register and compare versions; tell an asset's story.",
    "data": "List and describe tables; take a part of production's to dev.",
    "promote": "Take a version through its gates towards users.",
    "approve": "Approve a promotion for a group, or say no.",
    "rollback": "Make the previous champion champion again.",
    "rollout": "Show where versions stand on their way to users.",
    "access": "Grant, revoke and show who may do what.",
    "audit": "List who did what, and check that nobody changed the record.",
    "workflow": "Run, resume, schedule and watch declared tasks: train, validate, deploy.",
    "feedback": "List and export what readers thought of the answers.",
    "keys": "Create, list and revoke program keys.",
    "accounts": "Add, list and shut the accounts of people.",
    "completion": "Print the completion script of your shell.",
}
"""Each command's module is `llmops.cli.commands.<name>`."""


class Commands(LazyGroup):
    """All of them."""

    known = COMMANDS
    package = "llmops.cli.commands"

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            hint = did_you_mean(args[0], COMMANDS) or "`llmops --help` lists the commands"
            raise click.UsageError(f"no such command `{args[0]}`; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """A reader of the output that went away, as `head` does, is no failure: nothing is left to say."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            if not _unread():
                raise
            return 0


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(version("llmops"), prog_name="llmops")
@click.option("--log-level", default="WARNING", envvar="LLMOPS_LOG_LEVEL", help="Least severe log line shown.")
@click.option(
    "--env", envvar=ENVIRONMENT, metavar="CATALOG", help="The catalog of two-level names: dev (default), staging, prod."
)
@click.pass_context
def cli(context: click.Context, log_level: str, env: str | None) -> None:
    """An open LLMOps stack: documents to cited answers, and every change that reaches users with its evidence."""
    from llmops.core import logs

    logs.configure(log_level)
    if env:
        context.with_resource(working_in(env))


def main() -> None:
    """Run the command line, then exit: 0 ok, 1 user or configuration error, 2 internal, 3 gate failed, 130 stopped."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:  # noqa: PLR0911 - one return an outcome
    """Run one command line and give its exit code; every error has been shown."""
    try:
        outcome: Any = cli.main(args=arguments, prog_name="llmops", standalone_mode=False)
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.ClickException as error:
        _show_usage_error(error)
        return 1
    except LlmopsError as error:
        click.echo(_shown(error), err=True)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return 130
    except Exception as error:  # noqa: BLE001 - the process boundary
        return _show_unforeseen(error)
    return outcome if isinstance(outcome, int) else 0


def _show_unforeseen(error: Exception) -> int:
    """What the machine refuses is told with what to do about it; anything else is shown whole, and counts as ours."""
    from llmops.cli.storage import refusal

    refused = refusal(error)
    if refused is not None:
        click.echo(_colour(render(refused)), err=True)
        return refused.exit_code
    from llmops.core.logs import redact_text

    click.echo(redact_text("".join(traceback.format_exception(error))), err=True)
    click.echo("error: this is a defect of llmops; please report it with the lines above", err=True)
    return 2


def _unread() -> bool:
    """Whether whoever read the output is gone; what is still unwritten then goes nowhere."""
    gone = [stream for stream in (sys.stdout, sys.stderr) if _has_no_reader(stream.fileno())]
    for stream in gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return bool(gone)


def _has_no_reader(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, 0)  # errors are told without being asked for
    return any(told & select.POLLERR for _, told in poll.poll(0))


def _show_usage_error(error: click.ClickException) -> None:
    """click's words in the shape of ours: one line of what, one of what to do."""
    what = " ".join(error.format_message().split()).removesuffix(".")
    click.echo(_colour(f"error: {what[:1].lower()}{what[1:]}"), err=True)
    if isinstance(error, click.UsageError) and error.ctx is not None:
        usage = " ".join([error.ctx.command_path, *error.ctx.command.collect_usage_pieces(error.ctx)])
        click.echo(_colour(f"hint: write `{usage}`; --help tells the options"), err=True)


def _shown(error: LlmopsError) -> str:
    from llmops.cli.output import visible

    return _colour(visible(render(error)))


def _colour(text: str) -> str:
    if not sys.stderr.isatty() or os.environ.get("NO_COLOR"):
        return text
    return text.replace("error:", click.style("error:", fg="red", bold=True), 1).replace(
        "hint:", click.style("hint:", fg="cyan"), 1
    )


if __name__ == "__main__":
    main()
