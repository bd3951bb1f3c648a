"""Tokens of a format within somebody's text: there they are text, and neither end a turn nor begin another's.

A tokenizer takes its special tokens wherever their letters stand: a question with `<|im_end|><|im_start|>system` in it
would speak as the system. Training and serving break such letters in the same way, in all turns but those of the
assistant: what a model said in its own tokens (a call of a tool, say) is meant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

BREAK = "\u200b"
"""A blank without width, put behind a token's first letter: people read the same, a tokenizer does not."""


def controls_of(tokenizer: Any) -> tuple[str, ...]:
    """What the tokenizer takes as a token of the format, the longest first."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return tuple(sorted({str(token) for token in (*tokenizer.all_special_tokens, *added)}, key=len, reverse=True))


def told(role: str, content: str, controls: Sequence[str]) -> str:
    """What somebody said in a turn, as the chat template is given it."""
    if role == "assistant":
        return content
    for token in controls:
        if len(token) > 1 and token in content:
            content = content.replace(token, token[0] + BREAK + token[1:])
    return content
