"""The tiny base of trainings that are started by a launcher; one thread, as their ranks have."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support import tiny_lm


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from llmops.finetune.quiet import quiet_transformers

    with quiet_transformers():
        import torch

        torch.set_num_threads(1)
        return tiny_lm.tiny_base(tmp_path_factory.mktemp("base"))
