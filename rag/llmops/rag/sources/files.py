"""Documents in folders, single files and globs of this machine.

Costs one `scandir` a folder and one `stat` a file, so that an unchanged refresh stays in milliseconds; reads and hashes nothing.
What it holds to: the same tree gives the same order; hidden files, version control folders and office lock files are no
documents; a missing root is an error, never "everything was deleted"; a link is followed only within the root.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from llmops.core.errors import NotFoundError
from llmops.rag.config import SourceConfig
from llmops.rag.document import RefusedDocumentError, Rejected, SourceItem
from llmops.rag.parse.media import EXTENSIONS
from llmops.rag.sources.patterns import Patterns, is_glob, split_base

VERSION_CONTROL = frozenset({"CVS", "RCS", "SCCS", "_darcs"})
"""Folders of version control that no leading dot hides."""


def scan_all(sources: Iterable[SourceConfig], base: Path | None = None) -> Iterator[SourceItem | Rejected]:
    """List several sources. A document that two of them hold is the first one's, with its access list."""
    seen: set[str] = set()
    for source in sources:
        for found in scan(source, base):
            if found.uri not in seen:
                seen.add(found.uri)
                yield found


def scan(source: SourceConfig, base: Path | None = None) -> Iterator[SourceItem | Rejected]:
    """List the documents of one source in a fixed order.

    Args:
        base: the working folder; relative paths start from it, and uris are relative to it.

    Raises:
        NotFoundError: the folder or file is not there. Raised before the first document is given.
    """
    walk = _Walk.of(source, os.path.abspath(base or Path.cwd()))
    return walk.run()


@dataclass
class _Walk:
    """One pass over a root."""

    root: str
    base: str
    acl: tuple[str, ...]
    metadata: dict[str, Any]
    glob: Patterns
    include: Patterns
    exclude: Patterns
    linked: set[tuple[int, int]] = field(default_factory=set)

    @classmethod
    def of(cls, source: SourceConfig, base: str) -> _Walk:
        path = os.path.expanduser(source.path)
        glob: tuple[str, ...] = ()
        if is_glob(path) and not os.path.lexists(os.path.join(base, path)):
            path, rest = split_base(path)
            glob = (rest,)
        root = os.path.normpath(os.path.join(base, path))
        if not os.path.lexists(root):
            raise NotFoundError(
                f"the source `{source.path}` is not there",
                where=root,
                hint="mount it or correct `path`; to remove its documents from the index, remove the source from the configuration",
            )
        return cls(
            root,
            base,
            source.acl,
            dict(source.metadata),
            Patterns(glob, anchored=True),
            Patterns(source.include),
            Patterns(source.exclude),
        )

    def run(self) -> Iterator[SourceItem | Rejected]:
        try:
            status = os.stat(self.root)
            if stat.S_ISDIR(status.st_mode):
                os.scandir(self.root).close()
        except OSError as error:
            raise NotFoundError(f"the source cannot be read: {error.strerror}", where=self.root) from error
        if stat.S_ISDIR(status.st_mode):
            return self._folder(self.root, "", ((status.st_dev, status.st_ino),))
        return iter([self._item(self.root, status)])

    def _folder(
        self, path: str, relative: str, ancestors: tuple[tuple[int, int], ...]
    ) -> Iterator[SourceItem | Rejected]:
        """Give the documents of a folder and those beneath; `ancestors` are the folders on the way here."""
        try:
            with os.scandir(path) as entries:
                listing = sorted(entries, key=_entry_name)
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                yield Rejected(
                    self._uri(path), f"the folder cannot be listed: {error.strerror}", "unreadable", subtree=True
                )
            return
        for entry in listing:
            name = entry.name
            if name.startswith((".", "~$")) or name in VERSION_CONTROL:
                continue
            below = relative + name
            if self.exclude.match(below):
                continue
            if entry.is_symlink():
                yield from self._link(entry, below, ancestors)
            elif entry.is_dir(follow_symlinks=False):
                status = entry.stat(follow_symlinks=False)
                yield from self._folder(entry.path, below + "/", (*ancestors, (status.st_dev, status.st_ino)))
            elif self._wanted(below, name):
                yield from self._file(entry)

    def _file(self, entry: os.DirEntry[str]) -> Iterator[SourceItem | Rejected]:
        try:
            status = entry.stat()
        except FileNotFoundError:
            return  # deleted since its folder was listed
        except OSError as error:
            yield Rejected(self._uri(entry.path), f"the file cannot be looked at: {error.strerror}", "unreadable")
            return
        yield self._item(entry.path, status)

    def _link(
        self, entry: os.DirEntry[str], below: str, ancestors: tuple[tuple[int, int], ...]
    ) -> Iterator[SourceItem | Rejected]:
        """Follow a link within the root; report one that leads round in a circle, out of the root, or nowhere.

        A link to a folder that is scanned where it lies is passed over; one into a hidden folder (as Kubernetes mounts its
        volumes) is followed once.
        """
        try:
            status = os.stat(entry.path)
            target = os.path.realpath(entry.path, strict=True)
        except OSError as error:
            if not self._wanted(below, entry.name) and error.errno != errno.ELOOP:
                return
            yield _dead_link(self._uri(entry.path), error)
            return
        real_root = os.path.realpath(self.root)
        inside = target == real_root or target.startswith(real_root.rstrip("/") + "/")
        folder = stat.S_ISDIR(status.st_mode)
        identity = (status.st_dev, status.st_ino)
        if not folder and not self._wanted(below, entry.name):
            return
        if folder and identity in ancestors:
            yield RefusedDocumentError("symlink_loop").as_rejected(self._uri(entry.path))
        elif not inside:
            yield RefusedDocumentError("outside_root").as_rejected(self._uri(entry.path))
        elif not folder:
            yield self._item(entry.path, status)
        elif _hidden(target[len(real_root) :]) and identity not in self.linked:
            self.linked.add(identity)
            yield from self._folder(entry.path, below + "/", (*ancestors, identity))

    def _wanted(self, below: str, name: str) -> bool:
        if self.glob and not self.glob.match(below):
            return False
        if self.include:
            return self.include.match(below)
        return bool(self.glob) or os.path.splitext(name)[1].lower() in EXTENSIONS

    def _item(self, path: str, status: os.stat_result) -> SourceItem | Rejected:
        uri = self._uri(path)
        try:
            uri.encode()
        except UnicodeEncodeError:
            return RefusedDocumentError("bad_name").as_rejected(uri.encode(errors="backslashreplace").decode())
        if not stat.S_ISREG(status.st_mode):
            return Rejected(uri, "it is not a regular file", "unreadable")
        return SourceItem(uri, path, status.st_size, status.st_mtime_ns, self.acl, self.metadata)

    def _uri(self, path: str) -> str:
        prefix = self.base.rstrip("/") + "/"
        return path[len(prefix) :] if path.startswith(prefix) else path


def _entry_name(entry: os.DirEntry[str]) -> str:
    return entry.name


def _hidden(path: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(path).parts)


def _dead_link(uri: str, error: OSError) -> Rejected:
    if isinstance(error, FileNotFoundError):
        return Rejected(uri, "the link leads nowhere", "unreadable")
    if error.errno == errno.ELOOP:
        return RefusedDocumentError("symlink_loop").as_rejected(uri)
    return Rejected(uri, f"the link cannot be followed: {error.strerror}", "unreadable")
