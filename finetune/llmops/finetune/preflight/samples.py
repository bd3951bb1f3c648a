"""Rows as the model reads them, for eyes: each token, and whether it is learned. In colour for terminals, and as HTML.

What a row says is data: control characters are shown, never sent to the terminal, and markup is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from llmops.finetune.data.dataset import Dataset
from llmops.finetune.data.examples import Tokens

_LEARNED, _READ, _RESET = ("\x1b[30;42m", "\x1b[30;102m"), ("\x1b[2m", "\x1b[2;4m"), "\x1b[0m"
_LEGEND = "learned tokens are green, the others dim; shades alternate from token to token"


def samples(dataset: Dataset, count: int = 8) -> list[Tokens]:
    """A few rows, evenly spread."""
    size = len(dataset.rows)
    return [dataset.rows[place * size // min(count, size)] for place in range(min(count, size))]


def as_ansi(rows: Sequence[Tokens], tokenizer: Any) -> str:
    """For a terminal: `samples.txt` of a run."""
    blocks = [_LEGEND]
    for row in rows:
        shown = "".join(
            f"{(_LEARNED if supervised else _READ)[place % 2]}{_visible(text)}{_RESET}"
            for place, (text, supervised) in enumerate(_texts(row, tokenizer))
        )
        blocks.append(f"{_heading(row)}\n{shown}")
    return "\n\n".join(blocks) + "\n"


def as_html(rows: Sequence[Tokens], tokenizer: Any) -> str:
    """For a page: elements with classes `learned` and `read`, no style and no script."""
    blocks = []
    for row in rows:
        shown = "".join(
            f'<span class="{"learned" if supervised else "read"}" title="{token}">{escape(_visible(text))}</span>'
            for token, (text, supervised) in zip(row.ids, _texts(row, tokenizer), strict=True)
        )
        blocks.append(f"<figure><figcaption>{escape(_heading(row))}</figcaption><pre>{shown}</pre></figure>")
    return "\n".join(blocks)


def _heading(row: Tokens) -> str:
    return f"{row.id[:12]}: {len(row.ids)} tokens, {sum(row.supervised[1:])} learned"


def _texts(row: Tokens, tokenizer: Any) -> list[tuple[str, bool]]:
    texts = tokenizer.batch_decode([[one] for one in row.ids], clean_up_tokenization_spaces=False)
    return list(zip(texts, row.supervised, strict=True))


def _visible(text: str) -> str:
    """Line feeds are shown and kept, other control characters are shown only."""
    return "".join("⏎\n" if one == "\n" else one if one.isprintable() else repr(one)[1:-1] for one in text)
