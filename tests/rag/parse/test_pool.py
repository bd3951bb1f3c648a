"""Real parser processes under real faults: a document may cost only itself, and no process may do what it must not."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from tests.support import documents

from llmops.core.errors import UnavailableError
from llmops.rag.config import ParsingConfig
from llmops.rag.document import CODES, Parsed, Rejected, SourceItem
from llmops.rag.parse import pool as pool_module
from llmops.rag.parse.child import Child
from llmops.rag.parse.pool import ParserPool

HOSTILE = Path(__file__).parents[2] / "support" / "hostile_parser"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where documents lie whose parser obeys them."""
    monkeypatch.syspath_prepend(str(HOSTILE))
    return tmp_path


def order(folder: Path, *deeds: str) -> list[SourceItem]:
    """Documents that make the hostile parser do these things, named by their place."""
    items = []
    for number, deed in enumerate(deeds):
        path = folder / f"{number}.pdf"
        path.write_bytes(b"%PDF-1.7\n" + deed.encode())
        items.append(documents.item(path))
    return items


def outcomes(pool: ParserPool, items: list[SourceItem]) -> dict[str, str]:
    """The text or the code of every document, in the order of their names."""
    found = {
        item.uri: outcome.text if isinstance(outcome, Parsed) else outcome.code for item, outcome in pool.parse(items)
    }
    assert set(found) == {item.uri for item in items}
    return dict(sorted(found.items()))


def children() -> list[psutil.Process]:
    """The parser processes of this one; other tests may have left processes of other kinds."""
    return [child for child in psutil.Process().children() if "llmops.rag.parse.worker" in " ".join(_command(child))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.NoSuchProcess:  # it ended while we looked
        return []


@pytest.mark.parametrize(
    ("deed", "code"),
    [("segfault", "crashed"), ("exit 0", "crashed"), ("allocate 4000", "memory"), ("forge x", "crashed")],
)
def test_a_dying_parser_costs_only_its_document(folder: Path, deed: str, code: str) -> None:
    with ParserPool(ParsingConfig(memory_mb=256, workers=1)) as pool:
        found = outcomes(pool, order(folder, "say one", deed, "say two", deed, "say three"))
    assert list(found.values()) == ["one", code, "two", code, "three"]
    assert code in CODES


class Hurried(Child):
    """Gives its second document little time; the others have all that a slow machine may need."""

    def start(self, item: SourceItem) -> None:
        self._limits = replace(self._limits, timeout_s=0.3 if item.uri == "1.pdf" else 60)
        super().start(item)


def test_a_hanging_parser_is_ended_in_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "Child", Hurried)
    with ParserPool(ParsingConfig(timeout_s=60, workers=1)) as pool:
        found = outcomes(pool, order(folder, "say one", "sleep 60", "say two"))
    assert list(found.values()) == ["one", "timeout", "two"]
    assert children() == []


def test_memory_lost_to_earlier_documents_is_not_a_verdict(folder: Path) -> None:
    with ParserPool(ParsingConfig(memory_mb=256, workers=1)) as pool:
        found = outcomes(pool, order(folder, "leak 150", "allocate 150", "leak 150", "leak 150"))
    assert list(found.values()) == ["leaked", "took 150", "leaked", "leaked"]


def test_what_a_parser_prints_disturbs_nothing(folder: Path) -> None:
    with ParserPool(ParsingConfig(workers=1)) as pool:
        assert list(outcomes(pool, order(folder, "noise \x00\x01\x02", "say two")).values()) == ["noisy", "two"]


def test_a_parser_has_no_network_no_programs_no_disk_and_no_secrets(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with socket.create_server(("127.0.0.1", 0)) as server, ParserPool(ParsingConfig(workers=1)) as pool:
        port = server.getsockname()[1]
        deeds = (f"connect 127.0.0.1:{port}", "execute /bin/true", f"write {folder / 'big'}", "environment")
        network, program, disk, environment = outcomes(pool, order(folder, *deeds)).values()
        assert pool.isolation == "seccomp"
    assert network.startswith("refused")
    assert program.startswith("refused")
    assert disk.startswith("refused")
    assert "OPENAI_API_KEY" not in environment


def test_processes_are_kept_and_ended(folder: Path) -> None:
    with ParserPool(ParsingConfig(workers=1)) as pool:
        first = outcomes(pool, order(folder, "pid"))
        again = outcomes(pool, order(folder, "pid"))
        assert first == again
        assert [str(child.pid) for child in children()] == list(first.values())
    assert children() == []


def test_text_starts_no_process(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# A\n\ntext")
    (tmp_path / "b.txt").write_text("text")
    with ParserPool(ParsingConfig()) as pool:
        results = list(pool.parse([documents.item(tmp_path / "a.md"), documents.item(tmp_path / "b.txt")]))
        assert all(isinstance(outcome, Parsed) for _, outcome in results)
        assert children() == []


def test_results_stream_and_documents_are_taken_one_by_one(folder: Path) -> None:
    items = order(folder, *[f"say {number}" for number in range(20)])
    taken = 0

    def feed() -> Iterator[SourceItem]:
        nonlocal taken
        for one in items:
            taken += 1
            yield one

    with ParserPool(ParsingConfig(workers=2)) as pool:
        results = pool.parse(feed())
        next(results)
        assert taken <= 4
        assert len(list(results)) == 19


def test_leaving_early_leaves_nothing_of_it_for_the_next_run(folder: Path) -> None:
    with ParserPool(ParsingConfig(workers=2)) as pool:
        results = pool.parse(order(folder, "say one", "sleep 60", "say three"))
        next(results)
        results.close()
        (folder / "later").mkdir()
        assert list(outcomes(pool, order(folder / "later", "say four", "say five")).values()) == ["four", "five"]


def test_a_slow_reader_is_no_time_out(folder: Path) -> None:
    big = "say " + "word " * 30_000  # more than a pipe holds, so the process waits to be read
    with ParserPool(ParsingConfig(timeout_s=1, workers=2)) as pool:
        results = pool.parse(order(folder, "say one", big, "say three"))
        found = [next(results)]
        threading.Event().wait(1.5)
        found.extend(results)
    assert [type(outcome) for _, outcome in found] == [Parsed] * 3


def test_a_process_that_is_killed_from_outside_is_replaced(folder: Path) -> None:
    def feed() -> Iterator[SourceItem]:
        yield from order(folder, "say one", "sleep 0.5")
        os.kill(children()[0].pid, signal.SIGKILL)
        (folder / "more").mkdir()
        yield from order(folder / "more", "say x")

    with ParserPool(ParsingConfig(workers=1)) as pool:
        codes = [getattr(outcome, "code", "fine") for _, outcome in pool.parse(feed())]
    assert codes == ["fine"] * 3  # tried again in a new process


def test_a_broken_installation_is_no_verdict_about_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "path", [entry for entry in sys.path if "site-packages" not in entry and "/rag" not in entry]
    )
    path = tmp_path / "a.pdf"
    path.write_bytes(b"%PDF-1.7\n")
    with ParserPool(ParsingConfig()) as pool, pytest.raises(UnavailableError, match="cannot start"):
        list(pool.parse([documents.item(path)]))


def test_a_process_imports_nothing_heavy() -> None:
    heavy = (
        "pydantic",
        "numpy",
        "torch",
        "trafilatura",
        "kreuzberg",
        "lxml",
        "sqlalchemy",
        "yaml",
        "llmops.rag.config",
    )
    program = f"import sys, llmops.rag.parse.worker; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240, check=True)
    assert done.stdout.strip() == "[]"


def test_a_rejection_names_the_document(folder: Path) -> None:
    with ParserPool(ParsingConfig(workers=1)) as pool:
        ((item, outcome),) = pool.parse(order(folder, "segfault"))
    assert outcome == Rejected(item.uri, "the parser crashed on this file (SIGSEGV)", "crashed")
