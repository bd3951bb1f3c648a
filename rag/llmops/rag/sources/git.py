"""The files of one branch of a git repository: a shallow fetch, and the blobs that changed.

The signal of a document is its blob's id, and where the branch has not moved nothing is listed at all. Knows git's
commands; runs no hook, no filter, no submodule, and no transport that runs a program of the URL's choice.
"""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import urlsplit

from llmops.core.addresses import checked_address
from llmops.core.errors import ConfigError, NotFoundError, UnavailableError
from llmops.core.secret import resolve_secret
from llmops.rag.config import GitSource
from llmops.rag.document import RefusedDocumentError, Rejected, SourceItem
from llmops.rag.facts.patterns import FactPatterns
from llmops.rag.parse.media import EXTENSIONS, extension
from llmops.rag.sources.acl import Rules
from llmops.rag.sources.files import VERSION_CONTROL
from llmops.rag.sources.mirror import Content, Listed, Mirror
from llmops.rag.sources.patterns import Patterns

_PORTS = {"https": 443, "http": 80, "ssh": 22, "git": 9418}
_FETCH_S = 600.0
_SAFE = ("-c", "core.hooksPath=/dev/null", "-c", "protocol.ext.allow=never", "-c", "http.followRedirects=false")
_FILE = "100644", "100755"
_HEAD = "refs/llmops/head"
_MOST_BYTES = 200_000_000
_PRIVATE = "set `private: true` at this source if it is meant"


class _Blob(NamedTuple):
    path: str
    id: str
    size: int


def scan_git(source: GitSource, mirror: Mirror) -> Iterator[SourceItem | Rejected]:
    """Bring the mirror up to the branch, and give its documents.

    Raises:
        NotFoundError: no such repository, branch or folder.
        UnavailableError: git cannot reach it, or is not installed.
        ConfigError: its access file cannot be read.
    """
    repository = _Repository(source, mirror.folder / "repository")
    commit = repository.fetch()
    blobs = {blob.path: blob for blob in repository.blobs(commit)}
    if not blobs:
        raise NotFoundError("the repository holds no such folder, or nothing in it", where=_name(source))
    rules = Rules(default=source.acl)
    if source.acl_file is not None:
        held = blobs.get(source.acl_file)
        if held is None:
            raise NotFoundError(f"there is no {source.acl_file}", where=_name(source), hint="nothing was changed")
        rules = Rules.read(repository.content(held), source.acl, f"{_name(source)}#{source.acl_file}")
    wanted, told = _Wanted(source), FactPatterns(source.facts_from_path)
    listing = (
        Listed(
            uri_of(source, blob.path),
            blob.id.__eq__,
            partial(_fetched, repository, blob),
            rules.groups(blob.path),
            {**told.read(blob.path), **source.metadata},
        )
        for blob in blobs.values()
        if wanted(blob.path)
    )
    yield from mirror.update(listing)
    yield from mirror.items()


def uri_of(source: GitSource, path: str) -> str:
    """`<repository>#<path in it>`: the same on every machine, and free of user and password."""
    return f"{_name(source)}#{PurePosixPath(source.path) / path if source.path else path}"


def _name(source: GitSource) -> str:
    if "://" not in source.git:
        return source.git
    parts = urlsplit(source.git)
    host = (parts.hostname or "") + (f":{parts.port}" if parts.port else "")
    return f"{parts.scheme}://{host}{parts.path}"


def _host(git: str) -> tuple[str, int] | None:
    """The host that git will call, and its port; None for a folder of this machine."""
    if "://" in git:
        parts = urlsplit(git)
        return None if parts.scheme == "file" else (parts.hostname or "", parts.port or _PORTS[parts.scheme])
    before, colon, _ = git.partition(":")
    if not colon or "/" in before or Path(git).expanduser().exists():
        return None
    return before.rpartition("@")[2].strip("[]"), _PORTS["ssh"]


def _fetched(repository: _Repository, blob: _Blob, _: str | None) -> Content:
    if blob.size > _MOST_BYTES:
        raise RefusedDocumentError("too_large", f"{blob.size:,} bytes")
    return Content(repository.content(blob), extension(blob.path), blob.id)


class _Wanted:
    """The same choice of files as in a folder."""

    def __init__(self, source: GitSource) -> None:
        self._include, self._exclude = Patterns(source.include), Patterns(source.exclude)

    def __call__(self, path: str) -> bool:
        hidden = any(part.startswith((".", "~$")) or part in VERSION_CONTROL for part in path.split("/"))
        if hidden or self._exclude.match(path):
            return False
        return self._include.match(path) if self._include else extension(path) in EXTENSIONS


class _Repository:
    """A bare, shallow copy of one branch."""

    def __init__(self, source: GitSource, folder: Path) -> None:
        self._source = source
        self._folder = folder

    def fetch(self) -> str:
        """Get the newest commit of the branch; gives its id."""
        self._refuse_private()
        if not (self._folder / "HEAD").exists():
            self._run("init", "--quiet", "--bare", "--", str(self._folder), inside=False)
        wanted = self._source.branch or "HEAD"
        url = self._source.git
        if "://" not in url and Path(url).expanduser().exists():
            url = str(Path(url).expanduser().resolve())
        self._run(
            *("fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--force", "--"),
            *(url, f"{wanted}:{_HEAD}"),
        )
        return self._run("rev-parse", "--verify", f"{_HEAD}^{{commit}}").decode().strip()

    def blobs(self, commit: str) -> Iterator[_Blob]:
        """Regular files beneath the source's folder; links and submodules are not followed."""
        place = f"{commit}:{self._source.path.strip('/')}"
        listed = self._run("ls-tree", "-r", "-z", "-l", "--full-tree", place)
        for line in listed.split(b"\0"):
            if not line:
                continue
            about, _, name = line.partition(b"\t")
            mode, _, blob, size = about.split()
            if mode.decode() in _FILE:
                yield _Blob(name.decode(errors="backslashreplace"), blob.decode(), int(size))

    def content(self, blob: _Blob) -> bytes:
        return self._run("cat-file", "blob", blob.id)

    def _refuse_private(self) -> None:
        place = None if self._source.private else _host(self._source.git)
        if place is None:
            return
        try:
            checked_address(*place, private=False, hint=_PRIVATE)
        except OSError as error:
            raise UnavailableError(f"the host has no address: {error}", where=_name(self._source)) from error

    def _run(self, *arguments: str, inside: bool = True) -> bytes:
        place = ("--git-dir", str(self._folder)) if inside else ()
        command = ["git", *place, *_SAFE, *arguments]
        try:
            done = subprocess.run(  # noqa: S603 - a fixed program; the URL stands after `--`
                command, env=self._environment(), capture_output=True, check=False, timeout=_FETCH_S
            )
        except FileNotFoundError:
            raise UnavailableError("git is not installed", where=_name(self._source), hint="install git") from None
        except subprocess.TimeoutExpired:
            raise UnavailableError(f"git took longer than {_FETCH_S:g} s", where=_name(self._source)) from None
        if done.returncode:
            raise self._explained(done.stderr.decode(errors="replace"))
        return done.stdout

    def _explained(self, said: str) -> UnavailableError | NotFoundError:
        line = next((line for line in said.splitlines() if line.startswith(("fatal:", "error:"))), said.strip()[:200])
        line = line.removeprefix("fatal: ").removeprefix("error: ")
        missing = ("couldn't find remote ref", "does not exist", "not a tree object", "not found", "Not a valid object")
        kind = NotFoundError if any(word in line for word in missing) else UnavailableError
        return kind(f"git: {line}", where=_name(self._source), hint="nothing was changed; correct it, or run again")

    def _environment(self) -> dict[str, str]:
        """Git's own, without prompts; a token travels in the environment, where no process list shows it."""
        environment = {
            **os.environ,
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ALLOW_PROTOCOL": "https:http:ssh:git:file",
            "GIT_SSH_COMMAND": os.environ.get("GIT_SSH_COMMAND", "ssh -oBatchMode=yes"),
            "GIT_LFS_SKIP_SMUDGE": "1",
            "LC_ALL": "C",
        }
        if self._source.token is not None:
            if not self._source.git.startswith("https://"):
                raise ConfigError("a token is sent over https only", where=_name(self._source))
            pair = base64.b64encode(f"x-access-token:{resolve_secret(self._source.token)}".encode()).decode()
            parts = urlsplit(self._source.git)
            environment |= {
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": f"http.https://{parts.netloc.rpartition('@')[2]}/.extraHeader",
                "GIT_CONFIG_VALUE_0": f"Authorization: Basic {pair}",
            }
        return environment
