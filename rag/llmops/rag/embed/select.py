"""Which embedder a configuration means on this machine: decided once, by trial, and remembered.

Light: reads one small file when the choice has been made before. Trials and exports run in a child process (`prepare`),
one at a time for a cache folder.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmops.core import errors
from llmops.core.errors import ConflictError, IntegrityError, LlmopsError, UnavailableError, UserError
from llmops.core.files import exclusive_lock, write_atomic
from llmops.core.ids import digest
from llmops.rag.config import EmbeddingConfig
from llmops.rag.embed.hardware import hardware
from llmops.rag.embed.loader import ModelFiles, locate
from llmops.rag.embed.spec import Embedder, EmbedderSpec

log = logging.getLogger(__name__)

_PREFERENCE = 0.85
"""An earlier candidate wins unless a later one is faster by more than this: noise must not change a fingerprint."""
_CHILD_TIMEOUT_S = 900.0
_COMMAND = (sys.executable, "-P", "-m", "llmops.rag.embed.prepare")


class EngineCrashedError(UnavailableError):
    """Native code died in a trial, as happens where a CPU is not what it says it is."""

    code = "engine_crashed"


def resolve(config: EmbeddingConfig, cache: Path) -> EmbedderSpec:
    """Decide what embeds here. The first time for a model and machine takes half a minute, then a millisecond.

    Raises:
        UserError: there is no such model, or the wished backend is not exact here.
        IntegrityError: the packaged weights are not the original's.
        UnavailableError: the hub of a named model cannot be reached, or the trials failed.
    """
    files = locate(config.model)
    key = digest([config.model, config.backend, files.stamp, hardware()])[:32]
    record = cache / "embed" / f"choice-{key}.json"
    known = _remembered(record)
    if known:
        return known
    with _alone(cache):
        known = _remembered(record)
        if known:
            return known
        log.info("choosing the fastest exact backend for %s; once for this machine", config.model)
        spec, trials = _choose(config, files, cache)
        body = {"spec": asdict(spec), "hardware": hardware(), "trials": trials}
        write_atomic(record, json.dumps({"body": body, "sha256": digest(body)}, indent=1).encode())
        log.info("embedding %s with %s %s on %s", spec.model, spec.backend, spec.precision, spec.device)
    return spec


def open_embedder(spec: EmbedderSpec, cache: Path, *, batch_tokens: int = 2048) -> Embedder:
    """Open an embedder, whichever machine chose it.

    An export that is missing or damaged is made again, which takes half a minute.

    Raises:
        IntegrityError: the model's files are no longer those the spec names.
    """
    if spec.backend == "torch":
        from llmops.rag.embed.torch import TorchEmbedder

        return TorchEmbedder(spec, locate(spec.model), batch_tokens=batch_tokens)
    from llmops.rag.embed.openvino import OpenvinoEmbedder

    folder = _export_folder(cache, spec.weights_sha256, spec.files_sha256)
    try:
        return OpenvinoEmbedder(spec, folder, batch_tokens=batch_tokens)
    except IntegrityError as error:
        with _alone(cache):
            try:  # another process may have mended it meanwhile
                return OpenvinoEmbedder(spec, folder, batch_tokens=batch_tokens)
            except IntegrityError:
                log.warning("%s (%s): exporting %s again", error.what, error.where, spec.model)
                _export_again(spec, folder)
        return OpenvinoEmbedder(spec, folder, batch_tokens=batch_tokens)


def _remembered(record: Path) -> EmbedderSpec | None:
    """The choice made before; a damaged record counts as none."""
    try:
        stored = json.loads(record.read_bytes())
        body = stored["body"]
        if digest(body) == stored["sha256"]:
            return EmbedderSpec(**body["spec"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        log.warning("the remembered choice %s cannot be read (%s): choosing again", record, error)
        return None
    log.warning("the remembered choice %s was changed: choosing again", record)
    return None


def _choose(config: EmbeddingConfig, files: ModelFiles, cache: Path) -> tuple[EmbedderSpec, dict[str, Any]]:
    folder = _export_folder(cache, files.weights_sha256, files.files_sha256)
    job = {"model": config.model, "backend": config.backend, "folder": str(folder), "measure": True}
    try:
        result = _child(job)
    except EngineCrashedError as error:
        if config.backend != "auto":
            raise
        log.warning("%s: going on without OpenVINO", error.what)
        result = _child(job | {"backend": "torch"})
    trials = result["trials"]
    fit = [trial for trial in trials if trial["exact"]]
    if not fit:
        raise UserError(
            f"no backend embeds `{config.model}` exactly on this machine",
            where=f"embedding.backend: {config.backend}",
            hint=f"set embedding.backend to auto; tried: {_summary(result)}",
        )
    fastest = max(trial["texts_per_s"] for trial in fit)
    chosen = next(trial for trial in fit if trial["texts_per_s"] >= _PREFERENCE * fastest)
    return EmbedderSpec(**chosen["spec"]), result


def _export_again(spec: EmbedderSpec, folder: Path) -> None:
    files = locate(spec.model)
    if (files.weights_sha256, files.files_sha256) != (spec.weights_sha256, spec.files_sha256):
        raise IntegrityError(
            f"the files of the model `{spec.model}` have changed",
            where=str(files.folder),
            hint="ingest again: a new generation is built with the new files",
        )
    result = _child({"model": spec.model, "backend": "openvino", "folder": str(folder), "measure": False})
    if result["skipped"]:
        raise UnavailableError(f"`{spec.model}` cannot be exported: {_summary(result)}")


def _child(job: dict[str, Any]) -> dict[str, Any]:
    """Run one job of `prepare` in a fresh interpreter that reads no module from the working folder."""
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    try:
        done = subprocess.run(  # noqa: S603 - our own module, no shell
            _COMMAND, input=json.dumps(job), capture_output=True, text=True, env=environment, check=False,
            timeout=_CHILD_TIMEOUT_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"preparing `{job['model']}` took over {_CHILD_TIMEOUT_S:.0f} s") from None
    if done.returncode < 0:
        raise EngineCrashedError(f"preparing `{job['model']}` died of signal {-done.returncode}")
    if done.returncode or not done.stdout:
        last = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise UnavailableError(f"preparing `{job['model']}` failed with exit code {done.returncode}", hint=last)
    result: dict[str, Any] = json.loads(done.stdout)
    if "error" in result:
        raise _error(result["error"])
    return result


def _error(fields: dict[str, Any]) -> LlmopsError:
    kind = getattr(errors, fields["kind"], LlmopsError)
    found: LlmopsError = kind(fields["what"], where=fields["where"], hint=fields["hint"])
    return found


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """Wait until no other process prepares models in this cache, and keep them out."""
    deadline = time.monotonic() + _CHILD_TIMEOUT_S
    while True:
        try:
            with exclusive_lock(cache / "embed" / "lock", what="preparing embedding models"):
                yield
                return
        except ConflictError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def _export_folder(cache: Path, weights_sha256: str, files_sha256: str) -> Path:
    return cache / "embed" / f"openvino-{weights_sha256[:16]}-{files_sha256[:16]}"


def _summary(result: dict[str, Any]) -> str:
    tried = [
        f"{t['spec']['backend']} {t['spec']['precision']} (cosine error {t['cosine_error']:.1e}, nDCG {t['ndcg']:.4f})"
        for t in result["trials"]
    ]
    return "; ".join([*tried, *(f"{name}: {why}" for name, why in result["skipped"].items())]) or "none"
