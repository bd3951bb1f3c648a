"""How versions of rag's kinds are opened for questions: a prompt in a chain, an index by itself, a chain that follows.

Found by entry point (`llmops.openers`), so that registry knows neither prompts nor indexes. Each gives the pinned
configuration of a chain; it is opened in the process that the gate confines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmops.core.errors import UserError, did_you_mean
from llmops.rag.answer.prompt import DEFAULT_PROMPT
from llmops.rag.config import AnswerConfig, RetrievalConfig
from llmops.rag.following import generation_of
from llmops.rag.packaging import FORMAT, OPENER, at_generation

if TYPE_CHECKING:
    from llmops.registry.assets import Registry
    from llmops.registry.gates.plugins import Opening
    from llmops.registry.records import Version

_PASSAGES = 10


def open_chain_version(version: Version, registry: Registry, through: Mapping[str, Any]) -> Opening | None:
    """A chain is opened by its own files, but one that follows its index: that is pinned to today's champion.

    Raises:
        NotFoundError: the index has no champion.
    """
    from llmops.registry.gates.plugins import Opening

    _only(through)
    configuration = _configuration(version, registry)
    if configuration is None or configuration["index"]["generation"] is not None:
        return None
    return Opening(OPENER, *_pinned(configuration, registry))


def open_prompt(version: Version, registry: Registry, through: Mapping[str, Any]) -> Opening:
    """A prompt answers through a chain (`chain: docs.chat@champion`) in which it takes the place of the chain's own.

    Raises:
        UserError: no chain is named, or that is none of ours, or asks no model.
        NotFoundError: there is no such chain.
    """
    from llmops.registry.gates.plugins import Opening

    _only(through, "chain")
    if not isinstance(through.get("chain"), str):
        hint = "questions: {through: {chain: docs.chat@champion}}"
        raise UserError(f"say which chain `{version.ref}` is asked through", where="questions.through", hint=hint)
    chain = registry.resolve(through["chain"])
    configuration = _configuration(chain, registry)
    if configuration is None:
        raise UserError(f"`{chain.ref}` is no chain that a prompt can be put into", where="questions.through.chain")
    if configuration["answer"]["llm"] is None:
        hint = "name one in `answer.llm` of its configuration"
        raise UserError(f"`{chain.ref}` asks no model: no prompt changes its answers", where="answer.llm", hint=hint)
    facts = {"chain": str(chain.ref), "digest": chain.digest}
    if configuration["index"]["generation"] is None:
        configuration, more = _pinned(configuration, registry)
        facts |= more
    prompt = {"ref": str(version.ref), "text": registry.load_prompt(version)}
    return Opening(OPENER, {**configuration, "prompt": prompt}, facts)


def open_index(version: Version, registry: Registry, through: Mapping[str, Any]) -> Opening:
    """An index answers through the plainest chain: its ten best passages (`top_k`), quoted; no model is asked."""
    from llmops.registry.gates.plugins import Opening

    _only(through, "top_k", "dense_weight")
    retrieval = RetrievalConfig.model_validate({"top_k": _PASSAGES, **through})
    name = version.source.partition("#")[0].rpartition("/")[2]
    configuration = {
        "format": FORMAT,
        "index": {"name": name, "generation": generation_of(version.source, name)},
        "embedder": None,
        "prompt": {"ref": None, "text": DEFAULT_PROMPT.text},
        "retrieval": retrieval.model_dump(mode="json"),
        "answer": AnswerConfig().model_dump(mode="json", exclude={"prompt", "prompt_file"}),
        "state": {},
    }
    return Opening(OPENER, configuration)


def _configuration(version: Version, registry: Registry) -> dict[str, Any] | None:
    """What a chain of ours pins; None for any other."""
    from llmops.registry.load import describe, opener_of, pinned

    if version.artifact_digest is None:
        return None
    described = describe(registry.files(version))
    return pinned(described) if opener_of(described) == OPENER else None


def _pinned(configuration: Mapping[str, Any], registry: Registry) -> tuple[dict[str, Any], dict[str, Any]]:
    """A following chain's configuration at today's champion of its index, and which that is."""
    name = configuration["index"]["name"]
    index = registry.resolve(f"{name}@champion")
    return at_generation(configuration, generation_of(index.source, name)), {"index": str(index.ref)}


def _only(through: Mapping[str, Any], *known: str) -> None:
    unknown = next((key for key in through if key not in known), None)
    if unknown is not None:
        raise UserError(f"unknown key `{unknown}`", where="questions.through", hint=did_you_mean(unknown, known))
