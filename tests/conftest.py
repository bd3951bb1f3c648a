"""What several parts' tests share: the exported embedding model; that they run the sources, not what is compiled."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("LLMOPS_COMPILED", "0")  # `make test-fast` runs the gateway's tests on what `make fast` made

from llmops.core.ids import digest
from llmops.rag import embed
from llmops.rag.config import EmbeddingConfig

settings.register_profile("unhurried", settings(), deadline=None)  # how long an example takes is the machine's matter
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def embedder_cache(pytestconfig: pytest.Config) -> Path:
    """Kept between runs, since an export takes half a minute: it belongs to this state of the embedder's sources."""
    sources = sorted(Path(embed.__file__).parent.glob("*.py"))
    state = digest([[path.name, path.read_text(encoding="utf-8")] for path in sources])[:16]
    folder = pytestconfig.cache.mkdir(f"llmops-embed-{state}")
    embed.resolve(EmbeddingConfig(), folder)
    return folder
