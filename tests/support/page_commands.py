"""The commands of a documentation page, run one after the other as a reader would type them, and what they show.

In a `console` block a line that begins with `$ ` is a command; `# exit code N` at its end says how it ends. The lines
below it stand in its output in this order, `...` being any text.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_CODE = re.compile(r"#\s*exit code (\d+).*$")


@dataclass
class Command:
    text: str
    code: int = 0
    shows: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Ran:
    command: Command
    code: int
    output: str

    def problem(self) -> str | None:
        """How it differs from the page; None where it does not."""
        if self.code != self.command.code:
            return f"exit code {self.code}, not {self.command.code}: {self.output[-2000:]}"
        lines = iter(self.output.splitlines())
        for shown in self.command.shows:
            pattern = re.compile(".*".join(re.escape(part.strip()) for part in shown.split("...")))
            if not any(pattern.search(line) for line in lines):
                return f"the page shows `{shown}`, which is not in:\n{self.output[-3000:]}"
        return None


def commands(page: str) -> list[Command]:
    """Every command of a page, with what is shown below it."""
    found: list[Command] = []
    for block in re.findall(r"```console\n(.*?)```", page, re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                code = _CODE.search(line)
                found.append(Command(_CODE.sub("", line[2:]).strip(), int(code[1]) if code else 0))
            elif line.strip():
                found[-1].shows.append(line)
    return found


def run(given: list[Command], folder: Path, environment: Mapping[str, str], *, timeout_s: float) -> list[Ran]:
    """Run commands in one shell, so that what one exports the next one has."""
    into = folder / ".outputs"
    into.mkdir()
    script = "".join(
        f"{{ {command.text}\n}} >{into}/{number}.out 2>&1; echo $? >{into}/{number}.code\n"
        for number, command in enumerate(given)
    )
    subprocess.run(
        ["bash", "-c", script], cwd=folder, env={**os.environ, **environment}, timeout=timeout_s, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return [
        Ran(command, int((into / f"{number}.code").read_text()), (into / f"{number}.out").read_text())
        for number, command in enumerate(given)
    ]
