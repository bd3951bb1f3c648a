"""The folder of a run: everything that training leaves behind, in one place, so that any process can go on with it.

    <state>/finetune/<run id>/
        job.json         the resolved configuration, its hash, origin of each value, git revision, versions
        run.json         state, attempts, what was spent; replaced whole
        lock             held by the one process (rank 0) that trains
        preflight.json   checks with verdicts; samples.txt: coloured tokens
        ledger.jsonl     ids of the examples, in the order in which they are learned from, by step
        metrics.jsonl    one line a step; a resumed run cuts what lies beyond its checkpoint
        checkpoints/     step-00000120/ ...  (see `checkpoint`)
        model/           the result: adapter or weights, safetensors, with tokenizer and chat template
        report.json      tokens/s, MFU, goodput, cost, evaluation; report.md and report.svg for people

Knows files and locks; no torch.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import orjson

from llmops.core.errors import IntegrityError, NotFoundError, did_you_mean
from llmops.core.files import exclusive_lock, write_atomic
from llmops.core.state import StateConfig

JOB = "job.json"
"""The job that a run was begun with, once it is prepared; `jobs` writes it."""
Stage = Literal["preparing", "training", "evaluating", "registering", "done", "failed", "interrupted"]


@dataclass(frozen=True)
class RunRecord:
    """Where a run stands.

    Args:
        attempts: how often it was started; more than once means it was resumed.
        replayed_steps: steps done again since they lay beyond the checkpoint that was resumed from.
        trained_s: seconds spent in training steps, over all attempts.
        problem: why it failed, in the words of the error.
    """

    run_id: str
    name: str
    task: str
    identity: str
    stage: Stage = "preparing"
    step: int = 0
    steps: int = 0
    attempts: int = 0
    replayed_steps: int = 0
    trained_s: float = 0.0
    started_at: str = ""
    updated_at: str = ""
    version: str | None = None
    problem: str | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class RunFolder:
    """One run's files. Values are replaced whole and synced; whoever reads sees an old or a new one, never half."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def run_id(self) -> str:
        return self.path.name

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def ledger(self) -> Path:
        return self.path / "ledger.jsonl"

    def record(self) -> RunRecord:
        try:
            return RunRecord(**self.read("run.json"))
        except (ValueError, TypeError) as error:
            raise IntegrityError(
                "the record of a run cannot be read",
                where=str(self.path / "run.json"),
                hint="it was copied in part, or is of another release: move the run's folder away",
            ) from error

    def update(self, **changes: Any) -> RunRecord:
        """Replace fields of the record; only who holds the lock may."""
        record = replace(self.record(), **changes, updated_at=datetime.now(UTC).isoformat())
        self.write("run.json", record.as_json())
        return record

    def read(self, name: str) -> dict[str, Any]:
        """The JSON object of a file of the run.

        Raises:
            NotFoundError: the run has no such file (yet).
        """
        path = self.path / name
        if not path.is_file():
            raise NotFoundError(f"the run has no {name}", where=str(path))
        loaded: dict[str, Any] = orjson.loads(path.read_bytes())
        return loaded

    def write(self, name: str, value: Any) -> None:
        write_atomic(self.path / name, orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))

    def locked(self) -> AbstractContextManager[None]:
        """Hold the run; the kernel lets go of it when the process ends, however that comes.

        Raises:
            ConflictError: another process is training this run.
        """
        return exclusive_lock(self.path / "lock", what="training this run")


def runs_folder(state: StateConfig) -> Path:
    return state.root / "finetune"


def open_run(state: StateConfig, *, name: str, task: str, identity: str) -> RunFolder:
    """The folder of the run that `identity` decides: a new one, or the one there is.

    Args:
        identity: SHA-256 over configuration and data.
    """
    folder = RunFolder(runs_folder(state) / f"{name}-{identity[:12]}")
    folder.checkpoints.mkdir(parents=True, exist_ok=True)
    if not (folder.path / "run.json").exists():
        now = datetime.now(UTC).isoformat()
        folder.write(
            "run.json", RunRecord(folder.run_id, name, task, identity, started_at=now, updated_at=now).as_json()
        )
    return folder


def find_run(state: StateConfig, run_id: str) -> RunFolder:
    """The run of an id, or of the beginning of one.

    Raises:
        NotFoundError: there is none, or several.
    """
    known = [folder.run_id for folder in list_runs(state)]
    matching = [one for one in known if one.startswith(run_id)]
    if len(matching) > 1 and run_id not in matching:
        few = ", ".join(matching[:3]) + (", ..." if len(matching) > 3 else "")
        raise NotFoundError(
            f"`{run_id}` begins the ids of several runs",
            where=str(runs_folder(state)),
            hint=f"say more of one of them: {few}",
        )
    if not matching:
        raise NotFoundError(
            f"no run is called `{run_id}`",
            where=str(runs_folder(state)),
            hint=did_you_mean(run_id, known)
            or "see `llmops finetune list`; with --config JOB the runs of that job's state are meant",
        )
    return RunFolder(runs_folder(state) / (run_id if run_id in matching else matching[0]))


def list_runs(state: StateConfig) -> list[RunFolder]:
    """Newest first."""
    found = [RunFolder(path.parent) for path in runs_folder(state).glob("*/run.json")]
    return sorted(found, key=lambda run: run.record().started_at, reverse=True)
