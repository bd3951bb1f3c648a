"""Documents in folders, single files and globs of this machine.

Costs one `scandir` a folder and one `stat` a file, so that an unchanged refresh stays in milliseconds; reads and hashes
nothing, and remembers no file. What it holds to: hidden files, version control folders and office lock files are no
documents; a missing root is an error, never "everything was deleted"; a link is followed only within it. What a name
means is settled once, here: each document goes on with the place that its links led to, so that a link which is put
there later, for a file or a folder, leads no reader on.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llmops.core.errors import NotFoundError
from llmops.core.files import open_beneath
from llmops.rag.config import FolderSource
from llmops.rag.document import Place, RefusedDocumentError, Rejected, SourceItem
from llmops.rag.facts.patterns import FactPatterns
from llmops.rag.parse.media import EXTENSIONS, extension
from llmops.rag.sources.acl import MAX_BYTES, Rules, narrowed
from llmops.rag.sources.patterns import Patterns, is_glob, split_base

VERSION_CONTROL = frozenset({"CVS", "RCS", "SCCS", "_darcs"})
"""Folders of version control that no leading dot hides."""

_DEEPEST = 200
"""Folders within each other; a chain of thousands, which a path has room for, would be the end of the whole walk."""

Found = SourceItem | Rejected
Identity = tuple[int, int]


def scan(source: FolderSource, base: Path | None = None) -> Iterator[Found]:
    """List the documents of one source: folders in order, the files of each as the disk has them.

    Args:
        base: the working folder; relative paths start from it, and uris are relative to it.

    Raises:
        NotFoundError: the folder or file is not there. Raised before the first document is given.
    """
    return _Walk.of(source, (base or Path()).absolute()).run()


def is_utf8(text: str) -> bool:
    """Whether a name is text: what a disk calls a file may be any bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def bad_name(uri: str) -> Rejected:
    return RefusedDocumentError("bad_name").as_rejected(_sayable(uri))


@dataclass
class _Walk:
    """One pass over a root. Paths are strings: a `Path` for each of 60,000 files would double the time."""

    root: str
    base: str
    rules: Rules
    metadata: dict[str, Any]
    told: FactPatterns
    glob: Patterns
    include: Patterns
    exclude: Patterns
    followed: set[Identity] = field(default_factory=set)

    @classmethod
    def of(cls, source: FolderSource, base: Path) -> _Walk:
        path = str(Path(source.path).expanduser())
        glob: tuple[str, ...] = ()
        if is_glob(path) and not os.path.lexists(base / path):
            path, rest = split_base(path)
            glob = (rest,)
        root = os.path.normpath(base / path)
        if not os.path.lexists(root):
            raise NotFoundError(
                f"the source `{source.path}` is not there",
                where=root,
                hint="mount it or correct `path`; a source that is gone for good is removed from the configuration",
            )
        patterns = (Patterns(glob, anchored=True), Patterns(source.include), Patterns(source.exclude))
        return cls(
            root,
            os.path.normpath(base),
            _rules(source, root),
            dict(source.metadata),
            FactPatterns(source.facts_from_path),
            *patterns,
        )

    def run(self) -> Iterator[Found]:
        try:
            status = Path(self.root).stat()
            if stat.S_ISDIR(status.st_mode):
                os.scandir(self.root).close()
        except OSError as error:
            raise NotFoundError(f"the source cannot be read: {error.strerror}", where=self.root) from error
        if stat.S_ISDIR(status.st_mode):
            return self._folder("", "", ())
        return iter([self._item("", Place.of(os.path.realpath(self.root)), status)])

    def _folder(self, above: str, inside: str, ancestors: tuple[Identity, ...]) -> Iterator[Found]:
        """Give the documents of a folder and those beneath.

        Args:
            above: the way to it by the names that documents are given, with a slash at its end.
            inside: the way to it on which no link lies.
            ancestors: the folders on the way here.
        """
        if len(ancestors) == _DEEPEST:
            reason = f"more than {_DEEPEST} folders lie within each other"
            yield Rejected(self._uri(above.rstrip("/")), reason, "unreadable", subtree=True)
            return
        beneath = []
        try:
            with _opened(self.root, inside) as folder:
                ancestors = (*ancestors, _identity(os.fstat(folder)))
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if _is_no_document(entry.name) or self.exclude.match(above + entry.name):
                            continue
                        if entry.is_symlink() or entry.is_dir(follow_symlinks=False):
                            beneath.append((entry.name, entry.is_symlink()))
                        elif self._wanted(above + entry.name, entry.name):
                            yield from self._file(entry, above, inside)
        except FileNotFoundError:
            return  # deleted since its parent was listed
        except OSError as error:
            reason = f"the folder cannot be listed: {error.strerror}"
            yield Rejected(_sayable(self._uri(above.rstrip("/"))), reason, "unreadable", subtree=True)
            return
        for name, is_link in sorted(beneath):
            if is_link:
                yield from self._link(above + name, inside + name, ancestors)
            else:
                yield from self._folder(f"{above}{name}/", f"{inside}{name}/", ancestors)

    def _file(self, entry: os.DirEntry[str], above: str, inside: str) -> Iterator[Found]:
        relative = above + entry.name
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return  # deleted since its folder was listed
        except OSError as error:
            reason = f"the file cannot be looked at: {error.strerror}"
            yield Rejected(_sayable(self._uri(relative)), reason, "unreadable")
            return
        yield self._item(relative, Place(self.root, inside + entry.name), status)

    def _link(self, relative: str, inside: str, ancestors: tuple[Identity, ...]) -> Iterator[Found]:
        """Follow a link within the root; report one that leads round in a circle, out of the root, or nowhere.

        A link to a folder that is scanned where it lies is passed over; one into a hidden folder (as Kubernetes mounts
        its volumes) is followed once.
        """
        uri = _sayable(self._uri(relative))
        wanted = self._wanted(relative, relative.rpartition("/")[2])
        try:
            target = Path(os.path.realpath(f"{self.root}/{inside}", strict=True))
            status = target.lstat()
        except OSError as error:
            if wanted or error.errno == errno.ELOOP:
                yield _dead_link(uri, error)
            return
        root = Path(self.root).resolve()
        folder = stat.S_ISDIR(status.st_mode)
        if not folder and not wanted:
            return
        if folder and _identity(status) in ancestors:
            yield RefusedDocumentError("symlink_loop").as_rejected(uri)
        elif not target.is_relative_to(root):
            yield RefusedDocumentError("outside_root").as_rejected(uri)
        elif not folder:
            yield self._linked(relative, status, target.relative_to(root))
        elif _is_hidden(target.relative_to(root)) and _identity(status) not in self.followed:
            self.followed.add(_identity(status))
            yield from self._folder(f"{relative}/", f"{target.relative_to(root)}/", ancestors)

    def _linked(self, relative: str, status: os.stat_result, target: Path) -> Found:
        """A file under a second name, for those who may read it under both: a link opens nothing. A hidden file has no
        readers of its own, as it is no document."""
        item = self._item(relative, Place(self.root, str(target)), status)
        if isinstance(item, Rejected) or _is_hidden(target):
            return item
        return replace(item, acl=narrowed(item.acl, self.rules.groups(str(target))))

    def _wanted(self, relative: str, name: str) -> bool:
        if self.glob and not self.glob.match(relative):
            return False
        if self.include:
            return self.include.match(relative)
        return bool(self.glob) or extension(name) in EXTENSIONS

    def _item(self, relative: str, place: Place, status: os.stat_result) -> Found:
        uri = self._uri(relative)
        if not is_utf8(uri):
            return bad_name(uri)
        if not stat.S_ISREG(status.st_mode):
            return Rejected(uri, "it is not a regular file", "unreadable")
        path = self._path(relative)
        facts = {**self.told.read(relative or Path(path).name), **self.metadata} if self.told else self.metadata
        groups = self.rules.groups(relative)
        return SourceItem(uri, path, place, status.st_size, status.st_mtime_ns, groups, facts)

    def _path(self, relative: str) -> str:
        return f"{self.root.rstrip('/')}/{relative}" if relative else self.root

    def _uri(self, relative: str) -> str:
        path, prefix = self._path(relative), self.base.rstrip("/") + "/"
        return path[len(prefix) :] if path.startswith(prefix) else path


@contextmanager
def _opened(root: str, inside: str) -> Iterator[int]:
    """A folder's descriptor, on the way to which no link was followed."""
    descriptor = open_beneath(root, inside, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _rules(source: FolderSource, root: str) -> Rules:
    if source.acl_file is None:
        return Rules(default=source.acl)
    path = Path(root) / source.acl_file
    try:
        within = Path(os.path.realpath(path, strict=True)).relative_to(Path(root).resolve())
        with open(open_beneath(root, str(within), os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # noqa: PTH123 - a descriptor
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise NotFoundError("the access file is no regular file", where=str(path))
            return Rules.read(file.read(MAX_BYTES + 1), source.acl, str(path))
    except ValueError:
        raise NotFoundError("the access file lies outside of the source's folder", where=str(path)) from None
    except OSError as error:
        raise NotFoundError(f"the access file cannot be read: {error.strerror}", where=str(path)) from error


def _is_no_document(name: str) -> bool:
    return name.startswith((".", "~$")) or name in VERSION_CONTROL


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _sayable(uri: str) -> str:
    """A uri that text can hold."""
    return uri.encode(errors="backslashreplace").decode()


def _dead_link(uri: str, error: OSError) -> Rejected:
    if error.errno == errno.ELOOP:
        return RefusedDocumentError("symlink_loop").as_rejected(uri)
    if error.errno == errno.ENOENT:
        return Rejected(uri, "the link leads nowhere", "unreadable")
    return Rejected(uri, f"the link cannot be followed: {error.strerror}", "unreadable")
