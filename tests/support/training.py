"""Small trainings: a tiny base, a few made rows, a job over both, ready to be trained, and ranks forked to train it."""

from __future__ import annotations

import gc
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
from tests.support.ports import free_port

from llmops.core.state import StateConfig
from llmops.finetune import jobs, models
from llmops.finetune.config import FinetuneConfig
from llmops.finetune.data.prepare import prepare
from llmops.finetune.engines import Prepared
from llmops.finetune.planning import plan_for
from llmops.finetune.runs import RunFolder, open_run


def rows(count: int = 48) -> list[dict[str, Any]]:
    """Short conversations, no two alike."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"what is the order of day {number}"},
                {"role": "assistant", "content": f"it is {number % 7} foxes" + " and a dog" * (number % 3)},
            ]
        }
        for number in range(count)
    ]


def config(base: Path, folder: Path, **sections: Any) -> FinetuneConfig:
    """A job over `rows`; keyword arguments are sections laid over it."""
    source = folder / "rows.jsonl"
    if not source.exists():
        source.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows()))
    values: dict[str, Any] = {
        "name": "tiny",
        "model": {"path": str(base)},
        "method": {"r": 4, "alpha": 8},
        "data": {"sources": [{"uri": str(source)}], "max_length": 96, "heldout_share": 0.2},
        "train": {"global_tokens_per_step": 384, "lr": 3e-3, "budget": {"steps": 8}},
        "checkpoint": {"every_steps": 2},
        "eval": {"max_new_tokens": 8},
        "state": {"dir": str(folder / "state")},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    return FinetuneConfig.model_validate(values)


def prepared(job: FinetuneConfig) -> Prepared:
    base = models.find_base(job.model, job.state)
    tokenizer = models.load_tokenizer(job, base)
    data = prepare(job, tokenizer, job.state)
    return Prepared(job, base, tokenizer, data, plan_for(job, base.shape, data))


def run_of(job: Prepared, name: str = "a") -> RunFolder:
    """A run's folder with the job in it."""
    state = StateConfig(dir=job.config.state.root / name)
    folder = open_run(state, name=job.config.name, task=job.config.task, identity=job.config.identity)
    jobs.write(job, folder)
    return folder


def weights(folder: RunFolder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.model.glob("*.safetensors"))}


def forked(function: Callable[[], int | None]) -> int:
    """Run in a child; gives its process id."""
    child = os.fork()
    if child:
        return child
    gc.freeze()  # to collect what the parent holds, torch and all, would copy every page of it
    code = 70
    try:
        code = function() or 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def ranks(folder: RunFolder, count: int = 2, before: Callable[[int], None] = lambda rank: None) -> list[int]:
    """Fork so many ranks of the worker; `before` is called in each. Gives their process ids."""
    from llmops.finetune import worker

    port = free_port()

    def run(rank: int) -> int:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
        log = os.open(folder.path / f"rank-{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout = sys.stderr = os.fdopen(log, "w")
        before(rank)
        return worker.main([str(folder.path)])

    return [forked(lambda rank=rank: run(rank)) for rank in range(count)]  # type: ignore[misc]
