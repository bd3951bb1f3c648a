"""The program of a parser process: gets paths, answers with their texts or the reasons why there are none.

Imports nothing that a document's type does not need: neither configuration nor index nor model.
"""

from __future__ import annotations

import signal
from importlib import import_module

from llmops.core.confined import Channel, pack
from llmops.core.fences import Fence, confine
from llmops.rag.document import Parsed, Place, RefusedDocumentError
from llmops.rag.parse import media, wire
from llmops.rag.parse.extracted import Limits
from llmops.rag.parse.parse import PARSERS, parse_file

_GRACE_S = 5.0


def main() -> None:
    """Serve requests on stdin and stdout."""
    channel = Channel()
    setup = channel.receive()
    if setup is None:
        return
    limits = Limits(setup["max_bytes"], setup["max_text_chars"], setup["ocr"])
    channel.send(pack({"isolation": confine(Fence(setup["memory_bytes"])).network}))
    while (request := channel.receive()) is not None:
        path = request["path"]
        needed = PARSERS.get(media.by_name(path))
        if needed is not None:
            import_module(needed)
        channel.send(pack({"begins": True}))  # the clock of this document starts here, not at the import
        signal.setitimer(signal.ITIMER_REAL, setup["timeout_s"] + _GRACE_S)  # ends us even where the pool is gone
        answer = _parse(path, Place(request["root"], request["inside"]), limits)
        signal.setitimer(signal.ITIMER_REAL, 0)  # a slow reader of the answer is not the document's fault
        channel.send(
            wire.pack_refused(answer) if isinstance(answer, RefusedDocumentError) else wire.pack_parsed(answer)
        )


def _parse(path: str, place: Place, limits: Limits) -> Parsed | RefusedDocumentError:
    try:
        return parse_file(path, place, limits)
    except RefusedDocumentError as refusal:
        return refusal
    except MemoryError:
        return RefusedDocumentError("memory")
    except Exception as error:  # noqa: BLE001 - the boundary: whatever a parser throws at a document is that document's
        return RefusedDocumentError(
            "broken", f"the parser failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        )
