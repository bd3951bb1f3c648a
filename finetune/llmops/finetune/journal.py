"""What a training tells, written down in the run's folder: a line a step, the ids of what it learned from, and events.

    metrics.jsonl   step, loss, lr, grad_norm, tokens, supervised_tokens, seconds, peak_memory_bytes, attempt
    ledger.jsonl    step, examples
    events.jsonl    checkpoints, resumptions, warnings, evaluations, each with its time

What lies beyond the checkpoint that a run resumes from is cut: it is done again. Knows files; no torch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from llmops.core.files import write_atomic
from llmops.finetune.engines import Evaluated, Event, Listener, Phase, Resumed, Saved, StepDone
from llmops.finetune.runs import RunFolder

EVENTS = "events.jsonl"


class Journal:
    """Writes one attempt down; `listen` is told every event."""

    def __init__(self, folder: RunFolder, attempt: int) -> None:
        self._folder, self._attempt, self._begun = folder, attempt, False
        self._metrics, self._ledger = _Lines(folder.metrics), _Lines(folder.ledger)
        self._events = _Lines(folder.path / EVENTS)
        self._trained_s = folder.record().trained_s
        self._since = 0.0

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._keep_time()
        for lines in (self._metrics, self._ledger, self._events):
            lines.close()

    def listen(self, event: Event) -> None:
        """Write one event down."""
        if isinstance(event, Phase):
            return
        if isinstance(event, Resumed):
            self._cut(event.step)
        elif not self._begun and isinstance(event, StepDone):
            self._cut(event.step - 1)
        if isinstance(event, StepDone):
            self._step(event)
            return
        self._events.add({"at": time.time(), "attempt": self._attempt, **_plain(event)})
        if isinstance(event, Saved | Evaluated):
            self._keep_time(step=event.step)

    def then(self, listen: Listener) -> Listener:
        """A listener that writes an event down, then tells another."""

        def both(event: Event) -> None:
            self.listen(event)
            listen(event)

        return both

    def _step(self, event: StepDone) -> None:
        self._since += event.seconds
        values = _plain(event)
        examples = values.pop("examples")
        values.pop("kind")
        figures = values.pop("figures")
        kept = {key: value for key, value in values.items() if value is not None}
        self._metrics.add({**kept, **figures, "attempt": self._attempt})
        if examples:
            self._ledger.add({"step": event.step, "examples": examples})

    def _cut(self, step: int) -> None:
        """Take away what lies beyond `step`."""
        self._begun = True
        again = self._metrics.cut(step)
        self._ledger.cut(step)
        if again:
            record = self._folder.record()
            self._folder.update(replayed_steps=record.replayed_steps + again)

    def _keep_time(self, **more: Any) -> None:
        self._trained_s += self._since
        self._since = 0.0
        self._folder.update(trained_s=self._trained_s, **more)


def read_metrics(folder: RunFolder) -> list[dict[str, Any]]:
    """The lines of all steps that count, in order."""
    return list(_read(folder.metrics))


def read_events(folder: RunFolder) -> list[dict[str, Any]]:
    return list(_read(folder.path / EVENTS))


class _Lines:
    """A file of JSON lines that is added to; opened at the first line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Any = None

    def add(self, value: dict[str, Any]) -> None:
        if self._file is None:
            self._end_line()
            self._file = self._path.open("ab", buffering=0)
        self._file.write(orjson.dumps(value) + b"\n")

    def cut(self, step: int) -> int:
        """Keep lines up to `step`; gives how many were taken away."""
        self.close()
        lines = list(_read(self._path))
        kept = [line for line in lines if line["step"] <= step]
        if len(kept) < len(lines) or (lines and not _whole(self._path)):
            write_atomic(self._path, b"".join(orjson.dumps(line) + b"\n" for line in kept))
        return len(lines) - len(kept)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _end_line(self) -> None:
        """A kill may have left half a line; it is not to spoil the next."""
        if self._path.exists() and not _whole(self._path):
            with self._path.open("ab") as file:
                file.write(b"\n")


def _whole(path: Path) -> bool:
    data = path.read_bytes()
    return not data or data.endswith(b"\n")


def _read(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                yield orjson.loads(line)
            except orjson.JSONDecodeError:
                continue  # half a line, left by a kill


def _plain(event: Event) -> dict[str, Any]:
    return dict(vars(event))
