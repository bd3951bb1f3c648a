"""Runs refreshes in processes of their own that are really killed; forks a warm interpreter, to save the imports.

Protocol: one JSON job a line on stdin ({config, state, embedder, kill_at, kill_after_s, full},
or {state, delete | forget: uris, or move: URL or null, kill_at}); one line out:
{"status": exit status or minus the signal, "result": the refresh as JSON, or null, "error": text or null}.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class Zygote:
    """The test's end."""

    def __init__(self) -> None:
        path = [str(ROOT / part) for part in ("cli", "serving", "rag", "registry", "core", ".")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
        )

    def run(self, **job: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job, default=str) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


class _Killer:
    """Counts the steps that leave something on the disk, and kills this process at one of them."""

    def __init__(self, kill_at: int) -> None:
        self._left = kill_at
        self._lock = threading.Lock()

    def tick(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **options: Any) -> Any:
            self.tick()
            value = call(*args, **options)
            self.tick()
            return value

        return wrapped

    def install(self) -> None:
        from llmops.rag.database import SqliteFile
        from llmops.rag.index.chroma import ChromaStore
        from llmops.rag.index.chroma_server import ChromaServerStore
        from llmops.rag.index.milvus import MilvusStore
        from llmops.rag.manifest import Manifest

        os.fsync = self.around(os.fsync)
        for owner, names in {
            Manifest: ("set_store_stamp", "clear_intent", "add_generation", "add_arena"),
            SqliteFile: ("checkpoint",),
            ChromaStore: ("add", "delete", "sync"),
            ChromaServerStore: ("add", "delete", "sync"),
            MilvusStore: ("add", "delete", "sync"),
        }.items():
            for name in names:
                setattr(owner, name, self.around(getattr(owner, name)))
        whole, tick = Manifest.transaction, self.tick

        @contextmanager
        def transaction(manifest: Manifest) -> Iterator[None]:
            tick()
            with whole(manifest):
                yield
                tick()
            tick()

        Manifest.transaction = transaction


def _child(job: dict[str, Any], out: int) -> None:
    from tests.support.embedder import WordEmbedder

    from llmops.core.errors import LlmopsError
    from llmops.core.state import StateConfig
    from llmops.rag.config import IndexConfig
    from llmops.rag.ingest.refresh import Options, refresh

    if job.get("kill_at"):
        _Killer(job["kill_at"]).install()
    if job.get("kill_after_s"):
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        signal.setitimer(signal.ITIMER_REAL, job["kill_after_s"])
    if job.get("file_bytes"):
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_bytes"], job["file_bytes"]))
    answer: dict[str, Any] = {"result": None, "error": None}
    embedder = WordEmbedder(job.get("embedder", "words-1"))
    try:
        state = StateConfig(dir=Path(job["state"]), sql_url=job.get("sql_url"))
        if "config" not in job:
            answer["result"] = _remove(job, state)
            os.write(out, json.dumps(answer).encode())
            return
        config = IndexConfig.model_validate(job["config"])
        answer["result"] = refresh(config, state, Options(embedder=embedder, full=job.get("full", False))).as_json()
    except LlmopsError as error:
        answer["error"] = {"kind": type(error).__name__, "what": error.what, "hint": error.hint}
    os.write(out, json.dumps(answer).encode())


def _remove(job: dict[str, Any], state: Any) -> Any:
    """Delete documents of the tests' index, forget them, or move it."""
    if "move" in job:
        from tests.support.indexes import NAME

        from llmops.rag.ingest.moving import move

        return move(state, NAME, job["move"]).as_json()
    if "delete" in job:
        from tests.support.indexes import NAME

        from llmops.rag.ingest.documents import delete

        return delete(state, NAME, job["delete"], actor="ann", reason="test").as_json()
    from llmops.rag.forget import forget, request_of

    return forget(state, request_of(job["forget"], None)).as_json()


def _serve() -> None:
    import chromadb  # noqa: F401 - what every child shares

    import llmops.rag.ingest.pipeline
    import llmops.rag.ingest.writer  # noqa: F401

    for line in sys.stdin:
        job = json.loads(line)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                _child(job, write)
            except BaseException:
                import traceback

                traceback.print_exc()
                os._exit(70)
            os._exit(0)
        os.close(write)
        _, status = os.waitpid(child, 0)
        with os.fdopen(read, "rb") as pipe:
            body = pipe.read()
        answer = json.loads(body) if body else {"result": None, "error": None}
        print(json.dumps({"status": os.waitstatus_to_exitcode(status), **answer}), flush=True)


if __name__ == "__main__":
    _serve()
