"""The OpenVINO backend: a model exported once from its torch module, then run without torch.

Knows the exported folder (graph, weights, tokenizer, digests) and OpenVINO's CPU options. It does not choose itself
(`select` does).

Measured on 2 cores with AVX-512 bf16, 800-character chunks, chunks per CPU-second: float32 18; bf16, one stream on both
cores 31; bf16, a stream a core 36. One question: 3.7 ms on both cores, 4.6 to 6 ms on a stream's one. Hence two
compilations: one for latency, and one for throughput, made when the first long job comes.
"""

from __future__ import annotations

import json
import queue
import shutil
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from llmops.core.errors import IntegrityError
from llmops.core.files import sync_directory, write_atomic
from llmops.core.ids import digest
from llmops.rag.embed.batches import Batch, Tokens
from llmops.rag.embed.loader import file_sha256, quiet
from llmops.rag.embed.spec import EmbedderSpec
from llmops.rag.embed.together import Together

if TYPE_CHECKING:
    from llmops.rag.embed.spec import Vectors

_GRAPH, _WEIGHTS, _TOKENIZER, _MANIFEST = "model.xml", "model.bin", "tokenizer.json", "manifest.json"
_LONG_JOB_CHARS = 160_000
"""Once so much has been embedded (some 200 chunks), a second compilation (0.2 s) pays for itself."""
_SMALL_JOB = 32
"""Up to so many texts are a question's: they share batches with other questions' texts, and are never a long job."""

_import_lock = threading.RLock()


def export(model: Any, facts: dict[str, Any], folder: Path) -> None:
    """Write a sentence-transformers model as a graph from token ids to unit vectors, whole or not at all.

    Args:
        facts: what `OpenvinoEmbedder` must know of it besides: max_length, pad_id, prompts, digests.

    Raises:
        ValueError: the model takes other inputs than ids, mask and token types, or has no fast tokenizer.
    """
    tokenizer = getattr(model.tokenizer, "backend_tokenizer", None)
    if tokenizer is None:
        raise ValueError("the model has no fast tokenizer")
    graph = _traced(model)
    temporary = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    _openvino().save_model(graph, str(temporary / _GRAPH), compress_to_fp16=False)
    (temporary / _TOKENIZER).write_text(tokenizer.to_str(), encoding="utf-8")
    body = {"facts": facts, "files": {n: file_sha256(temporary / n) for n in (_GRAPH, _WEIGHTS, _TOKENIZER)}}
    write_atomic(temporary / _MANIFEST, json.dumps({"body": body, "sha256": digest(body)}, indent=1).encode())
    sync_directory(temporary)
    if folder.exists():
        shutil.rmtree(folder)
    temporary.rename(folder)
    sync_directory(folder.parent)


def verify(folder: Path) -> dict[str, Any]:
    """The facts of an exported model, once every file has been found to be what was written.

    Raises:
        IntegrityError: a file is missing, or is not what was recorded.
    """
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
        body = manifest["body"]
        if digest(body) != manifest["sha256"]:
            raise IntegrityError("the manifest of the exported model was changed", where=str(folder / _MANIFEST))
        for name, expected in body["files"].items():
            if file_sha256(folder / name) != expected:
                raise IntegrityError("a file of the exported model was changed", where=str(folder / name))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"the exported model is not whole: {error}", where=str(folder)) from error
    facts: dict[str, Any] = body["facts"]
    return facts


class OpenvinoEmbedder:
    """An exported model, compiled for this CPU. Needs openvino and tokenizers only."""

    def __init__(self, spec: EmbedderSpec, folder: Path, *, batch_tokens: int) -> None:
        """Verify and compile.

        Raises:
            IntegrityError: the exported files are damaged, or are of another model.
        """
        facts = verify(folder)
        if (facts["weights_sha256"], facts["files_sha256"]) != (spec.weights_sha256, spec.files_sha256):
            raise IntegrityError("the exported model is of other weights", where=str(folder))
        from tokenizers import Tokenizer

        self.fingerprint = spec.fingerprint
        self.dimension = spec.dimension
        self._prompts: dict[str, str] = facts["prompts"]
        self._tokens = Tokens(
            Tokenizer.from_file(str(folder / _TOKENIZER)),
            max_length=spec.max_length,
            pad_id=facts["pad_id"],
            batch_tokens=batch_tokens,
        )
        self._core = _openvino().Core()
        self._graph = self._core.read_model(str(folder / _GRAPH))
        self._precision = spec.precision
        self._swift = self._compile("LATENCY")
        self._together = Together(self._computed, most=_SMALL_JOB)
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._jobs: Any = None
        self._embedded_chars = 0
        self._job_lock = threading.Lock()

    def embed(self, texts: Sequence[str], on_batch: Callable[[int], None] | None = None) -> Vectors:
        prompt = self._prompts["document"]
        prompted = [prompt + text for text in texts] if prompt else texts
        if len(texts) <= _SMALL_JOB:
            vectors = self._together(prompted)
            if on_batch and len(texts):
                on_batch(len(texts))
            return vectors
        self._embedded_chars += sum(map(len, texts))
        if self._embedded_chars < _LONG_JOB_CHARS:
            return self._computed(prompted, on_batch)
        with self._job_lock:
            return self._run_job(prompted, on_batch)

    def embed_query(self, text: str) -> Vectors:
        vector: Vectors = self._together([self._prompts["query"] + text])[0]
        return vector

    def _computed(self, texts: Sequence[str], on_batch: Callable[[int], None] | None = None) -> Vectors:
        """Batch after batch, each on every core: soonest done where texts are few."""
        out = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for batch in self._tokens.batches(texts):
            out[batch.places] = self._infer(batch)
            if on_batch:
                on_batch(len(batch.places))
        return _unit(out)

    def _infer(self, batch: Batch) -> Vectors:
        try:
            request = self._requests.get_nowait()
        except queue.Empty:
            request = self._swift.create_infer_request()
        try:
            # Never share_inputs=True: openvino 2026.4.1 then touches the array after it was freed (seen: SIGSEGV).
            result: Vectors = request.infer(_inputs(batch))[0]
            return result
        finally:
            self._requests.put(request)

    def _run_job(self, texts: Sequence[str], on_batch: Callable[[int], None] | None) -> Vectors:
        """Keep every stream busy; results land as they come, progress is told in this thread."""
        if self._jobs is None:
            self._jobs = _openvino().AsyncInferQueue(self._compile("THROUGHPUT"))
        done: deque[int] = deque()
        out = np.zeros((len(texts), self.dimension), dtype=np.float32)

        def land(request: Any, batch: Batch) -> None:
            out[batch.places] = request.get_output_tensor(0).data
            done.append(len(batch.places))

        def tell() -> None:
            while done:
                count = done.popleft()
                if on_batch:
                    on_batch(count)

        self._jobs.set_callback(land)
        try:
            for batch in self._tokens.batches(texts):
                self._jobs.start_async(_inputs(batch), batch)
                tell()
        finally:
            self._jobs.wait_all()
        tell()
        return _unit(out)

    def _compile(self, hint: str) -> Any:
        options = {"PERFORMANCE_HINT": hint, "INFERENCE_PRECISION_HINT": self._precision}
        return self._core.compile_model(self._graph, "CPU", options)


def _inputs(batch: Batch) -> dict[str, Any]:
    return {"input_ids": batch.ids, "attention_mask": batch.mask}


def _unit(vectors: Vectors) -> Vectors:
    """Exactly unit norm again: bf16 leaves it off by up to 1e-3."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = vectors / np.maximum(norms, np.float32(1e-12))
    return unit


def _openvino() -> ModuleType:
    """OpenVINO's runtime alone: without its converter, half of the time to import, and its telemetry to a server."""
    with _without("openvino.tools", "openvino_telemetry"):
        import openvino
    module: ModuleType = openvino
    return module


@contextmanager
def _without(*packages: str) -> Iterator[None]:
    """Let optional packages look as if they were not installed, unless somebody has imported them already."""
    with _import_lock:
        hidden = [name for name in packages if name not in sys.modules]
        modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment]
        modules.update(dict.fromkeys(hidden))  # None means: cannot be imported
        try:
            yield
        finally:
            for name in hidden:
                del sys.modules[name]


def _traced(model: Any) -> Any:
    """The model as an OpenVINO graph with free batch and length."""
    import torch

    with quiet(), _without("openvino_telemetry"):
        _openvino()
        from openvino.tools.ovc import convert_model

        keys = {key for key, value in model.preprocess(["probe"]).items() if isinstance(value, torch.Tensor)}
        if not {"input_ids", "attention_mask"} <= keys <= {"input_ids", "attention_mask", "token_type_ids"}:
            raise ValueError(f"the model takes other inputs: {sorted(keys)}")

        class Whole(torch.nn.Module):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.inner = model

            def forward(self, input_ids: Any, attention_mask: Any) -> Any:
                features = {"input_ids": input_ids, "attention_mask": attention_mask}
                if "token_type_ids" in keys:
                    features["token_type_ids"] = torch.zeros_like(input_ids)
                return torch.nn.functional.normalize(self.inner(features)["sentence_embedding"], dim=-1)

        ids = torch.full((2, 16), 5, dtype=torch.int64)
        with torch.no_grad():
            return convert_model(
                Whole().eval(), example_input={"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            )
