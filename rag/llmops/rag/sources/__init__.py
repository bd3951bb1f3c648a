"""Where documents come from. A source lists documents and keeps a copy of remote ones; it never reads what they say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from hashlib import sha256
from pathlib import Path

from llmops.core.ids import canonical_json
from llmops.core.state import StateConfig
from llmops.rag.config import BucketSource, FolderSource, GitSource, QuerySource, Source, TableSource, WebSource
from llmops.rag.document import Rejected, SourceItem
from llmops.rag.forgotten import NOTHING, Forgotten
from llmops.rag.sources.files import scan

__all__ = ["documents", "scan"]

Found = SourceItem | Rejected
_LABELS = {"acl", "acl_file", "metadata", "facts_from_path"}


def documents(
    source: Source, state: StateConfig, forgotten: Forgotten = NOTHING, held: ExitStack | None = None
) -> Iterator[Found]:
    """Every document that a source holds now; of a remote one, its copy on this machine, brought up to date.

    Args:
        state: remote sources are copied into its folder; tables lie in its lake.
        forgotten: what no copy is kept of.
        held: until it is closed, no other process removes the copies that were given: it may be reading the same
            source for another index, or for a plan. Without it they are there while the documents are told.

    Raises:
        NotFoundError: the source is not there.
        UnavailableError: it does not answer; whoever asked changes nothing.
    """
    if isinstance(source, FolderSource):
        return scan(source)
    return _mirrored(source, state, forgotten, held or ExitStack())


def mirrors(state: StateConfig) -> Path:
    """Where the copies of remote sources lie, a folder each."""
    return state.root / "sources"


def _mirrored(source: Source, state: StateConfig, forgotten: Forgotten, held: ExitStack) -> Iterator[Found]:
    from llmops.rag.sources.mirror import Mirror, keep, only_one

    read = _reader(source, state)
    place = source.model_dump(
        mode="json", exclude={"acl", "metadata", "facts_from_path", "acl_file", "timeout_s", "pause_s", "private"}
    )
    folder = mirrors(state) / sha256(canonical_json(place)).hexdigest()[:24]
    with only_one(folder), closing(Mirror(folder, refused=forgotten.names, unwanted=forgotten.has)) as mirror:
        yield from read(mirror)
        held.enter_context(keep(folder))  # before anybody else may bring it up to date


def _reader(source: Source, state: StateConfig) -> Callable[..., Iterator[Found]]:
    """The function that brings a mirror of this kind of source up to date; its libraries are imported only now."""
    if isinstance(source, GitSource):
        from llmops.rag.sources.git import scan_git

        return lambda mirror: scan_git(source, mirror)
    if isinstance(source, WebSource):
        from llmops.rag.sources.web import scan_web

        return lambda mirror: scan_web(source, mirror)
    if isinstance(source, BucketSource):
        from llmops.rag.sources.bucket import scan_bucket

        return lambda mirror: scan_bucket(source, mirror)
    if isinstance(source, QuerySource):
        from llmops.rag.sources.rows import scan_query

        return lambda mirror: scan_query(source, mirror)
    from llmops.rag.sources.rows import scan_table

    assert isinstance(source, TableSource)
    return lambda mirror: scan_table(source, mirror, state)
