"""One version in a confined process of its own, seen from the gate that tries it: loaded, asked, timed, ended.

Its files are verified before the process starts. Whatever a version does in there (crash, hang, take all memory, reach
for files or the network, answer nonsense) comes out as a `TrialError` in words; nothing of it runs here. Labels never
go in. Knows processes and answers; what a good answer is, it does not know.
"""

from __future__ import annotations

import os
import select
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from llmops.core.confined import BrokenFrameError, Confined, ending, ran_out_of_memory
from llmops.core.errors import LlmopsError, UnavailableError
from llmops.registry import load as loading
from llmops.registry.assets import Registry
from llmops.registry.gates.judged import Output
from llmops.registry.gates.plugins import Opening, opening
from llmops.registry.gates.spec import Limits
from llmops.registry.records import Version

_PROGRAM = "llmops.registry.gates.worker"
_START_S = 60.0
_SCRATCH_BYTES = 1 << 28
_CHAIN_BYTES = 1 << 32
_MAX_WHAT = 500
_ONE_THREAD = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}
"""Arrow's allocator would start a thread when it is imported, before the fences are up."""


class TrialError(LlmopsError):
    """A version did in its process what it must not, or could not do what it has to. `error_code` says which."""

    code = "trial"
    exit_code = 3


@dataclass(frozen=True)
class Timings:
    """Seconds that predictions took in a warm process: of single rows, and of batches."""

    row_s: tuple[float, ...]
    batch_s: tuple[float, ...]
    batch_rows: int


@dataclass(frozen=True)
class Citation:
    uri: str
    text: str
    stands: bool
    """Whether the cited words stand in the document where the citation says."""


@dataclass(frozen=True)
class Passage:
    """What was retrieved for a question."""

    uri: str
    text: str


@dataclass(frozen=True)
class Answer:
    """A chain's answer to one question.

    Args:
        retrieved: the passages it could draw on, best first.
        cost_usd: what it cost; None: not told.
    """

    text: str
    refused: bool
    citations: tuple[Citation, ...] = ()
    generation: str = ""
    index_seq: int = 0
    first_s: float = 0.0
    total_s: float = 0.0
    retrieved: tuple[Passage, ...] = ()
    cost_usd: float | None = None

    @property
    def head(self) -> tuple[str, int]:
        """Which refresh of the index it came from."""
        return self.generation, self.index_seq


@dataclass(frozen=True)
class Loaded:
    """What is known of a version once it is loaded."""

    seconds: float
    network: str
    files: str
    signature: bool = False
    example: bool = False


@dataclass
class Trial:
    """A version's process. Use it as a context manager, which starts it; then `load`.

    Args:
        folder: the version's verified files; None: it has none, or is not opened by them.
        described: what their `MLmodel` file says.
        opening: how it is opened in place of its files.
    """

    version: Version
    folder: Path | None
    described: dict[str, Any]
    registry: Registry
    limits: Limits
    opening: Opening | None = None
    peak_bytes: int | None = field(default=None, init=False)

    @classmethod
    def of(cls, version: Version, registry: Registry, limits: Limits) -> Trial:
        """The trial of a version whose files are what was registered.

        Raises:
            IntegrityError: they are not.
            NotFoundError: they are gone.
            UserError: it has none, or they are no MLflow model.
        """
        folder = registry.files(version)
        return cls(version, folder, loading.describe(folder), registry, limits)

    @classmethod
    def asked(cls, version: Version, registry: Registry, limits: Limits, through: Mapping[str, Any]) -> Trial:
        """The trial of a version that is asked questions, itself or through something else.

        Raises:
            IntegrityError, NotFoundError: its files are not what was registered, or gone.
            UserError: it answers no questions, or not through that.
        """
        opened = opening(version, registry, through)
        if version.artifact_digest is None:
            return cls(version, None, {}, registry, limits, opened)
        return replace(cls.of(version, registry, limits), opening=opened)

    @property
    def is_chain(self) -> bool:
        return self.opening is not None or self.version.kind.answers

    @property
    def _is_ours(self) -> bool:
        """Whether it is a chain of this package, opened without MLflow."""
        return self.opening is not None or (self.is_chain and loading.opener_of(self.described) is not None)

    def __enter__(self) -> Self:
        self._room = tempfile.TemporaryDirectory(prefix="llmops-trial-", ignore_cleanup_errors=True)
        self._inputs, self._scratch = Path(self._room.name, "inputs"), Path(self._room.name, "scratch")
        self._inputs.mkdir()
        self._scratch.mkdir()
        home = {name: str(self._scratch) for name in ("TMPDIR", "HOME", "MPLCONFIGDIR", "XDG_CACHE_HOME")}
        seen = {name: os.environ[name] for name in self.limits.environment if name in os.environ}
        environment = seen | home | _ONE_THREAD
        self._process = Confined(_PROGRAM, max_body_bytes=self.limits.answer_mb << 20, environment=environment)
        self._tables = 0
        self._process.send({"fence": self._fence(), "chain": self.is_chain, "mlflow": not self._is_ours})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.close(kill=True)
        self._room.cleanup()

    def load(self) -> Loaded:
        """Wait for the fences, then load the version behind them.

        Raises:
            TrialError: it does not load.
            UnavailableError: no process can be started here.
        """
        isolation = self._answer(_START_S, starting=True)[0]
        header, _ = self._ask(
            {
                "do": "load",
                "folder": str(self.folder),
                "opening": None if self.opening is None else asdict(self.opening),
                "name": str(self.version.ref),
                "state": self.registry.state.model_dump(mode="json") | {"dir": str(self.registry.state.root)},
            },
            self.limits.load_timeout_s,
        )
        return Loaded(
            float(header["seconds"]),
            str(isolation["network"]),
            str(isolation["files"]),
            bool(header["signature"]),
            bool(header["example"]),
        )

    def predict(self, table: Any, batch_rows: int) -> Output:
        """What the model says of a pyarrow table's rows, batch by batch.

        Raises:
            TrialError: it fails, or gives another number of rows than it was given.
        """
        path = self._hand_in(table)
        columns: list[list[Any]] = []
        names: tuple[str, ...] | None = None
        for start in range(0, table.num_rows, batch_rows):
            stop = min(start + batch_rows, table.num_rows)
            header, body = self._ask({"do": "predict", "table": str(path), "start": start, "stop": stop})
            part = _output(header, body)
            if part.rows != stop - start:
                raise TrialError(f"{stop - start:,} rows went in and {part.rows:,} came out", code="nonsense")
            if columns and len(part.columns) != len(columns):
                raise TrialError("its output changes shape from batch to batch", code="nonsense")
            names = part.names
            if not columns:
                columns = [[] for _ in part.columns]
            for column, more in zip(columns, part.columns, strict=True):
                column.extend(more)
        return Output(tuple(columns), names)

    def time(self, table: Any, *, rows: int, batch_rows: int, batches: int) -> Timings:
        """How long predictions of these rows take, after some that do not count."""
        path = self._hand_in(table)
        request = {"do": "time", "table": str(path), "rows": rows, "batch_rows": batch_rows, "batches": batches}
        header, _ = self._ask(request, self.limits.timeout_s * 4)
        return Timings(_seconds(header["row_s"]), _seconds(header["batch_s"]), batch_rows)

    def example(self) -> str:
        """Predict the model's own input example; the outcome in words.

        Raises:
            TrialError: it fails on it.
        """
        return str(self._ask({"do": "example"})[0]["outcome"])[:_MAX_WHAT]

    def ask(self, question: str, groups: Sequence[str] = ()) -> Answer:
        """Put a question to the chain.

        Raises:
            TrialError: it fails, or breaks the contract of `core.chain`.
        """
        _, body = self._ask({"do": "ask", "question": question, "groups": list(groups)})
        try:
            told = orjson.loads(body)
            citations = tuple(Citation(str(c["uri"]), str(c["text"]), bool(c["stands"])) for c in told["citations"])
            return Answer(
                str(told["text"]),
                bool(told["refused"]),
                citations,
                str(told["generation"]),
                int(told["index_seq"]),
                float(told["first_s"]),
                float(told["total_s"]),
                tuple(Passage(str(one["uri"]), str(one["text"])) for one in told["retrieved"]),
                None if told["cost_usd"] is None else float(told["cost_usd"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise TrialError("its process answers nonsense", code="nonsense") from error

    def _fence(self) -> dict[str, Any]:
        """What the process may have. A chain of ours reads and keeps indexes and exported models; a foreign one not."""
        writable, written = [str(self._scratch)], _SCRATCH_BYTES
        if self._is_ours:
            kept = [self.registry.state.root / "index", self.registry.state.cache]
            writable += [str(folder) for folder in kept if folder.is_dir()]
            written = _CHAIN_BYTES
        return {
            "memory_bytes": self.limits.memory_mb << 20,
            "written_bytes": written,
            "cpu_s": self.limits.cpu_s,
            "writable": writable,
            "network": self.limits.network,
        }

    def _hand_in(self, table: Any) -> Path:
        import pyarrow as pa

        self._tables += 1
        path = self._inputs / f"{self._tables}.arrow"
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        return path

    def _ask(self, request: dict[str, Any], timeout_s: float | None = None) -> tuple[dict[str, Any], bytes]:
        """One request, one answer, within its time."""
        self._process.send(request)
        return self._answer(self.limits.timeout_s if timeout_s is None else timeout_s)

    def _answer(self, patience: float, *, starting: bool = False) -> tuple[dict[str, Any], bytes]:
        deadline = time.monotonic() + patience
        try:
            while (frame := self._process.take()) is None:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TrialError(f"it took longer than {patience:g} s", code="timeout")
                if select.select([self._process], [], [], left)[0]:
                    self._process.read()
        except EOFError:
            raise self._end(starting=starting) from None
        except BrokenFrameError as error:
            raise TrialError(f"its process answers nonsense: {error}", code="nonsense") from None
        self.peak_bytes = _peak(self._process.pid) or self.peak_bytes
        header, body = frame
        if "failed" in header:
            raise TrialError(str(header.get("what"))[:_MAX_WHAT], code=str(header["failed"])[:40])
        return header, body

    def _end(self, *, starting: bool) -> TrialError:
        """Why the process ended by itself."""
        code, words = self._process.ended()
        if starting:
            raise UnavailableError("a process for the version cannot start", where=words or ending(code))
        if ran_out_of_memory(words):
            return TrialError(f"it took more than {self.limits.memory_mb} MB of memory", code="memory")
        if code == -signal.SIGXCPU:
            return TrialError(f"it took more than {self.limits.cpu_s} s of processor time", code="cpu")
        if code == -signal.SIGKILL:
            what = "it was killed: past its processor time, or for memory that the machine does not have"
            return TrialError(what, code="killed")
        return TrialError(f"its process ended ({ending(code)})", code="crashed")


def _output(header: dict[str, Any], body: bytes) -> Output:
    try:
        columns, names = orjson.loads(body), header["names"]
        if not columns or any(not isinstance(column, list) or len(column) != len(columns[0]) for column in columns):
            raise ValueError
        return Output(tuple(columns), None if names is None else tuple(str(name) for name in names))
    except (ValueError, KeyError, TypeError) as error:
        raise TrialError("its process answers nonsense", code="nonsense") from error


def _seconds(values: Any) -> tuple[float, ...]:
    try:
        return tuple(float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise TrialError("its process answers nonsense", code="nonsense") from error


def _peak(pid: int) -> int | None:
    """The most memory the process had at once, from the kernel and not from the process."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM")), None)
