"""transformers and its family do not import DeepSpeed to compare types with it; whoever has use for it still can."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import pytest

from llmops.finetune.quiet import quiet_transformers


def test_deepspeed_is_not_seen_inside_and_is_there_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "deepspeed", raising=False)
    installed = find_spec("deepspeed") is not None
    with quiet_transformers():
        assert find_spec("deepspeed") is None
        with quiet_transformers():
            assert find_spec("deepspeed") is None
    assert (find_spec("deepspeed") is not None) == installed
    assert "deepspeed" not in sys.modules
