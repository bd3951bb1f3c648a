"""The program of a parser process: gets paths, answers with their texts or the reasons why there are none.

Imports nothing that a document's type does not need: neither configuration nor index nor model.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from typing import Any, BinaryIO

from llmops.rag.document import Parsed, RefusedDocumentError
from llmops.rag.parse import media, wire
from llmops.rag.parse.extracted import Limits
from llmops.rag.parse.parse import PARSERS, parse_file
from llmops.rag.parse.sandbox import confine

_GRACE_S = 5.0


def main() -> None:
    """Serve requests on stdin and stdout. A parser's own output goes to stderr, where it disturbs no frame."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    requests = sys.stdin.buffer
    frames = wire.FrameBuffer(max_body_bytes=0)
    setup = _receive(requests, frames)
    if setup is None:
        return
    limits = Limits(setup["max_bytes"], setup["max_text_chars"])
    _send(answers, wire.pack({"isolation": confine(setup["memory_bytes"])}))
    while (request := _receive(requests, frames)) is not None:
        path = request["path"]
        needed = PARSERS.get(media.by_name(path))
        if needed is not None:
            import_module(needed)
        _send(answers, wire.pack({"begins": True}))  # the clock of this document starts here, not at the import
        signal.setitimer(signal.ITIMER_REAL, setup["timeout_s"] + _GRACE_S)  # ends us even where the pool is gone
        answer = _parse(path, limits)
        signal.setitimer(signal.ITIMER_REAL, 0)  # a slow reader of the answer is not the document's fault
        _send(
            answers, wire.pack_refused(answer) if isinstance(answer, RefusedDocumentError) else wire.pack_parsed(answer)
        )


def _parse(path: str, limits: Limits) -> Parsed | RefusedDocumentError:
    try:
        return parse_file(path, limits)
    except RefusedDocumentError as refusal:
        return refusal
    except MemoryError:
        return RefusedDocumentError("memory")
    except Exception as error:  # noqa: BLE001 - the boundary: whatever a parser throws at a document is that document's
        return RefusedDocumentError(
            "broken", f"the parser failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        )


def _receive(requests: BinaryIO, frames: wire.FrameBuffer) -> dict[str, Any] | None:
    """The next request, or None at the end of input."""
    while (frame := frames.take()) is None:
        data = os.read(requests.fileno(), 1 << 16)
        if not data:
            return None
        frames.feed(data)
    return frame[0]


def _send(answers: BinaryIO, buffers: list[bytes]) -> None:
    for buffer in buffers:
        answers.write(buffer)
    answers.flush()
