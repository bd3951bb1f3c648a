"""A proof that a killed training ends where an undisturbed one does: the same job twice, one of them killed often.

Each attempt is a process forked from one with torch in memory; it trains from the newest whole checkpoint, and gets
SIGKILL at a moment that was drawn before: after some step, or within the writing of a checkpoint, in each of its
stages. The certificate says when it was killed, and the weights' digests. Works on CPUs, and while the process that
forks has computed nothing itself: the threads of torch would be missing in its children, which wait for them for ever.
"""

from __future__ import annotations

import gc
import os
import random
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson

from llmops.core.errors import LlmopsError, UnavailableError, UserError
from llmops.core.fences import die_with_parent
from llmops.core.files import write_atomic
from llmops.core.identity import LOCAL, Principal
from llmops.finetune.checkpoint import verified
from llmops.finetune.config import SUPERVISED, FinetuneConfig
from llmops.finetune.data.sources import file_digest
from llmops.finetune.engines import Event, Prepared, StepDone, engine_for
from llmops.finetune.journal import Journal
from llmops.finetune.launch import require_here
from llmops.finetune.runs import RunFolder, RunRecord

PHASES = ("step", "begun", "written", "sealed", "named", "pruning")
"""Moments of a kill: after a step is done, and the stages of writing a checkpoint."""

_PACKAGES = ("torch", "transformers", "peft", "trl", "safetensors")


@dataclass(frozen=True)
class Kill:
    """One SIGKILL: in `phase`, once so many of its kind were passed in this attempt."""

    phase: str
    after: int
    step: int = 0


@dataclass(frozen=True)
class Certificate:
    """What was done, and whether the weights are the same."""

    identity: str
    steps: int
    kills: tuple[Kill, ...]
    undisturbed: dict[str, str]
    disturbed: dict[str, str]
    versions: dict[str, str]
    seconds: float
    losses_equal: bool

    @property
    def identical(self) -> bool:
        return self.undisturbed == self.disturbed and self.losses_equal

    def as_json(self) -> dict[str, Any]:
        return {"identical": self.identical, **asdict(self)}

    def text(self) -> str:
        verdict = "bit-identical" if self.identical else "DIFFERENT"
        by_phase: dict[str, int] = {}
        for kill in self.kills:
            by_phase[kill.phase] = by_phase.get(kill.phase, 0) + 1
        killed = ", ".join(f"{phase} {by_phase[phase]}" for phase in PHASES if phase in by_phase)
        lines = [
            f"weights of a run of {self.steps} steps that was killed {len(self.kills)} times: {verdict}",
            f"  killed at: {killed}",
            f"  job {self.identity[:16]}, {', '.join(f'{name} {one}' for name, one in self.versions.items())}",
            f"  losses of all steps: {'equal' if self.losses_equal else 'DIFFERENT'}",
        ]
        for name, digest in self.undisturbed.items():
            lines.append(f"  {name}: {digest[:16]} undisturbed, {self.disturbed.get(name, 'missing')[:16]} killed")
        return "\n".join(lines)

    def write(self, folder: Path) -> Path:
        """Keep it as JSON and as text."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"resume-{self.identity[:12]}.json"
        write_atomic(path, orjson.dumps(self.as_json(), option=orjson.OPT_INDENT_2))
        write_atomic(path.with_suffix(".txt"), self.text().encode() + b"\n")
        return path


def prove(
    config: FinetuneConfig,
    *,
    kills: int = 20,
    steps: int = 40,
    seed: int = 0,
    principal: Principal = LOCAL,
    told: Callable[[str], None] = lambda text: None,
) -> Certificate:
    """Run a job's first steps undisturbed and killed, and compare.

    Raises:
        UserError: it is to be trained on several ranks, or on a GPU, whose driver survives no fork.
        UnavailableError: an attempt failed by itself; its words are in the error.
    """
    from llmops.finetune.train import ready

    require_here(config, "a proof")
    short = _short(config, steps)
    if config.model.job is not None:
        told("the base, by its own job")
        if _forked(lambda: ready(short, principal=principal, listen=_silent)) != 0:
            ready(short, principal=principal, listen=_silent)  # the same error, in our own words
            raise UnavailableError("the base could not be made ready", where=str(config.model.job))
    job = ready(short, principal=principal, listen=_silent)
    if job.plan.device != "cpu" or job.plan.ranks > 1:
        raise UserError(
            "the proof forks one process on a CPU",
            hint="hide the GPUs: CUDA_VISIBLE_DEVICES= llmops finetune prove-resume CONFIG",
        )
    if config.task not in SUPERVISED:
        import_module("llmops.finetune.engines.trainers")  # once, for all forks
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        undisturbed, disturbed = _folder(Path(place) / "undisturbed", job), _folder(Path(place) / "killed", job)
        _attempt(job, undisturbed, None)
        told(f"undisturbed: {steps} steps")
        done = _killed(job, disturbed, kills, random.Random(seed), told)  # noqa: S311 - moments, no secrets
        return Certificate(
            job.config.identity,
            steps,
            tuple(done),
            _digests(undisturbed),
            _digests(disturbed),
            {name: version(name) for name in _PACKAGES},
            round(time.monotonic() - started, 1),
            _losses(undisturbed) == _losses(disturbed),
        )


def _short(config: FinetuneConfig, steps: int) -> FinetuneConfig:
    values = config.model_dump(mode="json")
    values["train"]["budget"] = {"steps": steps}
    values["checkpoint"] |= {"every_steps": 2, "keep": 2, "exact_resume": "require"}
    values["eval"]["every_steps"] = None
    return FinetuneConfig.model_validate(values)


def _killed(
    job: Prepared, folder: RunFolder, kills: int, chance: random.Random, told: Callable[[str], None]
) -> list[Kill]:
    """Attempts that are killed, then one that is not; every phase has its turn."""
    done: list[Kill] = []
    while len(done) < kills:
        phase = PHASES[len(done) % len(PHASES)] if chance.random() < 0.7 else "step"
        kill = Kill(phase, chance.randint(1, max(1, 2 * job.plan.steps // kills)))
        if not _attempt(job, folder, kill):
            _rewind(folder)  # it was through before the moment came: take some of it away, and go on
            continue
        done.append(replace(kill, step=_reached(folder)))
        told(f"kill {len(done)} of {kills}: {kill.phase}, step {done[-1].step}")
    _attempt(job, folder, None)
    return done


def _rewind(folder: RunFolder) -> None:
    """Take the result and all checkpoints away: the killed run begins anew, and is killed on."""
    shutil.rmtree(folder.model, ignore_errors=True)
    for path in folder.checkpoints.iterdir():
        shutil.rmtree(path)


def _attempt(job: Prepared, folder: RunFolder, kill: Kill | None) -> bool:
    """One process that trains; gives whether it was killed.

    Raises:
        UnavailableError: it ended by an error of its own.
    """
    problem = folder.path / "problem.txt"
    status = _forked(lambda: _train(job, folder, kill), problem)
    if status == -signal.SIGKILL and kill is not None:
        return True
    if status != 0:
        words = problem.read_text(encoding="utf-8") if problem.exists() else f"status {status}"
        raise UnavailableError(f"an attempt ended by itself: {words}", where=str(folder.path))
    return False


def _forked(work: Callable[[], object], problem: Path | None = None) -> int:
    """Do something in a process of its own, which does not outlive this one; gives its exit code, or -signal.

    Args:
        problem: where it writes down what went wrong.
    """
    child = os.fork()
    if child != 0:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    gc.freeze()  # to collect what the parent holds, torch and all, would copy every page of it
    words = ""
    try:
        die_with_parent()
        work()
        os._exit(0)
    except LlmopsError as error:
        words = error.what
    except BaseException:  # noqa: BLE001 - the child's own boundary: told to the parent, which raises it
        words = traceback.format_exc()
    if problem is not None:
        problem.write_text(words, encoding="utf-8")
    os._exit(1)


def _train(job: Prepared, folder: RunFolder, kill: Kill | None) -> None:
    """One attempt, in the child."""
    moment = _Moment(kill)
    record = folder.record()
    folder.update(attempts=record.attempts + 1)
    with Journal(folder, record.attempts + 1) as journal:

        def listen(event: Event) -> None:
            journal.listen(event)
            if isinstance(event, StepDone):
                moment("step")

        engine_for(job.config.task, moment).train(job, folder, listen)


class _Moment:
    """Kills its process when its time has come."""

    def __init__(self, kill: Kill | None) -> None:
        self._kill, self._left = kill, kill.after if kill else 0

    def __call__(self, phase: str) -> None:
        if self._kill is None or phase != self._kill.phase:
            return
        self._left -= 1
        if self._left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)


def _folder(path: Path, job: Prepared) -> RunFolder:
    folder = RunFolder(path)
    folder.checkpoints.mkdir(parents=True)
    folder.write("run.json", RunRecord(path.name, job.config.name, job.config.task, job.config.identity).as_json())
    return folder


def _digests(folder: RunFolder) -> dict[str, str]:
    """Of the result's weights, and of what resuming would go on from."""
    found = {path.name: file_digest(path) for path in sorted(folder.model.glob("*.safetensors"))}
    last = verified(max(folder.checkpoints.glob("step-*")))
    return found | {f"checkpoint's {path.name}": file_digest(path) for path in sorted(last.path.glob("*.safetensors"))}


def _losses(folder: RunFolder) -> list[tuple[int, float]]:
    from llmops.finetune.journal import read_metrics

    return [(line["step"], line["loss"]) for line in read_metrics(folder)]


def _reached(folder: RunFolder) -> int:
    losses = _losses(folder)
    return losses[-1][0] if losses else 0


def _silent(event: Any) -> None:
    """Nobody listens."""
