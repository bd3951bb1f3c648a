"""Whatever backend was chosen, its vectors are sentence-transformers', in order, for any text, from any thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmops.core.errors import IntegrityError
from llmops.rag.embed import Embedder, EmbedderSpec
from llmops.rag.embed.exact import MOST_COSINE_ERROR, PROBES, cosine_error
from llmops.rag.embed.loader import ModelFiles
from llmops.rag.embed.torch import TorchEmbedder

Reference = Callable[[list[str]], np.ndarray]

HARD = [
    "",
    " \n\t ",
    "a",
    "NUL \0 inside",
    "👩‍🚀🚀 emoji 🇨🇭",
    "ﬁne ligatures, CAFÉ, cafe\u0301, İstanbul",
    "日本語の文章。",
    "عربي עברית हिन्दी ไทย",
    "one " * 255,
    "one " * 5000,
    "x" * 90_000,
    "\u200b\u202e zero width and right to left",
]


def test_vectors_are_the_loaders_own(embedder: Embedder, reference: Reference) -> None:
    texts = [*HARD, *PROBES]
    vectors = embedder.embed(texts)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(texts), embedder.dimension)
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-6
    assert cosine_error(reference(texts), vectors) <= MOST_COSINE_ERROR


def test_a_question_is_embedded_as_the_same_text_is(embedder: Embedder, reference: Reference) -> None:
    for text in HARD:
        vector = embedder.embed_query(text)
        assert vector.shape == (embedder.dimension,)
        assert cosine_error(reference([text]), vector[None]) <= MOST_COSINE_ERROR


def test_nothing_embeds_to_nothing(embedder: Embedder) -> None:
    assert embedder.embed([]).shape == (0, embedder.dimension)


def test_half_a_surrogate_pair_embeds_as_a_replacement(embedder: Embedder) -> None:
    assert cosine_error(embedder.embed(["a ? b"]), embedder.embed(["a \ud800 b"])) < 1e-6


def test_a_long_job_gives_what_short_ones_give_and_tells_its_progress(embedder: Embedder) -> None:
    texts = [f"{PROBES[n % len(PROBES)][:300]} number {n}" for n in range(400)]
    told: list[int] = []
    embedder.embed(["long enough for the second compilation " * 50] * 90)
    vectors = embedder.embed(texts, told.append)
    assert sum(told) == len(texts)
    assert len(told) > 1
    for place in (0, 1, 250, 399):
        assert cosine_error(embedder.embed_query(texts[place])[None], vectors[place : place + 1]) < MOST_COSINE_ERROR


def test_a_question_s_sentences_never_queue_for_long_jobs(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    """One caller at a time and one core for a batch: right for an ingest, and what 50 askers waited for."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a long job")

    monkeypatch.setattr(embedder, "_run_job", refuse, raising=False)
    assert embedder.embed(["a sentence of many " * 400] * 32).shape == (32, embedder.dimension)


def test_a_listener_that_raises_ends_the_work_and_harms_nothing(embedder: Embedder) -> None:
    def refuse(_count: int) -> None:
        raise KeyboardInterrupt

    for texts in (["short"], ["a long job " * 40] * 100):
        with pytest.raises(KeyboardInterrupt):
            embedder.embed(texts, refuse)
    assert cosine_error(embedder.embed(["after"]), embedder.embed_query("after")[None]) < 1e-5


def test_threads_do_not_mix_their_texts(embedder: Embedder) -> None:
    texts = [f"question number {n} about {PROBES[n % 20]}" for n in range(64)]
    alone = np.stack([embedder.embed_query(text) for text in texts])
    with ThreadPoolExecutor(8) as pool:
        bulk = pool.submit(embedder.embed, texts)
        asked = np.stack(list(pool.map(embedder.embed_query, texts)))
        assert cosine_error(alone, bulk.result()) < MOST_COSINE_ERROR
    assert cosine_error(alone, asked) < 1e-5


def test_the_torch_backend_is_the_loader_itself(
    spec: EmbedderSpec, files: ModelFiles, loaded: Any, reference: Reference
) -> None:
    torch_spec = replace(spec, backend="torch", precision="f32", device="cpu")
    embedder = TorchEmbedder(torch_spec, files, batch_tokens=512, model=loaded)
    told: list[int] = []
    vectors = embedder.embed(HARD, told.append)
    assert sum(told) == len(HARD)
    assert cosine_error(reference(HARD), vectors) < 1e-6
    assert cosine_error(reference(["one"]), embedder.embed_query("one")[None]) < 1e-6
    assert cosine_error(embedder.embed(["a ? b"]), embedder.embed(["a \ud800 b"])) < 1e-6


def test_the_torch_backend_refuses_other_files(spec: EmbedderSpec, files: ModelFiles) -> None:
    with pytest.raises(IntegrityError, match="have changed"):
        TorchEmbedder(replace(spec, backend="torch", files_sha256="0" * 64), files, batch_tokens=512)


def test_a_real_cross_encoder_scores_pairs(tmp_path: Path) -> None:
    """Here, where its libraries have been imported."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    from llmops.rag.embed.cross import open_cross_encoder

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "pump", "moves", "water", "gardens", "flowers"]
    split = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    split.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=split, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(tmp_path)
    shape = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        num_labels=1, max_position_embeddings=64, initializer_range=1.0,
    )  # fmt: skip
    BertForSequenceClassification(shape).save_pretrained(tmp_path, safe_serialization=True)
    scores = open_cross_encoder(str(tmp_path))("the pump", ["moves water", "gardens flowers", "moves water"])
    assert scores.shape == (3,)
    assert scores.dtype == np.float32
    assert scores[0] == pytest.approx(scores[2])
    assert scores[0] != scores[1]
