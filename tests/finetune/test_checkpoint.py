"""Checkpoints are whole or not there, whatever happens while they are written or lie about."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

import pytest
from tests.support.training import forked

from llmops.core.errors import ConflictError, IntegrityError, StorageError
from llmops.finetune.checkpoint import MANIFEST, Checkpoints, require_same_division, verified

JOB = "of this job"


def save(checkpoints: Checkpoints, step: int) -> None:
    def write(folder: Path) -> None:
        (folder / "weights.bin").write_bytes(bytes([step]) * 4096)

    checkpoints.save(step, write, {"step": step, "identity": JOB})


def test_the_newest_is_found_and_only_so_many_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        save(checkpoints, step)
    found, rejected = checkpoints.newest_valid(JOB)
    assert found is not None
    assert found.step == 3
    assert found.state == {"step": 3, "identity": JOB}
    assert not rejected
    assert [path.name for path in checkpoints.all()] == ["step-00000002", "step-00000003"]


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (lambda path: (path / "weights.bin").unlink(), "weights.bin is missing"),
        (lambda path: os.truncate(path / "weights.bin", 100), "weights.bin has 100 bytes, and should have 4096"),
        (lambda path: (path / "weights.bin").write_bytes(b"x" * 4096), "weights.bin has other contents"),
        (lambda path: (path / MANIFEST).write_bytes(b""), "its manifest is missing or broken"),
        (lambda path: (path / MANIFEST).unlink(), "its manifest is missing or broken"),
    ],
)
def test_a_broken_one_is_told_of_and_the_one_before_is_taken(tmp_path: Path, fault, told: str) -> None:  # type: ignore[no-untyped-def]
    checkpoints = Checkpoints(tmp_path, keep=3)
    save(checkpoints, 1)
    save(checkpoints, 2)
    fault(tmp_path / "step-00000002")
    found, rejected = checkpoints.newest_valid(JOB)
    assert found is not None
    assert found.step == 1
    assert [str(one) for one in rejected] == [f"step-00000002: {told}"]
    with pytest.raises(IntegrityError, match=told):
        verified(tmp_path / "step-00000002")
    checkpoints.set_aside(rejected)
    save(checkpoints, 2)
    assert verified(tmp_path / "step-00000002").step == 2
    assert len(list(tmp_path.glob("broken-*"))) == 1


@pytest.mark.parametrize("stage", ["begun", "written", "sealed", "named", "pruning"])
def test_a_kill_in_any_stage_of_writing_leaves_a_whole_one(tmp_path: Path, stage: str) -> None:
    save(Checkpoints(tmp_path, keep=1), 1)

    def killed() -> None:
        save(Checkpoints(tmp_path, keep=1, pause=lambda now: now == stage and os.kill(os.getpid(), signal.SIGKILL)), 2)  # type: ignore[func-returns-value]

    _, status = os.waitpid(forked(killed), 0)  # type: ignore[arg-type]
    assert os.WTERMSIG(status) == signal.SIGKILL
    found, rejected = Checkpoints(tmp_path).newest_valid(JOB)
    assert found is not None
    assert not rejected
    assert found.step == (2 if stage in ("named", "pruning") else 1)
    save(Checkpoints(tmp_path, keep=1), 3)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-00000003"]


def test_a_disk_that_takes_no_more_leaves_earlier_ones_intact(tmp_path: Path) -> None:
    """The kernel itself refuses to write beyond a size, as it does on a full disk."""
    save(Checkpoints(tmp_path), 1)

    def full() -> int:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
        try:
            save(Checkpoints(tmp_path), 2)
        except StorageError as error:
            return 3 if error.hint and "earlier checkpoints are intact" in error.hint else 4
        return 5

    _, status = os.waitpid(forked(full), 0)
    assert os.waitstatus_to_exitcode(status) == 3
    found, rejected = Checkpoints(tmp_path).newest_valid(JOB)
    assert found is not None
    assert found.step == 1
    assert not rejected
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_a_run_divided_otherwise_is_refused_or_told_of() -> None:
    known = {"ranks": 2, "rows_per_rank": 4}
    with pytest.raises(ConflictError, match="ranks was 2, and is 1 now"):
        require_same_division(known, {"ranks": 1, "rows_per_rank": 4}, exact=True)
    assert require_same_division(known, {"ranks": 1, "rows_per_rank": 4}, exact=False) == ["ranks was 2, and is 1 now"]
    assert require_same_division(known, dict(known), exact=True) == []
