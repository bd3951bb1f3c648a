"""What reaches a terminal: words that strangers wrote stay words."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from llmops.cli.main import _show_unforeseen
from llmops.cli.output import print_table, say, visible

HOSTILE = "docs/a\x1b]52;c;cm0gLXJm\x07\x9b2J\rb\u202egpj.md"
SAFE = "docs/a␛]52;c;cm0gLXJm␇\ufffd2J␍b\ufffdgpj.md"


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A real terminal in place of stdout; gives the side that a person sits at."""
    person, ours = os.openpty()
    with os.fdopen(ours, "w", encoding="utf-8") as written, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", written)
        patched.setenv("COLUMNS", "200")
        patched.setenv("NO_COLOR", "1")
        yield person
    os.close(person)


def test_what_commands_a_terminal_is_shown_as_pictures() -> None:
    assert visible(HOSTILE) == SAFE
    assert visible("a\tb\r\nc\n") == "a\tb\nc\n"
    assert visible("Übersicht 日本語 🙂 \u200d") == "Übersicht 日本語 🙂 \u200d"


def test_tables_take_names_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as person:
        print_table(("document",), [(HOSTILE,), ("docs/[red]m[/b].md",)], empty="")
        print("the end", flush=True)
        read = b""
        while b"the end" not in read:  # a terminal hands on what was written in pieces of its own
            read += os.read(person, 10_000)
    told = read.decode()
    assert SAFE in told
    assert "docs/[red]m[/b].md" in told
    assert "]52" not in told.replace("␛]52", "")


def test_lines_elsewhere_hold_one_record_each(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("document", "state"), [("a\nforged\tindexed", "quarantined")], empty="")
    say(HOSTILE)
    told = capsys.readouterr()
    assert told.out == "document\tstate\na forged indexed\tquarantined\n"
    assert told.err == SAFE + "\n"


def test_too_many_open_files_are_the_machine_s_matter(capsys: pytest.CaptureFixture[str]) -> None:
    assert _show_unforeseen(OSError(errno.EMFILE, os.strerror(errno.EMFILE), "index/manifest.db")) == 1
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "error: too many open files",
        "  --> index/manifest.db",
        "hint: allow more open files (`ulimit -n`) and run it again",
    ]
