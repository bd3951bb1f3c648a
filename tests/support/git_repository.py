"""A real git repository that a test writes and commits to."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


class GitRepository:
    """A folder under version control; `branch` is main."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.run("init", "--quiet", "--initial-branch=main")

    def write(self, **files: str) -> None:
        """Write files (`docs__a` is docs/a.md) and commit all there is."""
        for name, text in files.items():
            path = self.folder / (name.replace("__", "/") + (".md" if "." not in name else ""))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.commit()

    def commit(self) -> None:
        self.run("add", "--all")
        self.run("commit", "--quiet", "--allow-empty", "--message", "change")

    def run(self, *arguments: str) -> str:
        identity = {
            f"GIT_{who}_{what}": "t@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
        }
        command = ["git", "-C", str(self.folder), *arguments]
        return subprocess.run(
            command, env={**os.environ, **identity}, check=True, capture_output=True, text=True
        ).stdout.strip()
