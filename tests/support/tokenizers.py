"""A small tokenizer and jobs for it, made on the spot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from llmops.finetune.config import FinetuneConfig

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m['content'] + '<|im_end|>' }}"
    "{% endif %}{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_SPECIALS = ("<|pad|>", "<|begin|>", "<|im_start|>", "<|im_end|>")


@cache
def _trained() -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    found = Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=list(_SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    found.train_from_iterator(["assistant user system\n\n\n hello world how are you today"] * 9, trainer)
    return str(found.to_str())


def byte_tokenizer(template: str | None = CHATML, **tokens: str | None) -> Any:
    """Byte-level BPE whose merges cross line feeds; `tokens` replace the special ones."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    chosen = {"eos_token": "<|im_end|>", "pad_token": "<|pad|>"} | tokens
    known = {name: token for name, token in chosen.items() if token is not None}
    found = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(_trained()), **known)
    found.chat_template = template
    return found


def finetune_job(*files: Path | str, task: str = "sft", **data: Any) -> FinetuneConfig:
    """A job over these files."""
    sources = data.pop("sources", [{"uri": str(file)} for file in files])
    values = {"sources": sources, "max_length": 64, "heldout_share": 0.0, **data}
    train = {"global_tokens_per_step": 4 * values["max_length"]}
    return FinetuneConfig.model_validate({"task": task, "model": {"path": "tiny"}, "data": values, "train": train})


def chat(asked: str, answer: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}], **more}


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
