"""One rank of a training: `python -m llmops.finetune.worker FOLDER`, started by whoever launches ranks.

Meets the others by the variables that torchrun sets (RANK, WORLD_SIZE, MASTER_ADDR, ...), trains the job of the run's
folder, and leaves: 0 done, or asked to end and saved; 1 the job is wrong; 3 a gate said no; anything else may be tried
again. The first rank keeps the journal.
"""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmops.core.errors import LlmopsError, UnavailableError, render
from llmops.finetune import jobs
from llmops.finetune.engines import Event, Listener, Trained, engine_for
from llmops.finetune.engines.signals import Stopped
from llmops.finetune.journal import Journal
from llmops.finetune.launch.meeting import MEET_WITHIN, STORE, of_attempt
from llmops.finetune.runs import RunFolder

TRAINED = "trained.json"
_UNFORESEEN, _TRY_AGAIN = 2, 75


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
        return _TRY_AGAIN if isinstance(error, UnavailableError) else error.exit_code
    except Exception:  # noqa: BLE001 - the process' boundary; a rank that another one's death ends may start again
        traceback.print_exc()
        return _UNFORESEEN
    if _rank() == 0:
        folder.write(TRAINED, asdict(trained))
    return 0


def run(folder: RunFolder, store: Any = None, listen: Listener | None = None) -> Trained:
    """Meet the other ranks, train, part.

    Args:
        store: of torch, where they meet; default: the one that the variables name.
        listen: hears what rank 0 tells, beside the journal.
    """
    import torch
    import torch.distributed as dist

    job = jobs.read(folder)
    if job.plan.device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if store is None and STORE in os.environ:
        store = of_attempt(os.environ[STORE])
    where = {} if store is None else {"store": store, "rank": _rank(), "world_size": int(os.environ["WORLD_SIZE"])}
    dist.init_process_group("nccl" if job.plan.device == "cuda" else "gloo", timeout=MEET_WITHIN, **where)
    try:
        with ExitStack() as stack:
            told: Listener = _silent
            if _rank() == 0:
                told = stack.enter_context(Journal(folder, folder.record().attempts)).then(listen or _silent)
            return engine_for(job.config.task).train(job, folder, told)
    finally:
        dist.destroy_process_group()


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _silent(event: Event) -> None:
    """Other ranks have nothing to tell."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
