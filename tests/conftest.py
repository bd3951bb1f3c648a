"""What several parts' tests share: the exported embedding model; that they run the sources, not what is compiled.

No test is timed by Hypothesis: its deadline for one example, 200 ms, is soon reached where others use the machine too.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("LLMOPS_COMPILED", "0")  # `make test-fast` runs the gateway's tests on what `make fast` made

from llmops.core.ids import digest
from llmops.rag import embed
from llmops.rag.config import EmbeddingConfig

_BEFORE = settings.get_profile(settings.get_current_profile_name())  # Hypothesis has one of its own for CI
settings.register_profile("untimed", _BEFORE, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def embedder_cache(pytestconfig: pytest.Config) -> Path:
    """Kept between runs, since an export takes half a minute: it belongs to this state of the embedder's sources."""
    sources = sorted(Path(embed.__file__).parent.glob("*.py"))
    state = digest([[path.name, path.read_text(encoding="utf-8")] for path in sources])[:16]
    folder = pytestconfig.cache.mkdir(f"llmops-embed-{state}")
    embed.resolve(EmbeddingConfig(), folder)
    return folder
