"""What all parts' tests share: the exported embedding model, the sources not what is compiled, the log as it was."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("LLMOPS_COMPILED", "0")  # `make test-fast` runs the gateway's tests on what `make fast` made

from llmops.core import logs
from llmops.core.ids import digest
from llmops.core.sql import open_sql
from llmops.core.state import StateConfig
from llmops.rag import embed
from llmops.rag.config import EmbeddingConfig

settings.register_profile("patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")  # a slow machine is no failure, with CI in the environment or without


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    """The command line sends the product's log to its own stderr, where no later test would hear of it."""
    logger = logging.getLogger(logs.ROOT)
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)
    logger.propagate = propagate


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder whose SQLite file is empty and migrated, to be copied: an empty one runs every migration."""
    folder = tmp_path_factory.mktemp("migrated") / "state"
    open_sql(StateConfig(dir=folder)).close()
    return folder


@pytest.fixture(scope="session")
def embedder_cache(pytestconfig: pytest.Config) -> Path:
    """Kept between runs, since an export takes half a minute: it belongs to this state of the embedder's sources."""
    sources = sorted(Path(embed.__file__).parent.glob("*.py"))
    state = digest([[path.name, path.read_text(encoding="utf-8")] for path in sources])[:16]
    folder = pytestconfig.cache.mkdir(f"llmops-embed-{state}")
    embed.resolve(EmbeddingConfig(), folder)
    return folder
