"""The rag job file: what to index, how to search it, how to answer from it.

Light to import: pydantic only. Each section is read by the module of its name.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from llmops.core.names import Name
from llmops.core.state import StateConfig
from llmops.rag.facts.config import FactsConfig
from llmops.rag.facts.patterns import checked
from llmops.rag.section import LlmConfig, Section, reference


class Labels(Section):
    """What every source says of its documents."""

    acl: tuple[str, ...] = Field(("everyone",), description="Groups that may read these documents")
    metadata: dict[str, str | int | float | bool] = Field(default_factory=dict, description="Facts to filter by")


class Placed(Labels):
    """A source whose documents have paths, which may tell facts of them."""

    facts_from_path: tuple[str, ...] = Field(
        (), description="Patterns over the path within the source: `{team}/{year:int}/**`; `metadata` stands above"
    )

    _patterns = field_validator("facts_from_path")(checked)


class Files(Placed):
    """A source of files, which patterns choose from, and whose own file may say who reads what."""

    include: tuple[str, ...] = Field((), description="Glob patterns within the source; empty: every supported type")
    exclude: tuple[str, ...] = Field((), description="Glob patterns to leave out")
    acl_file: str | None = Field(
        None, description="YAML file within the source: a list of `path` (pattern) and `groups`; the last match decides"
    )


class FolderSource(Files):
    """A folder, a file, or a glob of documents."""

    path: str = Field(description="Folder, file or glob, relative to the working folder")


class Remote(Section):
    """What every source beyond this machine needs to be told."""

    private: bool = Field(False, description="Allow private, link-local and loopback addresses")
    timeout_s: float = Field(30.0, gt=0, description="Patience with each answer")


class GitSource(Files, Remote):
    """The files of one branch of a git repository."""

    git: str = Field(description="https://, ssh:// or git:// URL, user@host:path, or a folder of this machine")
    branch: str | None = Field(None, description="Branch or tag; default: the repository's own default branch")
    path: str = Field("", description="Folder within the repository")
    token: str | None = Field(None, description="Reference to a token for https: env:NAME or file:PATH")

    @field_validator("git")
    @classmethod
    def _plain_transport(cls, value: str) -> str:
        if (
            "::" in value
            or value.startswith("-")
            or ("://" in value and value.partition("://")[0] not in ("https", "http", "ssh", "git", "file"))
        ):
            raise ValueError("only https, http, ssh, git and file transports are allowed")
        return value

    _by_reference = field_validator("token")(reference)


class WebSource(Placed, Remote):
    """Pages and files of the web: a list of URLs, a sitemap, or both."""

    urls: tuple[str, ...] = ()
    sitemap: str | None = Field(None, description="URL of a sitemap, or of an index of sitemaps")
    include: tuple[str, ...] = Field((), description="Glob patterns over the paths of a sitemap's URLs; empty: all")
    exclude: tuple[str, ...] = ()
    most: int = Field(10_000, ge=1, description="More pages than this are an error, not a long night")
    robots: bool = Field(True, description="Leave out what robots.txt forbids")
    pause_s: float = Field(0.0, ge=0, description="Pause between two requests; robots.txt may ask for more")
    headers: dict[str, str] = Field(default_factory=dict, description="Sent to the listed hosts; values by reference")

    @model_validator(mode="after")
    def _names_something(self) -> WebSource:
        if not self.urls and not self.sitemap:
            raise ValueError("name urls, a sitemap, or both")
        return self

    @field_validator("headers")
    @classmethod
    def _values_by_reference(cls, value: dict[str, str]) -> dict[str, str]:
        for one in value.values():
            reference(one)
        return value


class BucketSource(Files):
    """Objects of a bucket, or of any file system that fsspec knows."""

    bucket: str = Field(description="s3://bucket/prefix, gs://..., abfs://..., file:///...")
    options: dict[str, str | bool | int] = Field(
        default_factory=dict, description="Of the fsspec file system (endpoint_url, key, ...); env: and file: resolve"
    )


class Rows(Labels):
    """Rows that are documents: which columns are what."""

    key: str = Field(description="Column that names a row for good")
    text: tuple[str, ...] = Field(min_length=1, description="Columns that make the text, in order")
    title: str | None = Field(None, description="Column of the title")
    facts: tuple[str, ...] = Field((), description="Columns to filter by, kept as metadata")
    acl_column: str | None = Field(None, description="Column of groups: a list, or text parted by commas")


class QuerySource(Rows):
    """The rows of an SQL query."""

    query: str = Field(description="One SELECT")
    database: str = Field(description="Reference to the SQLAlchemy URL: env:NAME or file:PATH")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="Begins the uris of its documents: sql:name/key")

    _by_reference = field_validator("database")(reference)


class TableSource(Rows):
    """The rows of a table of the lake."""

    table: str = Field(description="Name of three levels")
    where: str | None = Field(None, description="SQL condition")


_SOURCES: dict[str, type[Section]] = {
    "git": GitSource,
    "urls": WebSource,
    "sitemap": WebSource,
    "bucket": BucketSource,
    "query": QuerySource,
    "table": TableSource,
    "path": FolderSource,
}
"""Which key makes a source what it is; the first that stands there decides."""


def _source_kind(value: Any) -> str:
    if isinstance(value, Section):
        return type(value).__name__
    keys = value if isinstance(value, dict) else {}
    return next((kind.__name__ for key, kind in _SOURCES.items() if key in keys), FolderSource.__name__)


Source = Annotated[
    Annotated[FolderSource, Tag("FolderSource")]
    | Annotated[GitSource, Tag("GitSource")]
    | Annotated[WebSource, Tag("WebSource")]
    | Annotated[BucketSource, Tag("BucketSource")]
    | Annotated[QuerySource, Tag("QuerySource")]
    | Annotated[TableSource, Tag("TableSource")],
    Discriminator(_source_kind),
]


class ParsingConfig(Section):
    max_bytes: int = Field(200_000_000, gt=0, description="Larger files go to quarantine")
    max_text_chars: int = Field(50_000_000, gt=0, description="Longer extracted texts go to quarantine")
    memory_mb: int = Field(2048, gt=0, description="Address space of one parser process beyond its start")
    timeout_s: float = Field(60.0, gt=0, description="Longest parse of one document")
    workers: int | None = Field(None, ge=1, description="Parser processes; default: one a core, at most 4")
    ocr: Literal["off", "auto", "on"] = Field(
        "off",
        description="Read scans and pictures; auto: where tesseract is installed; on: refuse to run without",
    )
    ocr_languages: tuple[str, ...] = Field(("eng",), description="As tesseract names them, the likeliest first")

    @field_validator("ocr", mode="before")
    @classmethod
    def _yaml_word(cls, value: object) -> object:
        """YAML reads a bare `on` and `off` as true and false."""
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value

    @field_validator("ocr_languages")
    @classmethod
    def _language_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or not all(re.fullmatch(r"[A-Za-z_]{3,20}", name) for name in value):
            raise ValueError("ocr_languages are names such as eng, deu or chi_sim")
        return value


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


class ComputeConfig(Section):
    """Who parses and embeds. `compute: {engine: ray}` is enough on one machine."""

    engine: Literal["local", "ray", "spark"] = Field("local", description="This process, Ray Data or Apache Spark")
    address: str | None = Field(
        None, description="A running cluster: ray://head:10001, spark://master:7077; default: one on this machine"
    )
    workers: int | None = Field(None, ge=1, description="Tasks at once; default: as many as there are cores")


class StoreConfig(Section):
    """Which engine answers unfiltered searches of a large index, and where it is."""

    engine: Literal["chroma", "milvus"] = Field("chroma", description="chroma: within this process, or at `url`")
    url: str | None = Field(None, description="Of the engine's server: http://host:8000, https://host:19530")
    token: str | None = Field(None, description="Reference to the server's token, or user:password (milvus)")
    headers: dict[str, str] = Field(default_factory=dict, description="Sent to a Chroma server; values by reference")
    tenant: str = Field("default_tenant", description="Of a Chroma server")
    database: str | None = Field(None, description="Database of the server; default: the engine's own default")
    ca_file: str | None = Field(None, description="Certificates to trust besides the system's, in PEM")
    timeout_s: float = Field(10.0, gt=0, description="Patience with one answer")
    patience_s: float = Field(30.0, ge=0, description="How long a refresh waits for a server that is gone")

    _by_reference = field_validator("token")(reference)

    @field_validator("headers")
    @classmethod
    def _values_by_reference(cls, value: dict[str, str]) -> dict[str, str]:
        for one in value.values():
            reference(one)
        return value

    @field_validator("url")
    @classmethod
    def _plain_address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        scheme, _, rest = value.partition("://")
        if scheme not in ("http", "https") or not rest or "@" in rest:
            raise ValueError("write http://HOST:PORT or https://HOST:PORT; the token goes into `token`, by reference")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _engine_takes_it(self) -> StoreConfig:
        if self.engine == "milvus" and self.url is None:
            raise ValueError("milvus needs the url of its server")
        if self.url is None and (self.token or self.headers or self.database or self.ca_file):
            raise ValueError("token, headers, database and ca_file are for a server: give its url")
        if self.engine == "milvus" and (self.headers or self.tenant != "default_tenant"):
            raise ValueError("milvus knows neither headers nor a tenant")
        return self


class IndexRetention(Section):
    """For how long an index keeps what nobody answers from any more; carried out after each refresh."""

    generations: int | None = Field(
        None, ge=1, description="Newest generations kept, besides those in use by an alias or an endpoint; None: all"
    )
    tombstones_days: float | None = Field(
        None, gt=0, description="Days after which a deleted document may come back with its source; None: never"
    )


class IndexConfig(Section):
    name: str = Field(
        "docs.index", validate_default=True, description="Name of the index; of two levels: in the catalog of --env"
    )
    sources: tuple[Source, ...] = (FolderSource(path="docs"),)
    most_removed: float = Field(
        0.5, gt=0, le=1, description="A refresh that would remove a larger share (and 20 or more) is refused"
    )
    retention: IndexRetention = IndexRetention()
    parsing: ParsingConfig = ParsingConfig()
    facts: FactsConfig = FactsConfig()
    chunking: ChunkingConfig = ChunkingConfig()
    embedding: EmbeddingConfig = EmbeddingConfig()
    compute: ComputeConfig = ComputeConfig()
    store: StoreConfig = StoreConfig()

    @field_validator("name")
    @classmethod
    def _three_levels(cls, value: str) -> str:
        return str(Name.parse(value))


class RerankConfig(Section):
    """A cross-encoder judges the best passages again; about 20 ms a passage on two cores for a small one."""

    model: str = Field(description="Name of the hub, such as cross-encoder/ms-marco-MiniLM-L6-v2, or a folder")
    pool: int = Field(30, ge=1, le=200, description="Passages that it reads")


class FreshnessConfig(Section):
    """Newer documents gain."""

    field: str = Field(description="Metadata with a date: ISO 8601, or seconds since 1970")
    half_life_days: float = Field(90.0, gt=0)
    weight: float = Field(0.5, gt=0, description="What a new document gains; scores differ by about 1 a spread")


class SelfQueryConfig(Section):
    """The LLM reads filters out of the question."""

    facts: dict[str, str] = Field(
        min_length=1, max_length=20, description="Metadata that may be filtered by, each with what it means"
    )


class RetrievalConfig(Section):
    top_k: int = Field(8, ge=1, le=200, description="Passages an answer may draw on")
    pool: int = Field(100, ge=1, le=2000, description="Candidates taken from each of the two searches")
    hops: int = Field(
        1, ge=1, le=6, description="Searches for one question at most; with more than one the LLM says what is missing"
    )
    self_query: SelfQueryConfig | None = Field(None, description="Facts that a question may name as filters")
    rerank: RerankConfig | None = None
    freshness: FreshnessConfig | None = None
    diversity: float = Field(0.0, ge=0, lt=1, description="How much passages that say the same give way to others")
    expand: Literal["none", "around", "page"] = Field(
        "none", description="What an answer sees of a passage: itself, the paragraphs around it, its page"
    )
    dense_weight: float = Field(0.6, ge=0, le=1, description="Share of the dense score; the rest is lexical")


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


class AlsoIndex(Section):
    """A further index that the chain asks; a job of its own refreshes it."""

    name: str = Field(description="Name of the index; of two levels: in the catalog of --env")
    weight: float = Field(1.0, gt=0, le=100, description="1 is neutral; more lets its passages come first")

    @field_validator("name")
    @classmethod
    def _three_levels(cls, value: str) -> str:
        return str(Name.parse(value))


class RagConfig(Section):
    """One rag job: `configs/rag.yaml`."""

    job: Literal["rag"] = "rag"
    name: str = Field(
        "docs.chat", validate_default=True, description="Name of the chain; of two levels: in the catalog of --env"
    )
    state: StateConfig = StateConfig()
    index: IndexConfig = IndexConfig()
    also: tuple[AlsoIndex, ...] = Field((), max_length=8, description="Further indexes, asked and cited together")
    generation: Literal["pinned", "champion"] = Field(
        "pinned", description="pinned: the chain keeps the index generation it was made with; champion: it follows"
    )
    retrieval: RetrievalConfig = RetrievalConfig()
    answer: AnswerConfig = AnswerConfig()

    @field_validator("name")
    @classmethod
    def _three_levels(cls, value: str) -> str:
        return str(Name.parse(value))

    @model_validator(mode="after")
    def _each_index_once(self) -> RagConfig:
        names = [self.index.name, *(other.name for other in self.also)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"the index `{twice[0]}` is named twice")
        return self
