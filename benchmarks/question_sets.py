"""Public question sets as folders of documents, and the index of each, made by the real ingest.

Read from the folder that `LLMOPS_DATA` names. What is made lies in `.benchmarks/`; it is refreshed, not rebuilt.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from llmops.core.state import StateConfig
from llmops.rag.config import FolderSource, IndexConfig
from llmops.rag.ingest.progress import silent
from llmops.rag.ingest.refresh import Options, refresh

ROOT = Path(__file__).parent.parent / ".benchmarks"


CHARS_A_CHUNK = 640
"""Of abstracts, cut as configured by default."""


@dataclass(frozen=True)
class Question:
    """A question with its key: relevant documents, or answers, or spans (document, start, end)."""

    text: str
    relevant: frozenset[str] = frozenset()
    answers: tuple[str, ...] = ()
    spans: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True)
class Corpus:
    """Documents on disk and the questions about them. A document's id is its file's stem."""

    name: str
    folder: Path
    questions: tuple[Question, ...]

    @property
    def state(self) -> StateConfig:
        return StateConfig(dir=ROOT / "state")

    @property
    def index(self) -> IndexConfig:
        return IndexConfig(name=f"bench.{self.name}.index", sources=(FolderSource(path=str(self.folder)),))


def data_folder() -> Path | None:
    """The folder of the data sets; None where there is none, and the program says so."""
    named = os.environ.get("LLMOPS_DATA")
    folder = Path(named or "")
    return folder if named and (folder / "scifact").is_dir() else None


def load(data: Path, name: str) -> Corpus:
    """Read a data set and lay its documents out as files."""
    folder = ROOT / "documents" / name
    folder.mkdir(parents=True, exist_ok=True)
    if name == "chunk_eval":
        for source in sorted((data / name / "docs").glob("*.md")):
            _write(folder / source.name, source.read_text(encoding="utf-8"))
        return Corpus(name, folder, tuple(_span_questions(data / name)))
    for document in _lines(data / name / "corpus.jsonl"):
        _write(folder / f"{document['_id']}.md", f"# {document['title'].replace('_', ' ')}\n\n{document['text']}\n")
    return Corpus(name, folder, tuple(_ranked_questions(data / name)))


def first_documents(corpus: Corpus, chunks: int) -> Corpus:
    """About so many chunks' worth of a corpus, in a folder of their own."""
    folder = corpus.folder.with_name(f"{corpus.name}_{chunks}")
    folder.mkdir(exist_ok=True)
    left = chunks * CHARS_A_CHUNK
    for source in sorted(corpus.folder.iterdir()):
        if left <= 0:
            break
        text = source.read_text(encoding="utf-8")
        _write(folder / source.name, text)
        left -= len(text)
    return Corpus(f"{corpus.name}_{chunks}", folder, corpus.questions)


def ingest(corpus: Corpus) -> int:
    """Bring the corpus' index up to date; gives its number of chunks."""
    print(f"ingesting {corpus.name}", file=sys.stderr, flush=True)
    return refresh(corpus.index, corpus.state, Options(progress=silent)).head.chunks


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8", newline="")


def _lines(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _ranked_questions(folder: Path) -> list[Question]:
    relevant: dict[str, set[str]] = {}
    for line in (folder / "qrels.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query, document, score = line.split("\t")
        if int(score) > 0:
            relevant.setdefault(query, set()).add(document)
    return [
        Question(query["text"], frozenset(relevant.get(query["_id"], ())), tuple(query.get("answers", ())))
        for query in _lines(folder / "queries.jsonl")
    ]


def _span_questions(folder: Path) -> list[Question]:
    questions = []
    for query in _lines(folder / "queries.jsonl"):
        references: list[dict[str, int]] = query["references"]  # type: ignore[assignment]
        spans = tuple((query["corpus_id"], span["start_index"], span["end_index"]) for span in references)
        questions.append(Question(query["text"], spans=spans))
    return questions
