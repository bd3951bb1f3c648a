"""Doing something again and again: on its grid, never twice at once, slower after errors, ended by a signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llmops.cli.schedule import next_due, repeat, seconds_of
from llmops.core.errors import UnavailableError, UserError


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("15m", 900), ("6h", 21_600), ("1d", 86_400), ("1.5m", 90)])
def test_reads_times(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "15", "m", "-5m", "0s", "0.5s", "5 minutes", "1e9s"])
def test_refuses_what_is_no_time(text: str) -> None:
    with pytest.raises(UserError, match="no time between"):
        seconds_of(text)


def test_keeps_to_its_grid_and_leaves_out_what_it_missed() -> None:
    assert next_due(100, 103, 60, 0) == 160
    assert next_due(100, 160, 60, 0) == 220
    assert next_due(100, 255, 60, 0) == 280


def test_pauses_longer_after_each_failure_up_to_a_bound() -> None:
    pauses = [next_due(0, 1000, 60, failures) - 1000 for failures in range(1, 10)]
    assert pauses == [60, 120, 240, 480, 960, 1920, 3840, 3840, 3840]
    assert next_due(0, 1000, 86_400, 9) == 1000 + 86_400
    assert next_due(0, 0, 3600, 9) == 6 * 3600


def test_tells_of_each_round_goes_on_after_an_error_and_ends_with_a_defect(capsys: pytest.CaptureFixture[str]) -> None:
    def down() -> str:
        raise UnavailableError("the source does not answer", where="wiki")

    rounds = iter([lambda: "refresh 1: fine", down, down, lambda: "refresh 2: fine", lambda: str(1 / 0)])

    def once() -> str:
        return next(rounds)()

    with pytest.raises(ZeroDivisionError):
        repeat(once, 0.001)
    said = [line[21:] for line in capsys.readouterr().err.splitlines()]
    assert [line for line in said if not line.startswith("next at ")] == [
        "refresh 1: fine", "failed, the first time: the source does not answer (wiki)",
        "failed, 2 times in a row: the source does not answer (wiki)", "refresh 2: fine",
    ]  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_pause(tmp_path: Path, number: int) -> None:
    code = (
        "import signal, sys; from llmops.cli.schedule import repeat\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job in the background is started deaf to it
        "try: repeat(lambda: 'round', 3600)\n"
        "except KeyboardInterrupt: sys.exit(130)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=os.environ)
    assert process.stderr is not None
    while "next at" not in process.stderr.readline():
        pass
    process.send_signal(number)
    assert process.wait(120) == 130  # the pause is an hour
    process.stderr.close()
