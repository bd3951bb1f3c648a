"""transformers and its family without progress bars, log lines, warnings and telemetry: they are libraries here."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_VARIABLES = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence inside the block, importing them included; errors come through.

    They do not see DeepSpeed, which they would import to compare types with it: that takes seconds, and only
    `engines.deepspeed` has use for it.
    """
    for key, value in _VARIABLES.items():
        os.environ.setdefault(key, value)
    logging.getLogger("DeepSpeed").addFilter(_errors_only)  # it sets its own level, and writes to stdout
    with warnings.catch_warnings(), _accelerate_loaded(), _unseen("deepspeed"):
        warnings.simplefilter("ignore")
        from transformers.utils import logging as told

        told.disable_progress_bar()
        told.set_verbosity_error()
        for name in ("peft", "trl", "accelerate", "datasets"):
            logging.getLogger(name).setLevel(logging.ERROR)
        yield


@contextmanager
def _accelerate_loaded() -> Iterator[None]:
    """Which names accelerate has depends on what it sees while it is imported, and others import them all later."""
    import accelerate.utils  # noqa: F401 - it is enough that it is there

    yield


@contextmanager
def _unseen(name: str) -> Iterator[None]:
    """A package that was not imported yet is as if it were not installed."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if sys.modules.get(name) is None:
            sys.modules.pop(name, None)


def _errors_only(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
