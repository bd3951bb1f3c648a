"""One process' work: load a model, export it, and measure which backends are exact and how fast.

Run by `select` as a child, because torch and sentence-transformers take 14 s and 1 GB that a chat server or an
unchanged refresh must not pay, and because what such libraries print, or crash with, then stays out of the product's
terminal. Reads one JSON job on stdin and writes one JSON result on stdout.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from llmops.core.errors import LlmopsError
from llmops.rag.embed import exact
from llmops.rag.embed.hardware import has_bf16
from llmops.rag.embed.loader import ModelFiles, load, locate, quiet
from llmops.rag.embed.openvino import OpenvinoEmbedder, export
from llmops.rag.embed.spec import Embedder, EmbedderSpec
from llmops.rag.embed.torch import TorchEmbedder

_PROBE_BATCH_TOKENS = 2048


@dataclass(frozen=True)
class Trial:
    """What was found of one candidate."""

    spec: EmbedderSpec
    cosine_error: float
    ndcg: float
    texts_per_s: float

    @property
    def exact(self) -> bool:
        return exact.is_exact(self.cosine_error, self.ndcg)


def prepare(job: dict[str, Any]) -> dict[str, Any]:
    """Export where wanted, try the candidates where wanted; every candidate that cannot run says why."""
    files = locate(job["model"])
    model = load(files)
    base = _base_spec(job["model"], files, model)
    skipped: dict[str, str] = {}
    folder = Path(job["folder"])
    if job["backend"] != "torch":
        try:
            export(model, _facts(base, model), folder)
        except (ImportError, ValueError, RuntimeError) as error:
            skipped["openvino"] = f"{type(error).__name__}: {error}"
    trials: list[Trial] = []
    if job["measure"]:
        trials = list(_trials(base, model, files, folder, job["backend"], skipped))
    return {"trials": [asdict(trial) | {"exact": trial.exact} for trial in trials], "skipped": skipped}


def _trials(
    base: EmbedderSpec, model: Any, files: ModelFiles, folder: Path, backend: str, skipped: dict[str, str]
) -> Iterator[Trial]:
    with quiet():
        reference = model.encode_document(list(exact.PROBES), normalize_embeddings=True, show_progress_bar=False)
    for spec in _candidates(base, backend, skipped):
        try:
            embedder: Embedder
            if spec.backend == "openvino":
                embedder = OpenvinoEmbedder(spec, folder, batch_tokens=_PROBE_BATCH_TOKENS)
            else:
                held = model if spec.device == "cpu" else None
                embedder = TorchEmbedder(spec, files, batch_tokens=_PROBE_BATCH_TOKENS, model=held)
            vectors, rate = _timed(embedder)
        except (RuntimeError, LlmopsError) as error:
            skipped[f"{spec.backend} {spec.precision} {spec.device}"] = f"{type(error).__name__}: {error}"
            continue
        yield Trial(spec, exact.cosine_error(reference, vectors), exact.neighbour_ndcg(reference, vectors), rate)


def _candidates(base: EmbedderSpec, backend: str, skipped: dict[str, str]) -> Iterator[EmbedderSpec]:
    """Those worth a trial here, the preferred first."""
    import torch

    openvino = backend != "torch" and "openvino" not in skipped
    if backend != "openvino" and torch.cuda.is_available():
        yield replace(base, backend="torch", device="cuda")
    precisions: tuple[Literal["f32", "bf16"], ...] = ("bf16", "f32") if has_bf16() else ("f32",)
    for precision in precisions:
        if openvino:
            yield replace(base, backend="openvino", precision=precision)
        elif backend != "openvino":
            yield replace(base, backend="torch", precision=precision)
    if openvino and backend == "auto":
        yield replace(base, backend="torch")


def _timed(embedder: Embedder) -> tuple[Any, float]:
    """The probes' vectors and their rate in a second round; the first one also makes the kernels."""
    embedder.embed(exact.PROBES)
    start = time.perf_counter()
    vectors = embedder.embed(exact.PROBES)
    return vectors, len(exact.PROBES) / (time.perf_counter() - start)


def _base_spec(name: str, files: ModelFiles, model: Any) -> EmbedderSpec:
    pooling = next((module for module in model if type(module).__name__ == "Pooling"), None)
    modules = "+".join(type(module).__name__ for module in model)
    return EmbedderSpec(
        model=name,
        weights_sha256=files.weights_sha256,
        files_sha256=files.files_sha256,
        backend="torch",
        precision="f32",
        device="cpu",
        dimension=int(model.get_embedding_dimension()),
        max_length=int(model.max_seq_length or 512),
        pooling=f"{modules}:{getattr(pooling, 'pooling_mode', 'none')}",
    )


def _facts(base: EmbedderSpec, model: Any) -> dict[str, Any]:
    prompts = getattr(model, "prompts", None) or {}
    document = next((prompts[name] for name in ("document", "passage", "corpus") if prompts.get(name)), "")
    return {
        "weights_sha256": base.weights_sha256,
        "files_sha256": base.files_sha256,
        "pad_id": int(model.tokenizer.pad_token_id or 0),
        "prompts": {"query": prompts.get("query") or "", "document": document},
    }


def _main(work: Callable[[dict[str, Any]], dict[str, Any]]) -> int:
    """Keep stdout for the result: whatever libraries print goes to stderr."""
    result_stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            result = work(json.load(sys.stdin))
    except LlmopsError as error:
        fields = {"what": error.what, "where": error.where, "hint": error.hint}
        result = {"error": fields | {"kind": type(error).__name__}}
    with result_stream:
        json.dump(result, result_stream)
    return 0


if __name__ == "__main__":
    sys.exit(_main(prepare))
