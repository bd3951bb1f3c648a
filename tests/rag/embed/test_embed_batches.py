"""Every text lands in one batch, whole up to the limit, and no batch outgrows its budget."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from llmops.rag.embed.batches import Tokens

PAD, UNKNOWN = 0, 1


def tokens(budget: int, max_length: int = 24) -> Tokens:
    tokenizer = Tokenizer(WordLevel({"[PAD]": PAD, "[UNK]": UNKNOWN, "a": 2, "b": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.enable_padding(length=7)
    return Tokens(tokenizer, max_length=max_length, pad_id=PAD, batch_tokens=budget)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.sampled_from(["a", "b", "c"]), max_size=40), max_size=40), st.integers(1, 200))
def test_each_text_once_whole_and_within_the_budget(words: list[list[str]], budget: int) -> None:
    seen: dict[int, list[int]] = {}
    for batch in tokens(budget).batches([" ".join(text) for text in words]):
        assert batch.ids.shape == batch.mask.shape
        assert batch.ids.size <= budget or len(batch.places) == 1
        for place, ids, mask in zip(batch.places, batch.ids, batch.mask, strict=True):
            assert place not in seen
            count = int(mask.sum())
            assert mask[:count].all()
            assert (ids[count:] == PAD).all()
            seen[int(place)] = ids[:count].tolist()
    number = {"a": 2, "b": 3, "c": UNKNOWN}
    assert seen == {place: [number[word] for word in text[:24]] for place, text in enumerate(words)}


def test_widths_are_few() -> None:
    texts = ["a " * length for length in range(1, 200)]
    widths = {batch.ids.shape[1] for batch in tokens(1, max_length=128).batches(texts)}
    assert widths == set(range(16, 129, 16))


def test_short_texts_are_not_padded_to_the_longest_of_few() -> None:
    texts = ["a " * 100, *["a " * 10] * 9]
    shapes = [batch.ids.shape for batch in tokens(2048, max_length=128).batches(texts)]
    assert shapes == [(1, 112), (9, 16)]


def test_a_little_padding_is_cheaper_than_another_batch() -> None:
    texts = ["a " * 40, "a " * 30, "a " * 20]
    assert [batch.ids.shape for batch in tokens(2048, max_length=128).batches(texts)] == [(3, 48)]


def test_a_text_without_tokens_is_a_row_of_padding() -> None:
    (batch,) = tokens(64).batches([""])
    assert batch.ids.shape == (1, 16)
    assert not np.any(batch.mask)
