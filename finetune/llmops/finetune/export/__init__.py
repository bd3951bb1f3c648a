"""A result made ready for other engines, with proof: merged into its base, in fewer bits, loaded by a fresh process.

`merge` makes one model of base and adapter, `prune` sets small weights to zero, `quantise` keeps weights in 8 or 4
bits, `serve_verify` compares what the written files say with what the trained model says. Nothing is written in place:
a folder is whole, or not there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llmops.core.errors import UserError
from llmops.finetune.artefact import is_adapter, is_scorer, model_digest
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


def export(
    model: Path,
    base: Path | None,
    into: Path,
    *,
    bits: Bits | None = None,
    zeros: str | None = None,
    verify: bool = True,
) -> Exported:
    """Write a trained model as one that needs nothing beside it: merged, then pruned, then in fewer bits.

    Args:
        model: folder of the adapter, or of whole weights.
        base: of an adapter, the folder of the model that it belongs on.
        zeros: which weights become zero: `2:4`, or a share of each row.
        verify: load what was written in a fresh process, and compare.

    Raises:
        UserError: there is nothing to be done, or an adapter without its base.
        GateFailedError: what was written does not say what the trained model says.
    """
    from llmops.finetune.export.serve_verify import served_alike

    adapter = is_adapter(model)
    if is_scorer(model):
        raise UserError(
            "a reward model is not exported: what other engines load gives words, and would lose its score",
            where=str(model),
            hint="register it, and name the version in generation.rewards, or ask it by `llmops serve`",
            code="reward_not_exported",
        )
    if not adapter and bits is None and zeros is None:
        hint = "add --quantise int8 or int4, or --prune 2:4"
        raise UserError("these weights are whole already", where=str(model), hint=hint)
    if adapter and base is None:
        raise UserError("an adapter is merged into its base, which is not named", where=str(model))
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        what = "the folder is not empty" if into.is_dir() else "a file stands in the folder's place"
        raise UserError(what, where=str(into), hint="name another with --to")
    figures: dict[str, Any] = {"merged": adapter, "pruned": zeros, "quantised": bits}
    with _whole(into) as aside:
        checks = _written(model, base if adapter else None, aside, bits, zeros)
        if verify:
            checks.append(served_alike(model, base if adapter else None, aside, exact=bits is None and zeros is None))
        found = Preflight(tuple(checks))
        figures |= {check.name: dict(check.figures) for check in checks}
        found.require(where=str(into))
        (aside / RECORD).write_text(json.dumps({"figures": figures, "checks": found.as_json()}, indent=2))
    size = sum(path.stat().st_size for path in into.rglob("*.safetensors"))
    return Exported(into, model_digest(into), size, figures, found)


def _written(model: Path, base: Path | None, into: Path, bits: Bits | None, zeros: str | None) -> list[Check]:
    """One change after the other, each from what the one before wrote; only the last one's files stay."""
    from llmops.finetune.export.merge import merge
    from llmops.finetune.export.prune import prune
    from llmops.finetune.export.quantise import quantise

    changes: list[Callable[[Path, Path], Check]] = []
    if base is not None:
        changes.append(lambda adapter, to: merge(base, adapter, to))
    if zeros is not None:
        changes.append(lambda whole, to: prune(whole, to, zeros))
    if bits is not None:
        changes.append(lambda whole, to: quantise(whole, to, bits))
    checks, at = [], model
    for number, change in enumerate(changes, start=1):
        to = into if number == len(changes) else into / f"step-{number}"
        checks.append(change(at, to))
        if at != model:
            shutil.rmtree(at)
        at = to
    return checks


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
