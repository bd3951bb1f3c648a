"""A result made ready for other engines, with proof: merged into its base, in fewer bits, loaded by a fresh process.

`merge` makes one model of base and adapter, `quantise` keeps weights in 8 or 4 bits, `serve_verify` compares what the
written files say with what the trained model says. Nothing is written in place: a folder is whole, or not there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llmops.core.errors import UserError
from llmops.finetune.artefact import is_adapter, model_digest
from llmops.finetune.preflight import Check, Preflight

Bits = Literal["int8", "int4"]
RECORD = "export.json"


@dataclass(frozen=True)
class Exported:
    """What was written, and what was found of it."""

    folder: Path
    digest: str
    size_bytes: int
    figures: Mapping[str, Any]
    checks: Preflight

    def as_json(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "digest": self.digest,
            "size_bytes": self.size_bytes,
            "figures": dict(self.figures),
            "checks": self.checks.as_json(),
        }


def export(model: Path, base: Path | None, into: Path, *, bits: Bits | None = None, verify: bool = True) -> Exported:
    """Write a trained model as one that needs nothing beside it.

    Args:
        model: folder of the adapter, or of whole weights.
        base: of an adapter, the folder of the model that it belongs on.
        verify: load what was written in a fresh process, and compare.

    Raises:
        UserError: there is nothing to be done, or an adapter without its base.
        GateFailedError: what was written does not say what the trained model says.
    """
    from llmops.finetune.export.merge import merge
    from llmops.finetune.export.quantise import quantise
    from llmops.finetune.export.serve_verify import served_alike

    adapter = is_adapter(model)
    if not adapter and bits is None:
        raise UserError("these weights are whole already", where=str(model), hint="add --quantise int8 or int4")
    if adapter and base is None:
        raise UserError("an adapter is merged into its base, which is not named", where=str(model))
    if into.exists() and any(into.iterdir()):
        raise UserError("the folder is not empty", where=str(into), hint="name another with --to")
    checks: list[Check] = []
    figures: dict[str, Any] = {"merged": adapter, "quantised": bits}
    with _whole(into) as aside:
        whole = model
        if adapter:
            assert base is not None
            whole = aside / "merged" if bits else aside
            checks.append(merge(base, model, whole))
        if bits:
            checks.append(quantise(whole, aside, bits))
            if adapter:
                shutil.rmtree(whole)
        if verify:
            checks.append(served_alike(model, base if adapter else None, aside, exact=bits is None))
        found = Preflight(tuple(checks))
        figures |= {check.name: dict(check.figures) for check in checks}
        found.require(where=str(into))
        (aside / RECORD).write_text(json.dumps({"figures": figures, "checks": found.as_json()}, indent=2))
    size = sum(path.stat().st_size for path in into.rglob("*.safetensors"))
    return Exported(into, model_digest(into), size, figures, found)


def gguf_hint(folder: Path) -> str:
    """The command that makes a GGUF file of an export, for llama.cpp."""
    return f"python llama.cpp/convert_hf_to_gguf.py {folder} --outfile {folder}.gguf --outtype q8_0"


@contextmanager
def _whole(into: Path) -> Iterator[Path]:
    """A folder beside `into` that takes its name once all is well."""
    aside = into.with_name(f".{into.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    if into.exists():
        into.rmdir()
    aside.rename(into)
