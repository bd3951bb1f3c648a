"""A training as a person watches it: the loss as a curve, tokens a second, memory, time left.

On a terminal it is drawn and redrawn; elsewhere it is a line every few seconds. Knows events; no torch.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llmops.finetune.engines import Evaluated, Event, Listener, Phase, Resumed, Saved, StepDone, Warned

_BARS = "▁▂▃▄▅▆▇█"
_RECENT = 20
"""Steps that speed is measured over."""


class Watch:
    """What has been heard so far; `text` says it in a few lines."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.stage, self.steps, self.step = "", 0, 0
        self.losses: list[float] = []
        self.last: StepDone | None = None
        self.notes: deque[str] = deque(maxlen=4)
        self._recent: deque[tuple[int, float]] = deque(maxlen=_RECENT)

    def listen(self, event: Event) -> None:
        if isinstance(event, Phase):
            self.stage = event.stage
            if event.stage == "train":
                self.steps, self.losses, self.last = event.of, [], None
                self._recent.clear()
        elif isinstance(event, StepDone):
            self.step, self.last = event.step, event
            self.losses.append(event.loss)
            self._recent.append((event.tokens, event.seconds))
        else:
            self.notes.append(said(event))

    @property
    def tokens_per_s(self) -> float:
        seconds = sum(one for _, one in self._recent)
        return sum(one for one, _ in self._recent) / seconds if seconds else 0.0

    @property
    def left_s(self) -> float | None:
        if not self._recent or not self.steps:
            return None
        each = sum(one for _, one in self._recent) / len(self._recent)
        return max(0, self.steps - self.step) * each

    def text(self, width: int = 60) -> str:
        """The curve and the figures, a line each."""
        lines = []
        if self.last is None:
            lines.append(f"{self.stage} ...")
        else:
            of = f" of {self.steps}" if self.steps else ""
            memory = "" if self.last.peak_memory_bytes is None else f", {self.last.peak_memory_bytes / 2**30:.2f} GiB"
            left = "" if self.left_s is None else f", {clock_text(self.left_s)} left"
            lines.append(curve(self.losses, width))
            lines.append(
                f"step {self.step}{of}: loss {self.last.loss:.4f}, {self.tokens_per_s:,.0f} tokens/s{memory}{left}"
            )
        return "\n".join([*lines, *self.notes])


class Lines:
    """A line every few seconds, and one for each thing that is not a step."""

    def __init__(self, say: Callable[[str], None], every_s: float = 5.0) -> None:
        self._say, self._every_s, self._watch, self._next = say, every_s, Watch(), 0.0
        self._stage = ""

    def __call__(self, event: Event) -> None:
        self._watch.listen(event)
        if isinstance(event, StepDone):
            now = time.monotonic()
            if now >= self._next:
                self._next = now + self._every_s
                self._say(self._watch.text().splitlines()[1])
        elif isinstance(event, Phase):
            if event.stage != self._stage:
                self._stage = event.stage
                self._say(f"{event.stage} ...")
        else:
            self._say(said(event))


@contextmanager
def live() -> Iterator[Listener]:
    """Draw on the terminal while the block runs."""
    from rich.console import Console
    from rich.live import Live
    from rich.panel import Panel
    from rich.text import Text

    console = Console(stderr=True, no_color=bool(os.environ.get("NO_COLOR")))
    watch = Watch()

    def drawn() -> Any:
        return Panel(Text(watch.text(max(20, console.width - 8))), title=watch.stage or "finetune", expand=False)

    with Live(drawn(), console=console, refresh_per_second=4, transient=True) as picture:

        def listen(event: Event) -> None:
            watch.listen(event)
            picture.update(drawn())

        yield listen


def curve(values: list[float], width: int) -> str:
    """A line of bars: each the mean of as many values as fall on it; high is bad."""
    if not values:
        return ""
    count = min(width, len(values))
    means = []
    for place in range(count):
        some = values[place * len(values) // count : (place + 1) * len(values) // count]
        means.append(sum(some) / len(some))
    low, high = min(means), max(means)
    span = high - low or 1.0
    bars = "".join(_BARS[round((one - low) / span * (len(_BARS) - 1))] for one in means)
    return f"{bars}  {high:.3g} -> {means[-1]:.3g}"


def clock_text(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def said(event: Event) -> str:
    """One event in a line."""
    if isinstance(event, Saved):
        return f"checkpoint after step {event.step}: {event.size_bytes / 2**20:.1f} MiB in {event.seconds:.2f} s"
    if isinstance(event, Resumed):
        broken = f"; broken: {'; '.join(event.rejected)}" if event.rejected else ""
        return f"going on after step {event.step}{broken}"
    if isinstance(event, Warned):
        return f"warning: {event.text}"
    if isinstance(event, Evaluated):
        figures = ", ".join(f"{name} {value:.4f}" for name, value in event.figures.items())
        return f"held out after step {event.step}: {figures}"
    return event.kind
