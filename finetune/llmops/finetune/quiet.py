"""transformers and its family without progress bars, log lines, warnings and telemetry: they are libraries here."""

from __future__ import annotations

import logging
import os
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
    """Silence inside the block, importing them included; errors come through."""
    for key, value in _VARIABLES.items():
        os.environ.setdefault(key, value)
    logging.getLogger("DeepSpeed").addFilter(_errors_only)  # it sets its own level, and writes to stdout
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.utils import logging as told

        told.disable_progress_bar()
        told.set_verbosity_error()
        for name in ("peft", "trl", "accelerate", "datasets"):
            logging.getLogger(name).setLevel(logging.ERROR)
        yield


def _errors_only(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
