"""The right to be forgotten: a document, or a person's exchanges, out of every place that this state folder has.

The order is that in which a crash does no harm. What has to go is written down first (`forgetting/`, for the owner's
eyes), then no source may bring it back, then it stops answering, then its bytes go, then the copies and the log. The
note is removed last: while it is there, the same call, or `resume`, does the whole again. At the end all files of the
state folder are searched: what is still found is told. Knows the order and the list of places; the places do the work.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops.core.errors import NotFoundError, UserError
from llmops.core.files import exclusive_lock, sync_directory, write_atomic
from llmops.rag import forgotten
from llmops.rag.database_postgresql import is_postgresql
from llmops.rag.forgotten import Entry
from llmops.rag.ingest import erasure

if TYPE_CHECKING:
    from llmops.core.erase import LogEraser
    from llmops.core.state import StateConfig

_NOTES = "forgetting"
_SOUGHT = 24
_UNSEARCHED = {".locks"}


@dataclass
class Note:
    """What is being forgotten, as it is kept until that is done."""

    uris: list[str] = field(default_factory=list)
    requester: str | None = None
    entries: list[Entry] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    generations: dict[str, list[str]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    @property
    def subject(self) -> str:
        """What was asked to be forgotten, as a hash: what an audit log may keep."""
        asked = self.requester if self.requester is not None else json.dumps(sorted(self.uris))
        return sha256(asked.encode(errors="surrogatepass")).hexdigest()

    @property
    def documents(self) -> list[str]:
        return sorted({*self.uris, *(one.uri for one in self.entries)})


@dataclass
class Remains:
    """A file in which words of the subject are still found, and what that means."""

    path: str
    why: str


@dataclass
class Report:
    """What was, or by a plan would be, removed, and what is out of reach.

    Attributes:
        documents: the uris, copies of the same bytes under other names with them.
        generations: by index, those that held one of them.
        sources: copies of remote sources on this machine that held one.
        deleted, blanked: rows of the log by table: whole rows, and rows whose words went.
        remains: files of the state folder in which the subject's words still stand.
        out_of_reach: what no search of this folder can tell.
    """

    subject: str
    planned: bool
    documents: list[str] = field(default_factory=list)
    generations: dict[str, list[str]] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)
    deleted: dict[str, int] = field(default_factory=dict)
    blanked: dict[str, int] = field(default_factory=dict)
    dead_letters: int = 0
    remains: list[Remains] = field(default_factory=list)
    out_of_reach: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, as `llmops forget --json` prints them."""
        return asdict(self)

    def counts(self) -> dict[str, Any]:
        """The report without any name: what an audit log may keep."""
        return {
            "documents": len(self.documents),
            "generations": sum(map(len, self.generations.values())),
            "rows_deleted": sum(self.deleted.values()),
            "rows_blanked": sum(self.blanked.values()),
            "remains": len(self.remains),
        }


def plan(state: StateConfig, note: Note) -> Report:
    """What `forget` would remove; changes nothing."""
    full = _completed(state, note)
    found = _eraser(state, full).plan()
    places = {name: list(held) for name, held in full.generations.items() if held}
    return Report(full.subject, True, full.documents, places, [], found.deleted, found.blanked)


def forget(state: StateConfig, note: Note) -> Report:
    """Forget documents, or a person; the same call again after a crash does the rest.

    Raises:
        NotFoundError: no index, log or copy knows the document.
        ConflictError: a refresh of an index, or a change of a table, does not end.
    """
    folder = state.root / _NOTES
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with exclusive_lock(folder / "lock", what="forgetting", wait_s=600.0):
        for torn in folder.glob(".*.tmp"):  # of a process that was killed while it wrote
            torn.unlink()
        path = folder / f"{note.subject}.json"
        full = _kept(path) or _completed(state, note)
        write_atomic(path, json.dumps(asdict(full)).encode(), mode=0o600)
        report = _carry_out(state, full)
        path.unlink()
        sync_directory(folder)
    return report


def unfinished(state: StateConfig) -> list[Note]:
    """What was begun and never ended."""
    return [note for path in sorted((state.root / _NOTES).glob("*.json")) if (note := _kept(path))]


def request_of(uris: Sequence[str], requester: str | None) -> Note:
    """A request to forget documents, or a person.

    Raises:
        UserError: it names neither, or both.
    """
    if bool(uris) == (requester is not None):
        raise UserError("name documents, or a requester", hint="`llmops forget URI...` or `--requester ID`")
    return Note(list(dict.fromkeys(uris)), requester)


def _completed(state: StateConfig, note: Note) -> Note:
    """The request with all that is needed to carry it out once the documents themselves are gone."""
    full = replace(note, entries=[Entry(uri) for uri in note.uris], words=[], generations={})
    known = False
    for name in erasure.indexes(state) if note.uris else ():
        held = erasure.look_up(state, name, note.uris)
        known = known or bool(held.entries)
        full.entries += [one for one in held.entries if one not in full.entries]
        full.words += [word for word in held.words if word not in full.words]
        full.generations[name] = list(held.generations)
    logged = _eraser(state, full).plan()
    full.requests = sorted(logged.requests)
    full.words += logged.questions
    if note.uris and not (known or full.requests or erasure.copied(state, note.uris)):
        raise NotFoundError(
            "nothing here knows this document",
            where=note.uris[0],
            hint="`llmops ingest list` lists the documents; write the uri as it stands there",
        )
    return full


def _carry_out(state: StateConfig, note: Note) -> Report:
    report = Report(note.subject, False, note.documents, note.generations)
    if note.uris:
        forgotten.add(state, note.entries)
        for name, generations in note.generations.items():
            if not erasure.erase(state, name, note.documents, generations):
                report.out_of_reach.append(f"free pages of the index {name}: a reader holds an old state; run again")
        report.sources = erasure.erase_copies(state, note.documents)
    erased = _eraser(state, note).erase()
    report.deleted, report.blanked, report.dead_letters = erased.deleted, erased.blanked, erased.dead_letters
    report.remains = list(_search(state, note))
    report.out_of_reach += [*_elsewhere(state), *_BEYOND[bool(note.uris)]]
    return report


def _elsewhere(state: StateConfig) -> list[str]:
    """What this state keeps outside of its folder, where no table is listed and no file searched."""
    told = []
    if "://" in state.lake:
        told.append("tables of the lake that is not on this machine: erase them there, and vacuum them")
    if is_postgresql(state.sql_url):
        told.append("the database's own log, archives and backups")
        told.append("vectors and texts that other machines keep until they ingest, or load the new state")
    if state.mlflow_uri is not None or state.mlflow_uris:
        told.append("MLflow's servers: delete the runs that hold it there")
    return told


def _eraser(state: StateConfig, note: Note) -> LogEraser:
    from llmops.core.erase import LogEraser, Subject

    requests = frozenset(note.requests)
    return LogEraser(state, Subject(note.requester, tuple(note.documents), tuple(note.words), requests))


def _search(state: StateConfig, note: Note) -> Iterator[Remains]:
    """Every file of the state folder that still holds some of the words, or a request's id."""
    named = [note.requester, *note.words, *note.requests] if note.requester is not None else note.documents
    texts = named if note.requester is not None else [*named, *note.words]
    needles = [text.encode(errors="surrogatepass") for text in texts[:_SOUGHT] if text]
    for folder, folders, names in os.walk(state.root):
        folders[:] = [name for name in folders if name not in _UNSEARCHED and Path(folder, name) != state.root / _NOTES]
        for name in names:
            path = Path(folder, name)
            if _holds(path, needles):
                relative = path.relative_to(state.root)
                yield Remains(str(relative), _WHY.get(relative.parts[0], "not a place that is known to hold it"))


def _holds(path: Path, needles: Iterable[bytes]) -> bool:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return any(data.find(needle) >= 0 for needle in needles)
    except (OSError, ValueError):  # gone meanwhile, or empty
        return False


_WHY = {
    "finetune": "a run or data set of fine-tuning learned from it: remove the run, and train anew what was made of it",
    "cache": "a prepared data set or export: remove it, it is made again",
    "artifacts": "a registered version holds it, which cannot be changed: delete the version",
    "mlflow": "MLflow's record of a run holds it: delete the run with MLflow",
    "cards": "a report of a gate quotes it: delete the report",
    "index": "an index that is being read or written: run again",
    "spool": "a record that a process has not let go of: run again",
    "state.db": "the own state names it, as in the audit log of an earlier deletion: that log is not rewritten",
    "state.db-wal": "the own state names it, as in the audit log of an earlier deletion: that log is not rewritten",
    "workflow": "the log of a workflow's run tells of it: remove the run's folder",
}
_BEYOND = {
    True: [
        "the source: while it holds the document, the document is left out, not removed there",
        "backups of the state folder, and of the source",
        "what gateways' and providers' own caches and logs hold",
    ],
    False: ["backups of the state folder", "what providers' own caches and logs hold"],
}


def _kept(path: Path) -> Note | None:
    if not path.exists():
        return None
    found = json.loads(path.read_bytes())
    return Note(**{**found, "entries": [Entry(**one) for one in found["entries"]]})
