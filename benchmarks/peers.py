"""Runs a peer's code in an environment of its own, so that what is compared with never becomes a dependency.

Knows virtual environments and JSON. A peer is a script beside this file: it reads one JSON job on stdin and writes one
JSON result on stdout; it must import nothing of ours.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent / ".benchmarks"


class PeerUnavailableError(Exception):
    """The peer could not be installed or run; the message is for the benchmark's section."""


def run_peer(name: str, packages: Sequence[str], script: str, job: dict[str, Any], timeout_s: float = 900) -> Any:
    """Install `packages` (pinned: `name==version`) once into `.benchmarks/<name>`, then run `script` there.

    Raises:
        PeerUnavailableError: no network, no such version, or the script failed.
    """
    python = installed(name, packages)
    print(f"   {name}: {script}", file=sys.stderr, flush=True)
    try:
        done = subprocess.run(
            [python, "-I", HERE / script], input=json.dumps(job), capture_output=True, text=True, timeout=timeout_s,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise PeerUnavailableError(f"{name} did not finish within {timeout_s:.0f} s") from None
    if done.returncode:
        raise PeerUnavailableError(f"{name} failed: {_last_line(done.stderr)}")
    return json.loads(done.stdout)


def installed(name: str, packages: Sequence[str]) -> Path:
    """The Python of an environment that holds the packages; made once.

    Raises:
        PeerUnavailableError: no network, or no such version.
    """
    folder = ROOT / name
    python, stamp = folder / "bin" / "python", folder / "packages.sha256"
    wanted = hashlib.sha256("\n".join([sys.version, *packages]).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"   {name}: installing {', '.join(packages)}", file=sys.stderr, flush=True)
    stamp.unlink(missing_ok=True)
    commands = [
        [sys.executable, "-m", "venv", "--clear", folder],
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages],
    ]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200)
        if done.returncode:
            raise PeerUnavailableError(f"{name} could not be installed: {_last_line(done.stderr)}")
    stamp.write_text(wanted)
    return python


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
