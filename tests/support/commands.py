"""The `llmops` command as users start it: a process of its own, in a folder of its own."""

from __future__ import annotations

import json
import os
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]


def llmops(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself."""
    return subprocess.run(
        _command(*arguments), cwd=folder, env=_environment(), capture_output=True, text=True, check=False, timeout=180
    )


def printed(folder: Path, *arguments: str) -> Any:
    """What a command that reads tells with `--json`."""
    done = llmops(folder, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@contextmanager
def running(folder: Path, *arguments: str, opened: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server and its address: what follows `opened` in what it says. It is killed at the end of the block."""
    process = subprocess.Popen(_command(*arguments), cwd=folder, env=_environment(), stderr=subprocess.PIPE, text=True)
    lines: queue.Queue[str] = queue.Queue()
    assert process.stderr is not None
    reader = threading.Thread(target=lambda: [lines.put(line) for line in process.stderr or ()], daemon=True)
    reader.start()
    try:
        said = ""
        while not (found := re.search(rf"{opened} (https?://\S+)", said)):
            said += lines.get(timeout=120)
        yield found[1], process
    finally:
        process.kill()
        process.wait(60)
        reader.join(60)
        process.stderr.close()


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "llmops.cli.main", *arguments]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), *sys.path]), "NO_COLOR": "1"}
