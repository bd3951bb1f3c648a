"""Ray and Spark, each on this machine: the index is the one that is built without them."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tests.support.indexes import NAME, Workplace, contents
from tests.support.zygote import ROOT

from llmops.core.state import StateConfig
from llmops.rag.compute import cluster
from llmops.rag.config import ChunkingConfig, ComputeConfig, FolderSource, IndexConfig
from llmops.rag.ingest.refresh import Options, refresh

ENGINES = [
    pytest.param(
        engine,
        marks=pytest.mark.skipif(
            find_spec(module) is None or (engine == "spark" and shutil.which("java") is None),
            reason=f"{engine} is not installed: `make test-clusters` installs it and runs this",
        ),
    )
    for engine, module in (("ray", "ray"), ("spark", "pyspark"))
]
MANY = cluster._FEW_DOCUMENTS + 8


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    place = Workplace.at(tmp_path)
    for number in range(MANY):
        place.write(f"d{number}.md", f"# Title {number}\n\n" + f"alpha {number} river budget " * 40)
    place.write(
        "page.html", "<html><body><h1>Rivers</h1><p>" + "The committee on rivers met. " * 20 + "</p></body></html>"
    )
    (place.docs / "broken.docx").write_bytes(b"PK\x03\x04 nothing that a zip archive would hold" * 9)
    return place


def on(engine: str, place: Workplace, folder: Path) -> dict[str, Any]:
    state = StateConfig(dir=folder)
    source = FolderSource(path=str(place.docs))
    config = IndexConfig(
        name=NAME,
        sources=(source,),
        chunking=ChunkingConfig(size_chars=200),
        compute=ComputeConfig(engine=engine, workers=2),  # type: ignore[arg-type]
    )
    done = refresh(config, state, Options(embedder=place.embedder))
    assert done.added == MANY + 1
    assert [(row.uri.rsplit("/", 1)[-1], row.code) for row in done.quarantined] == [("broken.docx", "broken")]
    return contents(state, done.head.generation)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray", "ignore::ResourceWarning")  # their own, at start and end
@pytest.mark.parametrize("engine", ENGINES)
def test_the_index_is_the_same(engine: str, place: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(ROOT / part) for part in ("core", "registry", "rag")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *paths]))  # workers unpickle the tests' embedder
    here = contents(place.state, place.refresh().head.generation)
    assert on(engine, place, tmp_path / "elsewhere") == here
