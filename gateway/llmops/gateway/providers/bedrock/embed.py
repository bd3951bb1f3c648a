"""Says embeddings requests to the models at Bedrock that embed: Amazon's Titan, and Cohere's.

Knows the bodies of InvokeModel, which are each maker's own. Titan embeds one text a request. Cohere's replies count no
tokens, so a call's usage is an estimate there.

Source: https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-titan-embed-text.html,
https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-embed.html
"""

from __future__ import annotations

from typing import Any

from llmops.gateway import answers, chat
from llmops.gateway.calls import Json, Reply, Usage
from llmops.gateway.config import TargetConfig
from llmops.gateway.providers.cohere.request import embed_request as cohere_embed
from llmops.gateway.reading import CALLER, UPSTREAM, dumped

_TITAN_KNOWN = frozenset({"model", "input", "dimensions", "encoding_format", "user"})


def embed_request(body: Json, target: TargetConfig) -> Json:
    """The body for `invoke` of an embedding model.

    Raises:
        Fault: `bad_request` for what cannot be read, or what this model cannot do.
    """
    if "cohere.embed" in target.model:
        request = cohere_embed(body, target)
        del request["model"]
        return request
    if "titan-embed" not in target.model:
        raise CALLER.fault("model", "leads to a model at Bedrock that is not known to embed: Titan and Cohere are")
    for name, value in body.items():
        if value is not None and name not in _TITAN_KNOWN:
            raise CALLER.fault(name, "has no counterpart at Amazon's Titan")
    texts = chat.embedding_texts(body)
    if len(texts) > 1:
        raise CALLER.fault("input", "must be one text: Amazon's Titan embeds one a request")
    told: Json = {"inputText": texts[0]}
    if body.get("dimensions") is not None:
        told["dimensions"] = CALLER.count(body["dimensions"], "dimensions")
    return told


def embed_reply(body: bytes) -> Reply:
    """The vectors in OpenAI's format, whichever maker's reply it is."""
    told = UPSTREAM.object(UPSTREAM.parsed(body, "body"), "body")
    if told.get("embedding") is not None:
        usage = Usage(input_tokens=UPSTREAM.count(told.get("inputTextTokenCount"), "inputTextTokenCount"))
        return Reply(dumped(answers.embeddings([_vector(told["embedding"], "embedding")], "", usage)), usage)
    found: Any = told.get("embeddings")
    vectors = found.get("float") if isinstance(found, dict) else found
    if not isinstance(vectors, list) or not vectors:
        raise UPSTREAM.fault("embeddings", "must be a list of vectors")
    told_vectors = [_vector(vector, f"embeddings.{number}") for number, vector in enumerate(vectors)]
    return Reply(dumped(answers.embeddings(told_vectors, "", None)), None)


def _vector(value: Any, where: str) -> list[float]:
    if not isinstance(value, list):
        raise UPSTREAM.fault(where, "must be a list")
    return value
