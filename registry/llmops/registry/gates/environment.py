"""What the code was that measured: revision and installed packages, for evidence that another can repeat.

Knows git's files and the installed distributions; runs no program.
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from llmops.core.ids import digest
from llmops.registry.evidence import Env

_COMMIT = re.compile(r"[0-9a-f]{40,64}")


def environment() -> Env:
    """The revision of the working folder's repository, if it is one, and a digest of every installed package."""
    return Env(git=_revision(Path.cwd()), lock_digest=_packages())


@lru_cache(maxsize=1)
def _packages() -> str:
    found = {f"{each.name}=={each.version}".lower() for each in metadata.distributions() if each.name}
    return digest(sorted(found))


def _revision(folder: Path) -> str | None:
    """The commit that HEAD names, read from git's own files; changes that are not committed are not seen."""
    for parent in (folder, *folder.parents):
        git = parent / ".git"
        try:
            if git.is_file():  # a worktree: the file says where its HEAD is
                git = parent / git.read_text().removeprefix("gitdir:").strip()
            if git.is_dir():
                return _commit(git)
        except OSError:
            return None
    return None


def _commit(git: Path) -> str | None:
    head = (git / "HEAD").read_text().strip()
    if not head.startswith("ref: "):
        return head if _COMMIT.fullmatch(head) else None
    name = head.removeprefix("ref: ")
    shared = git / (git / "commondir").read_text().strip() if (git / "commondir").exists() else git
    for place in (git, shared):
        if (place / name).is_file():
            return (place / name).read_text().strip()
    packed = shared / "packed-refs"
    lines = packed.read_text().splitlines() if packed.is_file() else []
    return next((line.split()[0] for line in lines if line.endswith(f" {name}")), None)
