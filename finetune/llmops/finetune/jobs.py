"""A prepared job on the disk, so that any process can train it: the one that prepared it, ranks, a later attempt.

job.json      the configuration and where its values came from, what was read, base, plan, git revision, versions
tokenizer/    what is trained with
"""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from llmops.core.ids import digest
from llmops.finetune.config import FinetuneConfig
from llmops.finetune.data.dataset import Dataset
from llmops.finetune.engines import Listener, Plan, Prepared, Trained, engine_for
from llmops.finetune.journal import Journal
from llmops.finetune.models import BaseModel
from llmops.finetune.quiet import quiet_transformers
from llmops.finetune.results import Base
from llmops.finetune.runs import JOB, RunFolder
from llmops.registry.gates.environment import environment

_TOKENIZER = "tokenizer"
_PACKAGES = ("llmops", "torch", "transformers", "peft", "trl", "tokenizers", "safetensors", "deepspeed")


def write(job: Prepared, folder: RunFolder, path: Path | None = None) -> None:
    """Put a job into its run's folder.

    Args:
        path: of the job file.
    """
    config = job.config.model_dump(mode="json")
    job.tokenizer.save_pretrained(folder.path / _TOKENIZER)
    folder.write(
        JOB,
        {
            "config": config,
            "hash": digest(config),
            "file": None if path is None else str(path),
            "sources": [source.as_json() for source in job.data.sources],
            "base": {
                "record": None if job.base.record is None else asdict(job.base.record),
                "folder": None if job.base.folder is None else str(job.base.folder),
                "shape": dict(job.base.shape),
            },
            "data": {"folder": str(job.data.folder), "digest": job.data.digest},
            "plan": job.plan.as_json(),
            "git": environment().git,
            "versions": _versions(),
        },
    )


def read(folder: RunFolder) -> Prepared:
    """The job of a run's folder, as it was written."""
    found = folder.read(JOB)
    config = FinetuneConfig.model_validate(found["config"])
    base = found["base"]
    record = None if base["record"] is None else Base(**base["record"])
    place = None if base["folder"] is None else Path(base["folder"])
    with quiet_transformers():
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder.path / _TOKENIZER, local_files_only=True)
    data = Dataset.load(Path(found["data"]["folder"]))
    return Prepared(config, BaseModel(record, place, base["shape"]), tokenizer, data, Plan(**found["plan"]))


def train(job: Prepared, folder: RunFolder, listen: Listener) -> Trained:
    """Train a job here, or on the ranks of its plan."""
    if job.plan.ranks == 1:
        with Journal(folder, folder.record().attempts) as journal:
            return engine_for(job.config.task).train(job, folder, journal.then(listen))
    from llmops.finetune.ranks import train_on_ranks

    return train_on_ranks(job, folder, listen)


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
