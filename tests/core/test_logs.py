"""Log lines: one shape for people, one for machines, and no secret in either."""

from __future__ import annotations

import json
import logging

import pytest

from llmops.core import logs

SECRET = "sk-" + "a1B2" * 8


def test_machines_read_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", json=True)
    logging.getLogger("llmops.rag").debug("unseen")
    try:
        raise ValueError(SECRET)
    except ValueError:
        logging.getLogger("llmops.rag").exception("called with %s", SECRET)
    (line,) = capsys.readouterr().err.splitlines()
    entry = json.loads(line)
    assert (entry["level"], entry["logger"]) == ("error", "llmops.rag")
    assert "ValueError" in entry["trace"]
    assert SECRET not in line


def test_people_read_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("warning", json=False)
    logging.getLogger("llmops").warning("key %s", SECRET)
    line = capsys.readouterr().err
    assert "WARNING llmops: key" in line
    assert SECRET not in line
