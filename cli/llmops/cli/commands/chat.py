"""`llmops chat`: ask the documents from a terminal; each exchange is logged and traced as one of the chat page is."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from llmops.cli.jobs import rag_job, serve_job
from llmops.cli.output import json_option, print_json, say, set_option, visible
from llmops.cli.registry_job import existing_registry
from llmops.core.chain import Cancelled, Chain, ChainContext, Citation, Delta, Message, Step
from llmops.core.errors import NotFoundError, UserError
from llmops.core.names import Ref
from llmops.core.state import StateConfig
from llmops.core.tracing import read_traceparent, tracing

DOOR = "cli"
"""The endpoint under which these exchanges stand in the inference table."""
CALLER = "TRACEPARENT"
"""Variable in which a program that runs this command hands on its trace."""


@click.command("chat")
@click.argument("question", required=False)
@click.option("--config", "file", type=click.Path(path_type=Path), help="The rag job; default configs/rag.yaml.")
@click.option("--asset", help="The version to ask: NAME@ALIAS or NAME/NUMBER; default the champion of the job's chain.")
@set_option
@json_option
def command(
    question: str | None, file: Path | None, asset: str | None, overrides: tuple[str, ...], as_json: bool
) -> None:
    """Ask the documents a QUESTION; without one, read it from a pipe or open a conversation."""
    job = rag_job(file, overrides).value
    if question is None and not sys.stdin.isatty():
        question = sys.stdin.read().strip()
    if question is not None and not question.strip():
        raise UserError("there is no question", hint='llmops chat "How do I ...?"')
    if as_json and question is None:
        raise UserError("--json answers one question", hint='llmops chat "How do I ...?" --json')
    serving = serve_job(None).value
    with (
        tracing(serving.tracing, "llmops-chat"),
        _Conversation(job.state, Ref.parse(asset or job.name), serving.inference_log) as conversation,
    ):
        if question is None:
            conversation.converse()
        elif as_json:
            print_json(conversation.ask(question))
        else:
            conversation.show(question)


class _Conversation:
    """A loaded version, the messages so far, and the log they go to."""

    def __init__(self, state: StateConfig, ref: Ref, table: str) -> None:
        from llmops.core.spool import Spool
        from llmops.serving.endpoint import Loaded

        self._messages: list[Message] = []
        self._table = table
        with existing_registry(state, str(ref)) as registry:
            try:
                version = registry.resolve(ref)
            except NotFoundError as error:
                hint = error.hint or "`llmops ingest` registers the chain of this folder"
                raise NotFoundError(error.what, where=error.where, hint=hint) from error
            self._chain: Chain = registry.load_chain(version)
        self._loaded = Loaded(self._chain, version.ref, ref.alias)
        self._spool = Spool(state.spool)

    def __enter__(self) -> _Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        self._chain.close()
        self._spool.close()

    def converse(self) -> None:
        """Questions from the terminal until Ctrl-D."""
        say(f"{self._loaded.ref} answers. Ctrl-C stops an answer, Ctrl-D ends.")
        while True:
            try:
                question = click.prompt(click.style("you", bold=True), prompt_suffix="> ", err=True)
            except click.Abort:
                say("")
                return
            self.show(question)

    def show(self, question: str) -> None:
        """Print an answer as it comes, then its sources."""
        answer = self.ask(question, echo=True)
        click.echo()
        for citation in answer["citations"]:
            page = f", page {citation['page']}" if citation["page"] else ""
            place = f"{citation['uri']}{page}, characters {citation['start']}-{citation['end']}"
            click.echo(f"  [{citation['number']}] {visible(place)}")

    def ask(self, question: str, *, echo: bool = False) -> dict[str, Any]:
        """One exchange, logged however it ends."""
        from llmops.serving.exchange import Outcome, Question
        from llmops.serving.record import inference_row, step_json
        from llmops.serving.spans import close_span, open_span

        self._messages.append({"role": "user", "content": question})
        body = {"model": DOOR, "messages": list(self._messages)}
        caller = ChainContext(traceparent=read_traceparent(os.environ.get(CALLER)))
        told, context = open_span(DOOR, self._loaded, self._messages, caller, "internal")
        asked = Question(DOOR, self._loaded, list(self._messages), context, body)
        outcome = Outcome()
        began = time.perf_counter()
        try:
            for event in self._chain.stream(asked.messages, context):
                outcome.observe(event, time.perf_counter() - began)
                if echo and isinstance(event, Delta):
                    click.echo(visible(event.text), nl=False)
                elif echo and isinstance(event, Step):
                    say(f"search {event.number}: {event.query} ({event.passages} passages)")
        except KeyboardInterrupt:
            outcome.error = Cancelled()
            raise
        except Exception as error:
            outcome.error = error
            raise
        finally:
            context.cancel.cancel()
            outcome.latency_s = time.perf_counter() - began
            close_span(told, outcome)
            self._spool.append(self._table, inference_row(asked, outcome))
        self._messages.append({"role": "assistant", "content": outcome.answer})
        return {
            "answer": outcome.answer,
            "citations": [_citation(citation) for citation in outcome.citations],
            "steps": [step_json(step) for step in outcome.steps],
            "refused": bool(outcome.done and outcome.done.refused),
            "quoted": bool(outcome.done and outcome.done.quoted),
            "model_version": str(self._loaded.ref),
            "index": {"generation": outcome.generation, "seq": outcome.index_seq},
            "request_id": context.request_id,
        }


def _citation(citation: Citation) -> dict[str, Any]:
    value = asdict(citation)
    del value["type"]
    return value
