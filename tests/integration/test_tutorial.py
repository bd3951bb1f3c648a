"""docs/tutorial-promotion.md as a newcomer runs it: every command, in an empty folder with the shipped configurations.

What the page shows is held against what the commands print, line by line; `...` stands for anything. A chat that runs
all the while must answer by whoever is champion.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.commands import running
from tests.support.docs_model import DocsModel
from tests.support.serving import eventually
from tests.support.upstream import running_upstream

ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    "promotion.md", "workflows.md", "validation.md", "getting-started.md", "gateway-routes.md", "classic-models.md",
)  # fmt: skip
QUESTION, EXACT = "How large may a value that a task returns be?", "at most 1 MB"


@dataclass
class Step:
    """One command of the page, and what the page shows of its output."""

    command: str
    shown: list[str] = field(default_factory=list)


def steps() -> list[Step]:
    page = (ROOT / "docs" / "tutorial-promotion.md").read_text(encoding="utf-8")
    found: list[Step] = []
    for block in re.findall(r"^```console\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                found.append(Step(line[2:]))
            else:
                found[-1].shown.append(line)
    return found


class Terminal:
    """One shell in which a reader types; `run` gives a command's output and exit code."""

    def __init__(self, folder: Path, **environment: str) -> None:
        shim = folder / "bin" / "llmops"
        shim.parent.mkdir()
        shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m llmops.cli.main "$@"\n')
        shim.chmod(0o755)
        here = {
            "PATH": f"{shim.parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
            "NO_COLOR": "1",
        }
        self._shell = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder, env={**os.environ, **here, **environment}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self._watch = threading.Timer(560, self._end)
        self._watch.start()
        self._code = 0

    def run(self, command: str) -> tuple[str, int]:
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(f"(exit {self._code})\n{command}\nprintf '\\n@@%s\\n' $?\n")
        self._shell.stdin.flush()
        said: list[str] = []
        for line in self._shell.stdout:
            if line.startswith("@@"):
                self._code = int(line[2:])
                return "".join(said), self._code
            said.append(line)
        raise AssertionError(f"the shell ended in `{command}`:\n{''.join(said)}")

    def close(self) -> None:
        self._watch.cancel()
        self._end()
        self._shell.communicate()

    def _end(self) -> None:
        """The shell with whatever it still runs."""
        os.killpg(self._shell.pid, signal.SIGKILL)


def missing(shown: list[str], said: str) -> str | None:
    """The first shown line that the output does not have, after the ones before it."""
    lines = iter(said.splitlines())
    for wanted in shown:
        pattern = re.compile(".*".join(map(re.escape, wanted.split("..."))))
        if not any(pattern.fullmatch(line.rstrip()) for line in lines):
            return wanted
    return None


def answer(url: str) -> str:
    body = {"model": "chat", "messages": [{"role": "user", "content": QUESTION}]}
    reply = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60, trust_env=False)
    assert reply.status_code == 200, reply.text
    return str(reply.json()["choices"][0]["message"]["content"])


def follow(all_steps: list[Step], terminal: Terminal) -> None:
    """Run commands; each must end with 0, unless the page looks at its exit code next, and print what is shown."""
    for place, step in enumerate(all_steps):
        print(f"$ {step.command}")  # where it stands, should it end here
        said, code = terminal.run(step.command)
        looked_at = place + 1 < len(all_steps) and all_steps[place + 1].command == "echo $?"
        assert code == 0 or looked_at, f"$ {step.command}\n{said}"
        lost = missing(step.shown, said)
        assert lost is None, f"$ {step.command}\nthe page shows\n{lost}\nand it said\n{said}"


@pytest.mark.timeout(600)
def test_the_tutorial_tells_the_truth(tmp_path: Path, embedder_cache: Path) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (tmp_path / "docs").mkdir()
    for name in DOCUMENTS:
        shutil.copy(ROOT / "docs" / name, tmp_path / "docs")
    shutil.copytree(embedder_cache, tmp_path / ".llmops" / "cache")
    told = steps()
    deployed, better = (
        next(place for place, step in enumerate(told) if fragment in step.command) + 1
        for fragment in ('chain.yaml --set params.llm="$LLM"', "exact.txt")
    )
    with running_upstream() as upstream:
        upstream.answer = DocsModel(ROOT / "configs" / "questions" / "docs.yaml")
        terminal = Terminal(tmp_path, LLM=json.dumps({"model": "test", "url": upstream.url}))
        try:
            follow(told[:deployed], terminal)
            with running(tmp_path, "--env", "staging", "serve", "--port", "0", opened="chat at") as (url, _):
                assert EXACT not in answer(url)
                follow(told[deployed : better - 1], terminal)
                assert EXACT not in answer(url)
                follow(told[better - 1 : better], terminal)
                eventually(lambda: EXACT in answer(url))
                follow(told[better:], terminal)
                eventually(lambda: EXACT not in answer(url))
            what_is_on_record(terminal)
        finally:
            terminal.close()


def what_is_on_record(terminal: Terminal) -> None:
    """Both stories, as programs read them."""

    def read(command: str) -> Any:
        return json.loads(terminal.run(f"{command} --json 2>/dev/null")[0])

    for asset in ("fraud.fraud_clf", "docs.chat"):
        story = read(f"llmops models history {asset}")
        states = [(entry["version"], entry["to"]) for entry in reversed(story) if entry["kind"] == "state"]
        assert [one for one in states if one[1] in ("promoted", "rejected", "rolled_back")] == [
            (1, "promoted"), (2, "rejected"), (3, "promoted"), (3, "rolled_back"), (1, "promoted"),
        ]  # fmt: skip
        assert all(entry["evidence"] for entry in story if entry["kind"] == "alias")
    assert read("llmops audit verify")["ok"] is True
