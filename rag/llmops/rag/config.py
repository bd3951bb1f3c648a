"""The rag job file: what to index, how to search it, how to answer from it.

Light to import: pydantic only. Each section is read by the module of its name.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from llmops.core.errors import ConfigError
from llmops.core.names import Name
from llmops.core.secret import check_reference
from llmops.core.state import StateConfig


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceConfig(Section):
    """A folder, a file, or a glob of documents."""

    path: str = Field(description="Folder, file or glob, relative to the working folder")
    include: tuple[str, ...] = Field((), description="Glob patterns within the folder; empty: every supported type")
    exclude: tuple[str, ...] = Field((), description="Glob patterns to leave out")
    acl: tuple[str, ...] = Field(("everyone",), description="Groups that may read these documents")
    metadata: dict[str, str | int | float | bool] = Field(default_factory=dict, description="Facts to filter by")


class ParsingConfig(Section):
    max_bytes: int = Field(200_000_000, gt=0, description="Larger files go to quarantine")
    max_text_chars: int = Field(50_000_000, gt=0, description="Longer extracted texts go to quarantine")
    memory_mb: int = Field(2048, gt=0, description="Address space of one parser process beyond its start")
    timeout_s: float = Field(60.0, gt=0, description="Longest parse of one document")
    workers: int | None = Field(None, ge=1, description="Parser processes; default: one a core, at most 4")


class ChunkingConfig(Section):
    size_chars: int = Field(800, ge=50, le=20_000, description="Most characters of a chunk")
    overlap_chars: int = Field(0, ge=0, description="Characters repeated from the chunk before, within size_chars")

    @model_validator(mode="after")
    def _overlap_leaves_room(self) -> ChunkingConfig:
        if self.overlap_chars * 2 > self.size_chars:
            raise ValueError("overlap_chars must be at most half of size_chars")
        return self


class EmbeddingConfig(Section):
    model: str = Field(
        "all-MiniLM-L6-v2", description="The packaged default, or any sentence-transformers name or folder"
    )
    backend: Literal["auto", "openvino", "torch"] = Field("auto", description="auto: the fastest exact one here")
    batch_tokens: int = Field(2048, gt=0, description="Padded tokens embedded at once")


class IndexConfig(Section):
    name: str = Field(
        "docs.index", validate_default=True, description="Name of the index; of two levels: in the catalog of --env"
    )
    sources: tuple[SourceConfig, ...] = (SourceConfig(path="docs"),)
    parsing: ParsingConfig = ParsingConfig()
    chunking: ChunkingConfig = ChunkingConfig()
    embedding: EmbeddingConfig = EmbeddingConfig()

    @field_validator("name")
    @classmethod
    def _three_levels(cls, value: str) -> str:
        return str(Name.parse(value))


class RetrievalConfig(Section):
    top_k: int = Field(8, ge=1, le=200, description="Passages an answer may draw on")
    pool: int = Field(100, ge=1, le=2000, description="Candidates taken from each of the two searches")
    dense_weight: float = Field(0.6, ge=0, le=1, description="Share of the dense score; the rest is lexical")


class LlmConfig(Section):
    """A route of the gateway, or the model of any other OpenAI-format server."""

    model: str = Field(description="Name of the gateway's route, or of the server's model")
    url: str = Field("http://127.0.0.1:4000/v1", description="Base URL; default: this machine's gateway")
    api_key: str | None = Field(None, description="A reference: env:NAME or file:PATH")
    timeout_s: float = Field(60.0, gt=0)
    max_tokens: int = Field(1024, gt=0)
    temperature: float = Field(0.0, ge=0)

    @field_validator("api_key")
    @classmethod
    def _by_reference(cls, value: str | None) -> str | None:
        try:
            return value if value is None else check_reference(value)
        except ConfigError as error:
            raise ValueError(f"{error.what}; {error.hint}") from None


class AnswerConfig(Section):
    llm: LlmConfig | None = Field(None, description="None: the built-in answerer quotes the passages")
    prompt_file: str | None = Field(None, description="A prompt of your own for the LLM; None: the built-in one")
    prompt: str | None = Field(None, description="In its place a registered one: docs.chat_prompt@champion")
    context_tokens: int = Field(3000, gt=0, description="Budget of the passages in the prompt")
    max_question_chars: int = Field(8000, gt=0)
    history_messages: int = Field(10, ge=0, description="Earlier messages used to understand a follow-up")

    @model_validator(mode="after")
    def _one_prompt(self) -> AnswerConfig:
        if self.prompt is not None and self.prompt_file is not None:
            raise ValueError("give either prompt or prompt_file")
        return self


class RagConfig(Section):
    """One rag job: `configs/rag.yaml`."""

    job: Literal["rag"] = "rag"
    name: str = Field(
        "docs.chat", validate_default=True, description="Name of the chain; of two levels: in the catalog of --env"
    )
    state: StateConfig = StateConfig()
    index: IndexConfig = IndexConfig()
    generation: Literal["pinned", "champion"] = Field(
        "pinned", description="pinned: the chain keeps the index generation it was made with; champion: it follows"
    )
    retrieval: RetrievalConfig = RetrievalConfig()
    answer: AnswerConfig = AnswerConfig()

    @field_validator("name")
    @classmethod
    def _three_levels(cls, value: str) -> str:
        return str(Name.parse(value))
