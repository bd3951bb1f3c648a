"""Counts tokens without a tokenizer: an LLM behind a URL does not tell which one it uses."""

from __future__ import annotations


def estimate_tokens(text: str) -> int:
    """About how many tokens a text costs: four ASCII characters, or one other, make one.

    Source: the rule of thumb of https://help.openai.com/en/articles/4936856; the second half errs on the safe side.
    """
    ascii_chars = sum(map(str.isascii, text)) if not text.isascii() else len(text)
    return -(-ascii_chars // 4) + len(text) - ascii_chars
