"""One rank of a training: `python -m llmops.finetune.worker FOLDER`, started by whoever launches ranks.

Meets the others by the variables that torchrun sets (RANK, WORLD_SIZE, MASTER_ADDR, ...), trains the job of the run's
folder, and leaves: 0 done, or asked to end and saved; 1 the job is wrong; 3 a gate said no; anything else may be tried
again. The first rank keeps the journal.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

from llmops.core.errors import LlmopsError, render
from llmops.finetune import jobs
from llmops.finetune.engines import Event, Listener, Trained, engine_for
from llmops.finetune.engines.signals import Stopped
from llmops.finetune.journal import Journal
from llmops.finetune.runs import RunFolder

TRAINED = "trained.json"
_MEET_WITHIN = timedelta(minutes=30)


def main(arguments: list[str]) -> int:
    """Run one rank; gives its exit code, having said what was wrong."""
    folder = RunFolder(Path(arguments[0]))
    try:
        trained = run(folder)
    except Stopped as stopped:
        print(render(stopped), file=sys.stderr)
        return 0
    except LlmopsError as error:
        print(render(error), file=sys.stderr, flush=True)
        return error.exit_code
    if _rank() == 0:
        folder.write(TRAINED, asdict(trained))
    return 0


def run(folder: RunFolder) -> Trained:
    """Meet the other ranks, train, part."""
    import torch
    import torch.distributed as dist

    job = jobs.read(folder)
    if job.plan.device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if job.plan.device == "cuda" else "gloo", timeout=_MEET_WITHIN)
    try:
        with ExitStack() as stack:
            listen: Listener = _silent
            if _rank() == 0:
                listen = stack.enter_context(Journal(folder, folder.record().attempts)).listen
            return engine_for(job.config.task).train(job, folder, listen)
    finally:
        dist.destroy_process_group()


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _silent(event: Event) -> None:
    """Other ranks have nothing to tell."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
