"""Lays machine code over the modules that every request goes through, where it was made from exactly these sources.

`llmops gateway compile` makes it, into `__compiled__/<digest>/` beside the sources (`compiling`). The digest is of all
sources of the gateway and of core, and of the interpreter: what was made from others has another name, and is never
loaded. Without it, or with `LLMOPS_COMPILED=0`, the same sources run as plain Python. Knows which modules they are, and
nothing of what they do; it imports none of them.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

MODULES = (
    "allowance.desk", "allowance.lease", "calls", "ceilings", "engine.admission", "engine.answering", "engine.asking",
    "engine.breaker", "engine.call", "engine.candidates", "engine.counting", "engine.exchange", "engine.flow",
    "engine.gate", "engine.measure", "engine.metrics", "engine.plan", "engine.record", "engine.seldom", "engine.tab",
    "http.answer", "http.chunks", "http.client", "http.door", "http.frame", "http.head", "http.outbox", "http.timers",
    "http.upstream", "providers.azure", "providers.mistral", "providers.openai", "providers.openai_reply",
    "providers.openai_request",
)  # fmt: skip
"""Within `llmops.gateway`. Who is a subclass of a compiled class has to be compiled too."""

GROUP = "llmops_gateway"
SWITCH = "LLMOPS_COMPILED"
HOME = Path(__file__).parent / "__compiled__"

_LIBRARY = f"{GROUP}__mypyc"
_state = "plain Python"


def sources() -> dict[str, Path]:
    """What the machine code is made from: the modules themselves, and all whose types they are compiled against.

    By their path within the package `llmops`, whose portions may lie apart.
    """
    core = Path(str(import_module("llmops.core").__file__)).parent
    return {
        path.relative_to(folder.parent).as_posix(): path
        for folder in (Path(__file__).parent, core)
        for path in sorted(folder.rglob("*.py"))
    }


def digest() -> str:
    """The name of these sources for this interpreter."""
    found = hashlib.sha256(EXTENSION_SUFFIXES[0].encode())
    for name, path in sources().items():
        found.update(b"\0%b\0" % name.encode())
        found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()[:24]


def running() -> str:
    """What this process runs: `compiled`, or `plain Python` with the reason where it was to be otherwise."""
    return _state


def lay_over() -> None:
    """Have the modules imported from machine code from now on, where there is some of these sources."""
    global _state  # noqa: PLW0603 - of the process, as the list of finders is
    if not HOME.is_dir() or os.environ.get(SWITCH) == "0":
        return
    folder = HOME / digest()
    if not folder.is_dir():
        _state = "plain Python: what is compiled is of other sources; `llmops gateway compile` renews it"
        return
    finder = _Overlay(folder)
    sys.meta_path.insert(0, finder)
    try:
        import_module(_LIBRARY)
    except ImportError as error:
        sys.meta_path.remove(finder)
        _state = f"plain Python: the compiled files cannot be loaded: {error}"
    else:
        _state = "compiled"


class _Overlay:
    """Finds the compiled modules before their sources are looked for."""

    def __init__(self, folder: Path) -> None:
        suffix = EXTENSION_SUFFIXES[0]
        self._files: Mapping[str, Path] = {
            _LIBRARY: folder / f"{_LIBRARY}{suffix}",
            **{f"llmops.gateway.{name}": folder / f"{name}{suffix}" for name in MODULES},
        }

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        file = self._files.get(name)
        if file is None:
            return None
        return spec_from_file_location(name, file, loader=ExtensionFileLoader(name, str(file)))
