"""What the pool adds to the parsers it calls, and what cutting costs: each beside the bare library, in one run.

The documents are made on the spot. Where LLMOPS_DATA holds chunk_eval, the cuts are judged too: the share of the
answers' characters that BM25 finds within 4,000 characters, beside cuts of a fixed length; and `goldens` compares what
the parsers read with what was written.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import goldens
from llmops.rag.config import ChunkingConfig, FolderSource, ParsingConfig
from llmops.rag.document import Parsed, SourceItem
from llmops.rag.ingest.chunk import chunk
from llmops.rag.parse.pool import ParserPool
from llmops.rag.sources import scan

SENTENCES = (
    "The pump runs day and night, and it needs oil every month. ",
    "Pressure above 7 bar opens the relief valve & stops the motor. ",
    "Whoever finds a leak calls the workshop, which answers within 4 hours. ",
    "Spare parts are ordered by their number, never by their name. ",
)
BUDGET_CHARS = 4000


@dataclass(frozen=True)
class Row:
    what: str
    unit: str
    ours: float
    peer: float
    peer_name: str
    lower_is_better: bool = True

    @property
    def ratio(self) -> float:
        """How many times better than the peer."""
        return self.peer / self.ours if self.lower_is_better else self.ours / self.peer


def prose(seed: int, sentences: int) -> str:
    return "".join(SENTENCES[(seed * 7 + number * number) % 4] for number in range(sentences))


def make_pdfs(folder: Path, count: int, pages: int) -> None:
    from fpdf import FPDF

    for number in range(count):
        document = FPDF()
        document.set_font("helvetica", size=10)
        for page in range(pages):
            document.add_page()
            document.multi_cell(0, 5, f"Chapter {page}\n" + prose(number + page, 45))
        (folder / f"{number}.pdf").write_bytes(bytes(document.output()))


def make_docx(folder: Path, count: int) -> None:
    import docx

    for number in range(count):
        document = docx.Document()
        for part in range(12):
            document.add_heading(f"Part {part}", 1 + part % 3)
            for paragraph in range(3):
                document.add_paragraph(prose(number + part + paragraph, 6))
        table = document.add_table(rows=12, cols=4)
        for place, cell in enumerate(cell for row in table.rows for cell in row.cells):
            cell.text = f"value {place}"
        document.save(str(folder / f"{number}.docx"))


def make_html(folder: Path, count: int) -> None:
    menu = "<nav><ul>" + "".join(f'<li><a href="/{n}">Menu {n}</a></li>' for n in range(40)) + "</ul></nav>"
    for number in range(count):
        parts = "".join(f"<h2>Part {p}</h2><p>{prose(number + p, 6)}</p><p>{prose(p, 5)}</p>" for p in range(12))
        body = f"{menu}<main><h1>Page {number}</h1>{parts}</main>"
        page = f"<html><head><title>Page {number}</title></head><body>{body}</body></html>"
        (folder / f"{number}.html").write_text(page)


def make_markdown(folder: Path, count: int) -> None:
    for number in range(count):
        parts = "".join(f"## Part {p}\n\n{prose(number + p, 6)}\n\n{prose(p, 5)}\n\n" for p in range(12))
        (folder / f"{number}.md").write_text(f"# Page {number}\n\n{parts}")


def make_pptx(folder: Path, count: int) -> None:
    import pptx

    for number in range(count):
        show = pptx.Presentation()
        for part in range(20):
            slide = show.slides.add_slide(show.slide_layouts[1])
            slide.shapes.title.text = f"Part {part}"
            slide.placeholders[1].text_frame.text = prose(number + part, 6).replace(". ", ".\n")
        show.save(str(folder / f"{number}.pptx"))


def make_xlsx(folder: Path, count: int) -> None:
    import xlsxwriter  # type: ignore[import-untyped]

    for number in range(count):
        with xlsxwriter.Workbook(str(folder / f"{number}.xlsx")) as book:
            sheet = book.add_worksheet("Parts")
            sheet.write_row(0, 0, [f"Column {column}" for column in range(10)])
            for row in range(1, 500):
                sheet.write_row(row, 0, [f"part {row}", row, row * 1.37, *(f"text {row % 97}" for _ in range(7))])


def make_csv(folder: Path, count: int) -> None:
    rows = "".join(f"part {row},{row},{row * 1.37},text {row % 97}\n" for row in range(2000))
    for number in range(count):
        (folder / f"{number}.csv").write_text(f"Name,Number,Price,Remark\n{rows}")


def bare_pptx(paths: Iterable[Path]) -> None:
    import pptx

    for path in paths:
        slides = pptx.Presentation(str(path)).slides
        "\n".join(shape.text_frame.text for slide in slides for shape in slide.shapes if shape.has_text_frame)


def bare_xlsx(paths: Iterable[Path]) -> None:
    import openpyxl

    for path in paths:
        book = openpyxl.load_workbook(str(path), read_only=True, data_only=True)
        for row in book.worksheets[0].iter_rows(values_only=True):
            " ".join(str(cell) for cell in row if cell is not None)


def bare_csv(paths: Iterable[Path]) -> None:
    import csv

    for path in paths:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                "; ".join(f"{name}: {value}" for name, value in row.items())


def bare_pdf(paths: Iterable[Path]) -> None:
    import pypdfium2

    for path in paths:
        document = pypdfium2.PdfDocument(path.read_bytes())
        for page in document:
            page.get_textpage().get_text_range()
        document.close()


def bare_docx(paths: Iterable[Path]) -> None:
    import docx

    for path in paths:
        document = docx.Document(str(path))
        "\n".join(paragraph.text for paragraph in document.paragraphs)
        for table in document.tables:
            [cell.text for row in table.rows for cell in row.cells]


def bare_html(paths: Iterable[Path]) -> None:
    import trafilatura

    for path in paths:
        trafilatura.extract(path.read_bytes(), output_format="markdown", include_comments=False)


def bare_text(paths: Iterable[Path]) -> None:
    for path in paths:
        path.read_text()


def alternate(rounds: int, *programs: Callable[[], Any]) -> list[float]:
    """Median seconds of each program, taking turns, after one turn to warm up."""
    times: list[list[float]] = [[] for _ in programs]
    for turn in range(rounds + 1):
        for place, program in enumerate(programs):
            started = time.perf_counter()
            program()
            if turn:
                times[place].append(time.perf_counter() - started)
    return [statistics.median(series) for series in times]


def documents(folder: Path) -> list[SourceItem]:
    return [found for found in scan(FolderSource(path=str(folder))) if isinstance(found, SourceItem)]


def parse_all(pool: ParserPool, items: list[SourceItem]) -> list[Parsed]:
    parsed = [outcome for _, outcome in pool.parse(items) if isinstance(outcome, Parsed)]
    if len(parsed) != len(items):
        raise SystemExit("a document of the benchmark was rejected")
    return parsed


def parsing_rows(root: Path, count: int, rounds: int) -> Iterable[Row]:
    pages = 8
    kinds: dict[str, tuple[Callable[[Path], None], Callable[[Iterable[Path]], None], str]] = {
        "PDF": (lambda folder: make_pdfs(folder, count, pages), bare_pdf, "pypdfium2"),
        "DOCX": (lambda folder: make_docx(folder, count), bare_docx, "python-docx"),
        "PPTX": (lambda folder: make_pptx(folder, count), bare_pptx, "python-pptx"),
        "XLSX": (lambda folder: make_xlsx(folder, count), bare_xlsx, "openpyxl"),
        "CSV": (lambda folder: make_csv(folder, count), bare_csv, "csv.DictReader"),
        "HTML": (lambda folder: make_html(folder, count), bare_html, "trafilatura"),
        "Markdown": (lambda folder: make_markdown(folder, 10 * count), bare_text, "read_text"),
    }
    for kind, (make, bare, library) in kinds.items():
        folder = root / kind
        folder.mkdir()
        make(folder)
        items = documents(folder)
        paths = [Path(item.path) for item in items]
        print(f"{kind}: {len(items)} documents", file=sys.stderr)
        with ParserPool(ParsingConfig(workers=1)) as one, ParserPool(ParsingConfig()) as all_cores:
            programs = (lambda: parse_all(one, items), lambda: parse_all(all_cores, items), lambda: bare(paths))  # noqa: B023
            single, parallel, alone = alternate(rounds, *programs)
        if kind == "PDF":
            total = len(items) * pages
            yield Row("PDF, one process", "pages/s", total / single, total / alone, library, lower_is_better=False)
            yield Row("PDF, all processes", "pages/s", total / parallel, total / alone, library, lower_is_better=False)
            continue
        each = 1000 / len(items)
        yield Row(f"{kind}, one process", "ms/document", single * each, alone * each, library)
        if kind != "Markdown":
            yield Row(f"{kind}, all processes", "ms/document", parallel * each, alone * each, library)


def end_to_end_row(folder: Path, rounds: int) -> Row:
    """What one core makes of PDF files before embedding: find, read, parse, cut."""
    pages = 8 * len(documents(folder))

    def run() -> None:
        with ParserPool(ParsingConfig(workers=1)) as pool:
            for parsed in parse_all(pool, documents(folder)):
                chunk(parsed, ChunkingConfig())

    (seconds,) = alternate(rounds, run)
    return Row(
        "PDF from file to chunks, process started", "pages/s", pages / seconds, 100.0, "bar", lower_is_better=False
    )


def scan_row(root: Path, rounds: int) -> Row:
    folder = root / "many"
    for number in range(600):
        path = folder / f"{number % 20}" / f"{number}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text")

    def rglob() -> None:
        for path in sorted(folder.rglob("*.md")):
            path.stat()

    ours, peer = alternate(rounds * 3, lambda: documents(folder), rglob)
    return Row("scan of 600 files", "ms", ours * 1000, peer * 1000, "sorted rglob + stat")


def chunking_row(rounds: int) -> Row:
    text = "".join(f"## Part {p}\n\n{prose(p, 12)}\n\n{prose(p + 1, 9)}\n\n" for p in range(1500))
    parsed = Parsed("Benchmark", text, (), "text/markdown", {}, "")
    count = len(chunk(parsed, ChunkingConfig()))

    def fixed() -> list[str]:
        return [text[start : start + 800] for start in range(0, len(text), 800)]

    peer, name = fixed, "slices of 800"
    if find_spec("langchain_text_splitters") is not None:
        splitter = import_module("langchain_text_splitters").RecursiveCharacterTextSplitter(
            chunk_size=800, chunk_overlap=0
        )
        peer, name = (lambda: splitter.split_text(text)), "langchain-text-splitters"
    ours, theirs = alternate(rounds, lambda: chunk(parsed, ChunkingConfig()), peer)
    return Row(f"cutting {len(text) / 1e6:.1f} MB", "ms/chunk", ours / count * 1000, theirs / count * 1000, name)


def recall_row(data: Path) -> Row:
    queries = [json.loads(line) for line in (data / "queries.jsonl").read_text().splitlines()]
    ours, fixed = [], []
    for path in sorted((data / "docs").glob("*.md")):
        text = path.read_bytes().decode()
        passages = chunk(Parsed(None, text, (), "text/markdown", {}, ""), ChunkingConfig())
        ours += [(path.stem, passage.start, passage.end, passage.indexed_text) for passage in passages]
        fixed += [(path.stem, s, min(s + 800, len(text)), text[s : s + 800]) for s in range(0, len(text), 800)]
    rates = [token_recall(cuts, queries) for cuts in (ours, fixed)]
    return Row("chunk_eval recall, BM25", "share", rates[0], rates[1], "slices of 800", lower_is_better=False)


def token_recall(cuts: list[tuple[str, int, int, str]], queries: list[dict[str, Any]]) -> float:
    """Mean share of the answer spans' characters among the best cuts, up to the budget."""
    import numpy as np

    from llmops.rag.lexical import Lexical, Segment

    segment = Segment.build([(row, cut[3]) for row, cut in enumerate(cuts)])
    lexical = Lexical([segment], np.ones(len(cuts), dtype=bool))
    shares = []
    for query in queries:
        left, got = BUDGET_CHARS, []
        for row in lexical.top(query["text"], 60, None)[0]:
            document, start, end, _ = cuts[int(row)]
            end = min(end, start + left)
            left -= end - start
            if document == query["corpus_id"]:
                got.append((start, end))
            if left <= 0:
                break
        wanted = found = 0
        for reference in query["references"]:
            begin, stop = reference["start_index"], reference["end_index"]
            wanted += stop - begin
            found += sum(max(0, min(end, stop) - max(start, begin)) for start, end in got)
        shares.append(found / wanted)
    return statistics.fmean(shares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--documents", type=int, default=24, help="documents of each kind")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        rows = list(parsing_rows(Path(name), arguments.documents, arguments.rounds))
        rows.append(end_to_end_row(Path(name) / "PDF", arguments.rounds))
        rows.append(scan_row(Path(name), arguments.rounds))
    rows.append(chunking_row(arguments.rounds))
    named = os.environ.get("LLMOPS_DATA")
    data = Path(named or "") / "chunk_eval"
    measured: list[goldens.Quality] = []
    if named and data.exists():
        rows.append(recall_row(data))
        measured = goldens.qualities(goldens.load(data))
    else:
        print("chunk_eval is not in LLMOPS_DATA: recall is left out", file=sys.stderr)
    if arguments.json:
        quality = [{**asdict(row), "f1": row.f1} for row in measured]
        print(json.dumps({"rows": [{**asdict(row), "ratio": row.ratio} for row in rows], "quality": quality}, indent=1))
        return
    print(f"Median of {arguments.rounds} rounds, taking turns; processes warm. Above 1 is better than the peer.\n")
    print("| ratio | what | unit | llmops | peer | peer is |\n|---:|---|---|---:|---:|---|")
    for row in rows:
        print(f"| {row.ratio:.2g} | {row.what} | {row.unit} | {row.ours:.3g} | {row.peer:.3g} | {row.peer_name} |")
    if measured:
        goldens.print_table(measured)


if __name__ == "__main__":
    main()
