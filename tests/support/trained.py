"""A run that is trained and evaluated already, as far as registration can tell: an adapter, or whole weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.tiny_lm import tiny_base, tiny_model, tiny_tokenizer

from llmops.core.state import StateConfig
from llmops.finetune.artefact import model_digest
from llmops.finetune.config import FinetuneConfig
from llmops.finetune.data.template import fingerprint
from llmops.finetune.models import adapt, save_model
from llmops.finetune.results import Base, DataRead, Evaluation, Result, Scored
from llmops.finetune.runs import RunFolder, open_run

NAME = "dev.support.assistant"


def job(base: Path, **more: Any) -> FinetuneConfig:
    """A job over a base that registers what it makes."""
    given: dict[str, Any] = {
        "model": {"path": str(base)},
        "method": {"r": 4, "alpha": 8},
        "data": {"sources": [{"uri": "thumbs.jsonl"}]},
        "track": {"register_as": NAME},
    }
    return FinetuneConfig.model_validate({**given, **more})


def scores(metric: str = "exact_match", *, before: float = 0.1, after: float = 0.9, n: int = 60) -> tuple[Scored, ...]:
    """A share of right answers of each model, on the same examples."""
    return (Scored(metric, _ones(after, n), _ones(before, n)),)


def trained(
    state: StateConfig, config: FinetuneConfig, *, seed: int = 1, found: tuple[Scored, ...] | None = None
) -> RunFolder:
    """A run whose result is the base with an adapter that says something else, or other whole weights."""
    import torch

    folder = open_run(state, name=config.name, task=config.task, identity=f"{seed:064d}")
    base = Path(str(config.model.path))
    model = adapt(tiny_model(seed if config.method.kind == "full" else 0), config.method, seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.5, generator=torch.Generator().manual_seed(seed))
    tokenizer = tiny_tokenizer()
    save_model(model, tokenizer, folder.model)
    found = scores() if found is None else found
    Result(
        base=Base(str(base), model_digest(base), licence="apache-2.0"),
        data=(DataRead("thumbs.jsonl", "d" * 64, 120),),
        evaluation=Evaluation(len(found[0].after), "e" * 64, found),
        template=fingerprint(tokenizer, tokenizer.chat_template),
    ).save(folder)
    return folder


def base_in(folder: Path) -> Path:
    return tiny_base(folder / "base")


def _ones(share: float, n: int) -> tuple[float, ...]:
    right = round(share * n)
    return tuple([1.0] * right + [0.0] * (n - right))
