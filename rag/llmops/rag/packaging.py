"""Makes a registered version of a chain, and a chain of a registered version: all that decides its answers is pinned.

Pinned are the index with its generation, the embedder, the prompt, and the settings of retrieval and answering; secrets
stay references, and the state's place is the loader's. Knows the registry's door; MLflow itself is the registry's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops.core.chain import Chain, ChainContext, Message
from llmops.core.errors import IntegrityError, NotFoundError, UserError
from llmops.core.ids import digest
from llmops.core.llm import LlmClient, LlmEndpoint
from llmops.core.names import Name
from llmops.core.state import StateConfig
from llmops.rag.answer.asked import Answerer
from llmops.rag.answer.condense import condense_by_llm, condense_by_rule
from llmops.rag.answer.llm import LlmAnswerer
from llmops.rag.answer.prompt import DEFAULT_PROMPT, PromptTemplate
from llmops.rag.answer.quoting import QuotingAnswerer
from llmops.rag.chain import ChainParts, Condense, RagChain
from llmops.rag.config import AnswerConfig, RagConfig, RetrievalConfig
from llmops.rag.hops import LlmPlanner
from llmops.rag.joined import JoinedRetriever, Member
from llmops.rag.manifest import CURRENT, Manifest
from llmops.rag.refine import CrossScores
from llmops.rag.retrieve import QueryEmbedder, Retriever
from llmops.rag.section import LlmConfig
from llmops.rag.selfquery import SelfQuery

if TYPE_CHECKING:
    from llmops.registry.assets import Registry
    from llmops.registry.records import Version

OPENER = "llmops.rag.packaging:open_chain"
FORMAT = 1
"""Of the pinned configuration. Rises when an older one can no longer be read."""
ANSWERING = 2
"""Rises when the same configuration would answer otherwise: it is part of a chain's digest."""
QUOTING = "llmops/quoting"


@dataclass(frozen=True)
class Registered:
    """The versions that one registration came to, new or known."""

    chain: Version
    prompt: Version
    index: Version


def register_chain(
    config: RagConfig, registry: Registry, *, crown_first: bool = True, description: str = ""
) -> Registered:
    """Register the prompt, the index's generation and the chain; what is unchanged keeps the version it has.

    Args:
        crown_first: whether the very first version of each becomes champion; not where gates are to come first.
        description: what the chain is for.

    Raises:
        NotFoundError: the index was never ingested to its end, or the prompt is not registered.
        UserError: the prompt file is missing or unfit.
    """
    from llmops.registry.lineage import Edge, Relation
    from llmops.registry.records import Candidate, CodeModel, Kind

    prompt, prompt_version = _prompt(config, registry, crown_first=crown_first)
    place = _index_place(config.state, config.index.name)
    places = [place, *(_index_place(config.state, other.name) for other in config.also)]
    index_version, *others = [_register_index(place, registry, crown_first=crown_first) for place in places]
    pinned = _pinned(config, places, prompt, str(prompt_version.ref))
    chain_version = registry.register(
        Candidate(
            Kind.CHAIN,
            Name.parse(config.name),
            CodeModel(
                Path(__file__).with_name("model.py"),
                model_config=pinned,
                requirements=(_requirement(),),
                opener=OPENER,
            ),
            digest=digest({**pinned, "answering": ANSWERING}),
            description=description,
            params=_shown(pinned, str(index_version.ref)),
        ),
        crown_first=crown_first,
    )
    ref = str(chain_version.ref)
    registry.link(
        [
            Edge(str(prompt_version.ref), Relation.PROMPT, ref),
            *(
                Edge(str(version.ref), Relation.INDEX, ref, {"generation": place["generation"]})
                for version, place in zip((index_version, *others), places, strict=True)
            ),
        ]
    )
    return Registered(chain_version, prompt_version, index_version)


def _register_index(place: Mapping[str, Any], registry: Registry, *, crown_first: bool) -> Version:
    from llmops.registry.records import Candidate, Kind, Pointer

    return registry.register(
        Candidate(
            Kind.INDEX,
            Name.parse(place["name"]),
            Pointer(f"index/{place['name']}#{place['generation']}"),
            digest=digest({"index": place["name"], "generation": place["generation"]}),
            description="a generation of the index; its refreshes are commits within it",
            params=dict(place),
        ),
        crown_first=crown_first,
    )


def open_chain(configuration: Mapping[str, Any]) -> Chain:
    """The chain of a pinned configuration, ready to answer; one that pins no generation follows the index's champion.

    Raises:
        NotFoundError: the pinned generation is not in this state, or the index has no champion.
        IntegrityError: its vectors were made by another embedder than the one pinned.
    """
    if configuration.get("format") != FORMAT:
        raise UserError(
            f"this chain's configuration has format {configuration.get('format')}; {FORMAT} is read here",
            hint="register the chain again",
        )
    if configuration["index"]["generation"] is not None:
        return _open_pinned(configuration)
    from llmops.rag.following import AliasedIndex, FollowingChain

    place = AliasedIndex(StateConfig(**configuration["state"]), configuration["index"]["name"])
    return FollowingChain(place, lambda generation: _open_pinned(at_generation(configuration, generation)))


def at_generation(configuration: Mapping[str, Any], generation: str) -> dict[str, Any]:
    """A configuration that pins no generation, pinned to one."""
    return {**configuration, "index": {**configuration["index"], "generation": generation}}


def _open_pinned(configuration: Mapping[str, Any]) -> RagChain:
    from llmops.rag.embed import open_embedder
    from llmops.rag.index import open_index

    state = StateConfig(**configuration["state"])
    embedders: dict[str, QueryEmbedder] = {}
    opened = ExitStack()

    def member(name: str, generation: str, embedder: str | None, weight: float) -> Member:
        held = open_index(state, name, generation)
        opened.callback(held.close)
        spec = held.reader().embedder_spec
        if embedder not in (None, spec.fingerprint):
            raise IntegrityError(
                "the index's vectors were made by another embedder than the chain was registered with",
                where=name,
                hint="run `llmops ingest`, then register the chain again",
            )
        if spec.fingerprint not in embedders:
            embedders[spec.fingerprint] = open_embedder(spec, state.cache)
        return Member(name, Retriever(held.reader, embedders[spec.fingerprint]), held.reader, spec.fingerprint, weight)

    try:
        index = configuration["index"]
        first = member(index["name"], index["generation"], configuration["embedder"], 1.0)
        members = [first, *(member(**one) for one in configuration.get("also", ()))]
        return assemble(configuration, first.reader, embedders[first.embedder], opened.close, members)
    except BaseException:
        opened.close()
        raise


def assemble(
    configuration: Mapping[str, Any],
    reader: Any,
    embedder: QueryEmbedder,
    close_index: Any = lambda: None,
    members: Sequence[Member] = (),
) -> RagChain:
    """Put a chain together from its pinned configuration and what it reads.

    Args:
        reader: gives the current `SearchIndex`.
        members: all the indexes that it asks, the first being `reader`'s, where there are several.
    """
    answer = AnswerConfig(**configuration["answer"])
    retrieval = RetrievalConfig(**configuration["retrieval"])
    retriever: Retriever | JoinedRetriever = Retriever(reader, embedder, retrieval, _cross(retrieval))
    if len(members) > 1:
        joined = JoinedRetriever(members, retrieval, _cross(retrieval))
        retriever, reader = joined, joined.joined
    answerer: Answerer
    condense: Condense
    client = None
    if answer.llm is None:
        answerer, condense = QuotingAnswerer(embedder), _by_rule
    else:
        client = LlmClient(_endpoint(answer.llm), private=True)  # its prompts hold what one requester may read
        prompt = PromptTemplate.parse(configuration["prompt"]["text"])
        answerer, condense = LlmAnswerer(client, prompt, embedder, answer.context_tokens), _by_llm(client)

    def close() -> None:
        close_index()
        if client is not None:
            client.close()

    return RagChain(
        ChainParts(
            reader=reader,
            retriever=retriever,
            answerer=answerer,
            condense=condense,
            config=answer,
            version_info=version_info(configuration),
            planner=LlmPlanner(client) if client is not None else None,
            self_query=SelfQuery(client, retrieval.self_query.facts) if client and retrieval.self_query else None,
            close=close,
        )
    )


def version_info(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """What a log row says about the chain that answered."""
    llm = configuration["answer"].get("llm")
    return {
        "prompt_version": configuration["prompt"]["ref"] if llm else None,
        "index_version": configuration["index"]["name"],
        "generation": configuration["index"]["generation"],
        "model": llm["model"] if llm else QUOTING,
    }


def load_prompt(config: AnswerConfig) -> PromptTemplate:
    """The configured prompt, or the built-in one.

    Raises:
        UserError: the file is missing or unfit.
    """
    if config.prompt_file is None:
        return DEFAULT_PROMPT
    try:
        text = Path(config.prompt_file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("the prompt file cannot be read", where=config.prompt_file, hint=str(error)) from None
    return PromptTemplate.parse(text)


def _prompt(config: RagConfig, registry: Registry, *, crown_first: bool) -> tuple[PromptTemplate, Version]:
    """The chain's prompt and its version: the registered one that is named, or the file's, registered with it."""
    from llmops.registry.records import Candidate, Kind, PromptText

    if config.answer.prompt is not None:
        version = registry.resolve(config.answer.prompt)
        return PromptTemplate.parse(registry.load_prompt(version)), version
    prompt = load_prompt(config.answer)
    name, said = Name.parse(f"{config.name}_prompt"), f"how {config.name} words its answers"
    candidate = Candidate(Kind.PROMPT, name, PromptText(prompt.text), description=said)
    return prompt, registry.register(candidate, crown_first=crown_first)


def _index_place(state: StateConfig, name: str) -> dict[str, Any]:
    """The generation that the index is at, and what it was made with, from the manifest alone.

    Raises:
        NotFoundError: the index was never ingested to its end.
    """
    manifest = Manifest.open(state, name)
    try:
        generation = manifest.fact(CURRENT)
        if generation is None:
            raise NotFoundError(f"the index `{name}` has no generation yet", hint="run `llmops ingest`")
        settings = manifest.settings(manifest.generation(generation))
    finally:
        manifest.close()
    made = {key: value for key, value in settings.items() if key != "embedder_spec"}
    spec = settings.get("embedder_spec") or {}
    return {"name": name, "generation": generation, **made, "model": spec.get("model")}


def _pinned(
    config: RagConfig, places: Sequence[Mapping[str, Any]], prompt: PromptTemplate, prompt_ref: str
) -> dict[str, Any]:
    answer = config.answer.model_dump(mode="json", exclude={"prompt_file", "prompt"})
    pins = config.generation == "pinned"
    place, *others = places
    also = [
        {"name": one["name"], "generation": one["generation"], "embedder": one["embedder"], "weight": other.weight}
        for one, other in zip(others, config.also, strict=True)
    ]
    return {
        **({"also": also} if also else {}),
        "format": FORMAT,
        "name": config.name,
        "index": {"name": place["name"], "generation": place["generation"] if pins else None},
        "embedder": place["embedder"] if pins else None,
        "prompt": {"ref": prompt_ref, "text": prompt.text},
        "retrieval": config.retrieval.model_dump(mode="json"),
        "answer": answer,
        "state": {},
    }


def _shown(pinned: Mapping[str, Any], index_ref: str) -> dict[str, Any]:
    """What is worth comparing between versions; the key's reference is nobody's business."""
    llm = pinned["answer"]["llm"]
    return {
        "index_version": index_ref,
        "generation": pinned["index"]["generation"] or "champion",
        "embedder": pinned["embedder"],
        "prompt_version": pinned["prompt"]["ref"],
        "model": llm["model"] if llm else QUOTING,
        **{f"retrieval.{key}": value for key, value in pinned["retrieval"].items()},
        **{f"answer.{key}": value for key, value in pinned["answer"].items() if key != "llm"},
    }


def _requirement() -> str:
    """This package at this version; run from a source tree that is not installed, it has none."""
    try:
        return f"llmops[rag]=={package_version('llmops')}"
    except PackageNotFoundError:
        return "llmops[rag]"


def _endpoint(llm: LlmConfig) -> LlmEndpoint:
    return LlmEndpoint(llm.url, llm.model, api_key=llm.api_key, timeout_s=llm.timeout_s)


def _cross(config: RetrievalConfig) -> CrossScores | None:
    if config.rerank is None:
        return None
    from llmops.rag.embed.cross import open_cross_encoder

    return open_cross_encoder(config.rerank.model)


def _by_rule(question: str, history: Sequence[Message], context: ChainContext) -> str:
    return condense_by_rule(question, history)


def _by_llm(client: LlmClient) -> Condense:
    return lambda question, history, context: condense_by_llm(question, history, client, context)
