"""Objects of a bucket, or of any file system that fsspec knows; the signal is what its listing says of each object.

Knows fsspec's door only: s3, gs and abfs through Arrow, others by whatever fsspec finds installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from llmops.core.errors import ConfigError, NotFoundError, UnavailableError
from llmops.core.secret import resolve_secret
from llmops.rag.config import BucketSource
from llmops.rag.document import RefusedDocumentError, Rejected, SourceItem
from llmops.rag.facts.patterns import FactPatterns
from llmops.rag.parse.media import EXTENSIONS, extension
from llmops.rag.sources.acl import MAX_BYTES, Rules
from llmops.rag.sources.mirror import Content, Listed, Mirror
from llmops.rag.sources.patterns import Patterns

_MOST_BYTES = 200_000_000
_FRESH_S = 2.0
_PATIENCE_S = 30.0
_SIGNALS = ("ETag", "etag", "md5Hash", "content_md5", "version_id", "LastModified", "last_modified", "mtime", "updated")


def scan_bucket(source: BucketSource, mirror: Mirror) -> Iterator[SourceItem | Rejected]:
    """Bring the mirror up to the bucket, and give its documents.

    Raises:
        NotFoundError: nothing lies there.
        UnavailableError: it cannot be reached; nothing is taken for deleted.
        ConfigError: the file system's package is not installed, or the access file cannot be read.
    """
    system, root = _opened(source)
    try:
        found = _found(system, root)
    except FileNotFoundError:
        found = {}
    except Exception as error:
        raise UnavailableError(f"the bucket cannot be listed: {_line(error)}", where=source.bucket) from error
    objects = {path[len(root) :].lstrip("/"): about for path, about in found.items() if _is_object(about)}
    if not objects:
        raise NotFoundError("nothing lies there", where=source.bucket, hint="an emptied bucket removes nothing")
    rules = _rules(source, system, objects)
    include, exclude = Patterns(source.include), Patterns(source.exclude)
    scheme, told = source.bucket.partition("://")[0], FactPatterns(source.facts_from_path)

    def wanted(path: str) -> bool:
        if any(part.startswith((".", "~$")) for part in path.split("/")) or exclude.match(path):
            return False
        return include.match(path) if include else extension(path) in EXTENSIONS

    yield from mirror.update(
        Listed(
            f"{scheme}://{about['name'].lstrip('/') if scheme != 'file' else about['name']}",
            _signal(about).__eq__,
            partial(_fetched, system, about),
            rules.groups(path),
            {**told.read(path), **source.metadata},
        )
        for path, about in sorted(objects.items())
        if wanted(path)
    )
    yield from mirror.items()


def _found(system: Any, root: str) -> dict[str, dict[str, Any]]:
    """Every object beneath a prefix. Arrow's are listed at one go: folder by folder Google's show only those folders
    that somebody made as such, and the documents in all others would be missed.
    """
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow import fs

    if not isinstance(system, ArrowFSWrapper):
        found: dict[str, dict[str, Any]] = system.find(root, detail=True)
        return found
    listed = system.fs.get_file_info(fs.FileSelector(root, allow_not_found=True, recursive=True))
    files = (one for one in listed if one.type == fs.FileType.File)
    return {one.path: {"name": one.path, "type": "file", "size": one.size, "mtime": one.mtime} for one in files}


def _opened(source: BucketSource) -> tuple[Any, str]:
    """The file system and the prefix in it. The three clouds' are Arrow's own, which need no package more."""
    from fsspec.core import url_to_fs
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow import fs

    scheme, _, place = source.bucket.partition("://")
    options: dict[str, Any] = {
        name: resolve_secret(value) if isinstance(value, str) and value.startswith(("env:", "file:")) else value
        for name, value in source.options.items()
    }
    native = {"s3": "S3FileSystem", "gs": "GcsFileSystem", "abfs": "AzureFileSystem"}.get(scheme)
    try:
        if scheme == "gs":  # its own default is to try again for 15 minutes
            patience_s = options.get("retry_time_limit", _PATIENCE_S)
            options["retry_time_limit"] = timedelta(seconds=float(patience_s))
        if native:
            return ArrowFSWrapper(getattr(fs, native)(**options)), place.rstrip("/")
        system, root = url_to_fs(source.bucket, use_listings_cache=False, **options)
    except (ImportError, TypeError, ValueError) as error:
        raise ConfigError(
            f"the file system cannot be opened: {_line(error)}",
            where=source.bucket,
            hint="options are those of the file system's own class; some need a package of fsspec's",
        ) from error
    return system, str(root).rstrip("/")


def _is_object(about: dict[str, Any]) -> bool:
    """A file of its own; a link, which mounted folders have, may lead anywhere."""
    return about["type"] == "file" and not about.get("islink")


def _rules(source: BucketSource, system: Any, objects: dict[str, dict[str, Any]]) -> Rules:
    if source.acl_file is None:
        return Rules(default=source.acl)
    where = f"{source.bucket.rstrip('/')}/{source.acl_file}"
    if source.acl_file not in objects:
        raise NotFoundError(f"there is no {source.acl_file}", where=where, hint="nothing was changed")
    return Rules.read(_read(system, objects[source.acl_file], MAX_BYTES + 1), source.acl, where)


def _fetched(system: Any, about: dict[str, Any], _: str | None) -> Content:
    if int(about.get("size") or 0) > _MOST_BYTES:
        raise RefusedDocumentError("too_large", f"{about['size']:,} bytes")
    data = _read(system, about, _MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:  # not every listing tells sizes, and it may have grown since
        raise RefusedDocumentError("too_large", f"more than {_MOST_BYTES:,} bytes")
    return Content(data, extension(about["name"]), _settled(about))


def _read(system: Any, about: dict[str, Any], most: int) -> bytes:
    try:
        with system.open(about["name"], "rb", **_streamed(system)) as file:
            data: bytes = file.read(most)
            return data
    except Exception as error:
        raise UnavailableError(f"the object cannot be read: {_line(error)}", where=about["name"]) from error


def _streamed(system: Any) -> dict[str, bool]:
    """One request an object, front to back: Arrow's readers that can seek ask twice, and Google's then never ends."""
    from fsspec.implementations.arrow import ArrowFSWrapper

    return {"seekable": False} if isinstance(system, ArrowFSWrapper) else {}


def _signal(about: dict[str, Any]) -> str:
    """Size with every mark of the listing that changes with the content."""
    marks = [f"{name}={about[name]}" for name in _SIGNALS if about.get(name) not in (None, "")]
    return " ".join([f"size={about.get('size')}", *marks])


def _settled(about: dict[str, Any]) -> str:
    """The signal to remember. An object written just now may be written again within the same second, unseen."""
    written = next((about[name] for name in _SIGNALS if isinstance(about.get(name), datetime)), None)
    fresh = written is not None and (datetime.now(UTC) - written.astimezone(UTC)).total_seconds() < _FRESH_S
    return _signal(about) + (" just now" if fresh else "")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
