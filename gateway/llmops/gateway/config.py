"""The gateway job file: which providers there are, which routes lead to them, and within which limits.

Light to import: pydantic only. Everything the data plane does follows from this model and from the key snapshot; a
changed file is checked whole before any worker sees it.
"""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from llmops.core.names import Ref, current_catalog
from llmops.core.secret import check_reference
from llmops.core.state import StateConfig
from llmops.core.tracing import TracingConfig
from llmops.gateway.clouds import bedrock_url, vertex_url

WORD = r"^[A-Za-z0-9][A-Za-z0-9_.:@/-]{0,127}$"
Word = Annotated[str, Field(pattern=WORD)]


class Section(BaseModel):
    # Built at the first use: the whole at once costs less than each section by itself.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


ProviderKind = Literal["openai", "anthropic", "azure", "gemini", "cohere", "mistral", "bedrock", "vertex"]
Operation_ = Literal["chat", "completions", "responses", "messages", "embeddings", "rerank"]
Period = Literal["hour", "day", "week", "month", "total"]

URLS: dict[str, str] = {
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com/v1",
    "gemini": "https://generativelanguage.googleapis.com/v1beta",
    "cohere": "https://api.cohere.com",
    "mistral": "https://api.mistral.ai/v1",
}
_IN_CLOUDS = ("bedrock", "vertex")


class TlsConfig(Section):
    """How an upstream proves who it is."""

    ca_file: Path | None = Field(None, description="Certificates to trust instead of the system's")
    server_name: str | None = Field(None, description="Name to check the certificate against; default: the URL's host")
    client_cert: Path | None = Field(None, description="Certificate and key of this gateway, PEM, for mutual TLS")


class AwsKeysConfig(Section):
    """An access key of AWS, each part by reference."""

    access_key_id: str = Field(description="Reference: env:NAME or file:PATH")
    secret_access_key: str = Field(description="Reference: env:NAME or file:PATH")
    session_token: str | None = Field(None, description="Reference; temporary keys have one")

    @field_validator("access_key_id", "secret_access_key", "session_token")
    @classmethod
    def _by_reference(cls, value: str | None) -> str | None:
        return None if value is None else check_reference(value)


class ProviderConfig(Section):
    """One account at one provider, or one server that speaks a provider's format."""

    kind: ProviderKind = Field("openai", description="Format it speaks; vLLM, TGI, Ollama, llama.cpp speak `openai`")
    url: str | None = Field(None, description="Base URL, such as http://localhost:8000/v1; default: the provider's own")
    api_key: str | None = Field(None, description="Reference: env:NAME or file:PATH")
    region: str | None = Field(None, description="Where it processes data; checked against a route's residency")
    api_version: str | None = Field(None, description="Azure's api-version, Anthropic's anthropic-version")
    organization: str | None = Field(None, description="OpenAI-Organization header")
    location: str | None = Field(
        None, pattern=r"^[a-z][a-z0-9-]{1,40}$", description="Bedrock's region, Vertex AI's location: where it is asked"
    )
    project: str | None = Field(
        None, pattern=r"^[a-z0-9][a-z0-9.:-]{2,62}$", description="Google Cloud project that Vertex AI is asked in"
    )
    credentials: str | None = Field(
        None, description="Reference to JSON: a service account's key (Vertex AI), what credential_process gives (AWS)"
    )
    aws: AwsKeysConfig | None = Field(None, description="Access key for Bedrock, in place of `credentials`")
    headers: dict[str, str] = Field(default_factory=dict, description="Further headers; values may be references")
    traceparent: bool = Field(False, description="Tell it which trace a request belongs to (W3C `traceparent`)")
    operations: tuple[Operation_, ...] | None = Field(
        None, description="What an OpenAI-compatible server offers itself; others are translated to chat"
    )
    tls: TlsConfig = TlsConfig()
    connect_s: float = Field(5.0, gt=0, description="Longest wait for a connection")
    connections: int = Field(1024, gt=0, description="Most connections of one worker to it")
    idle_connection_s: float = Field(30.0, gt=0, description="How long an unused connection is kept")

    @field_validator("api_key", "credentials")
    @classmethod
    def _by_reference(cls, value: str | None) -> str | None:
        if value is not None:
            check_reference(value)
        return value

    @field_validator("url")
    @classmethod
    def _http(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("a URL starts with http:// or https://")
        return value.rstrip("/") if value else value

    @model_validator(mode="after")
    def _reachable(self) -> ProviderConfig:
        if self.kind in _IN_CLOUDS:
            self._check_cloud()
        elif self.url is None and self.kind not in URLS:
            raise ValueError(f"a provider of kind `{self.kind}` needs its url")
        elif self.credentials or self.aws or self.project or self.location:
            raise ValueError("`location`, `project`, `credentials` and `aws` are for the kinds bedrock and vertex")
        return self

    def _check_cloud(self) -> None:
        if self.location is None:
            raise ValueError(f"a provider of kind `{self.kind}` needs its location")
        if (self.kind == "vertex") != (self.project is not None):
            raise ValueError("a provider of kind `vertex`, and no other, needs its project")
        if self.kind == "vertex" and self.aws is not None:
            raise ValueError("`aws` is for the kind bedrock")
        if sum(given is not None for given in (self.api_key, self.credentials, self.aws)) != 1:
            one_of = "`api_key` or `credentials`" if self.kind == "vertex" else "`api_key`, `credentials` or `aws`"
            raise ValueError(f"a provider of kind `{self.kind}` needs one of {one_of}")

    @property
    def references(self) -> tuple[str, ...]:
        """Where its secrets are, but for those in headers."""
        aws = self.aws
        keys = (aws.access_key_id, aws.secret_access_key, aws.session_token) if aws is not None else ()
        return tuple(found for found in (self.api_key, self.credentials, *keys) if found is not None)

    @property
    def base_url(self) -> str:
        if self.url is None and self.location is not None:
            return bedrock_url(self.location) if self.kind == "bedrock" else vertex_url(self.location)
        return self.url or URLS[self.kind]


class LimitsConfig(Section):
    """Ceilings on a stream of requests. None: no ceiling. Exact over all workers and machines."""

    requests_per_minute: int | None = Field(None, gt=0, description="Requests in any 60 seconds")
    tokens_per_minute: int | None = Field(None, gt=0, description="Input and output tokens in any 60 seconds")
    concurrent: int | None = Field(None, gt=0, description="Requests under way at once")


class BudgetConfig(Section):
    """Money that may be spent in a period; never more, whatever is under way."""

    usd: Decimal = Field(gt=0, le=9_000_000, decimal_places=9, description="Most that may be spent in the period")
    period: Period = Field("month", description="Calendar period in UTC; `total` never starts anew")


class TeamConfig(Section):
    """What the keys of one team share."""

    limits: LimitsConfig = LimitsConfig()
    budgets: tuple[BudgetConfig, ...] = ()
    user_limits: LimitsConfig = Field(LimitsConfig(), description="Ceilings of each `user` named in the requests")
    user_budgets: tuple[BudgetConfig, ...] = ()


class PriceConfig(Section):
    """US dollars for a million tokens (a thousand searches, for rerank). Laid over the dated table of the package."""

    input: Decimal = Field(ge=0)
    output: Decimal = Field(Decimal(0), ge=0)
    cached_input: Decimal | None = Field(None, ge=0, description="Default: the price of input")
    cache_write: Decimal | None = Field(None, ge=0, description="Default: the price of input")
    search: Decimal = Field(Decimal(0), ge=0, description="A thousand rerank searches")


class TargetConfig(Section):
    """One model at one provider that a route may use."""

    provider: str = Field(description="Name of an entry of `providers`")
    model: str = Field(min_length=1, max_length=200, description="The provider's name for the model")
    weight: float = Field(1.0, ge=0, description="Share of the traffic, against the other targets of its tier")
    tier: int = Field(0, ge=0, description="Targets of a higher tier are the fallback of those below")
    variant: Literal["champion", "challenger"] | None = Field(None, description="Arm of the route's experiment")
    price: PriceConfig | None = Field(None, description="Overrides the price table")
    max_output_tokens: int = Field(4096, gt=0, description="Assumed where a request names no maximum; also enforced")
    context_tokens: int | None = Field(None, gt=0, description="Longer prompts are not sent to it")
    expect_model: str | None = Field(None, description="Regular expression of the reply's model; others raise an alert")


class RetryConfig(Section):
    """How often to ask again before the first byte went to the client."""

    attempts: int = Field(2, ge=1, le=10, description="Tries on one target, the first one included")
    backoff_s: float = Field(0.25, ge=0, description="First pause; doubled each time, with full jitter")
    max_wait_s: float = Field(10.0, ge=0, description="A provider that asks for a longer pause is not asked again")


class TimeoutConfig(Section):
    first_byte_s: float = Field(60.0, gt=0, description="Longest wait for a reply to begin")
    idle_s: float = Field(60.0, gt=0, description="Longest silence within a reply")
    total_s: float = Field(600.0, gt=0, description="Longest reply, retries and fallbacks included")


class BreakerConfig(Section):
    """A target that keeps failing is left alone for a while, then probed by single requests."""

    failures: int = Field(5, ge=1, description="Failures in a row, or half of the last 20, that open it")
    open_s: float = Field(10.0, gt=0, description="First time it stays open; doubled at each failed probe, to 10x")


class SemanticCacheConfig(Section):
    embedding_route: str = Field(description="A route of this gateway that answers /v1/embeddings")
    threshold: float = Field(0.95, gt=0, le=1, description="Least cosine similarity of two questions held the same")


class CacheConfig(Section):
    """Answers given again. The key holds route, version, body, and the groups of the requester's documents."""

    ttl_s: float = Field(3600.0, gt=0)
    max_bytes: int = Field(64 * 1024**2, gt=0, description="Memory of one worker's cache")
    shared: bool = Field(False, description="Kept in the shared store too, for all workers and machines")
    shared_bytes: int = Field(1024**3, gt=0, description="Size of the shared store on one machine, all routes together")
    sampled: bool = Field(True, description="Also answers asked for with another temperature than 0; false: only 0")
    per: Literal["groups", "key", "everyone"] = Field("groups", description="Who may get whose cached answers")
    semantic: SemanticCacheConfig | None = None


class GuardConfig(Section):
    """One check of what goes in or comes out."""

    check: Literal["pii", "secrets", "injection", "topics", "pattern", "image_urls", "max_chars"]
    on: Literal["input", "output", "both"] = "input"
    action: Literal["block", "mask", "log"] = "block"
    patterns: dict[str, str] = Field(default_factory=dict, description="Name -> regular expression, for `pattern`")
    topics: tuple[str, ...] = Field((), description="Words and phrases that must not be talked about, for `topics`")
    kinds: tuple[str, ...] = Field((), description="Personal data: email, phone, card, iban, ssn, ip; all if empty")
    max_chars: int = Field(100_000, gt=0)


class EscalateConfig(Section):
    """Ask a better target where the cheap one's answer is not good enough (answers that are not streamed)."""

    unless: str | None = Field(None, description="Regular expression the answer must match")
    when: str | None = Field(None, description="Regular expression of an answer that is not good enough")
    valid_json: bool = Field(False, description="Escalate where JSON was asked for and is broken")
    min_logprob: float | None = Field(None, le=0, description="Least mean log probability of the answer's tokens")
    to_tier: int = Field(1, ge=1)


class RoiRule(Section):
    """The first rule that matches picks the tier a request starts with."""

    tier: int = Field(ge=0)
    max_input_tokens: int | None = None
    min_input_tokens: int | None = None
    has_tools: bool | None = None
    has_images: bool | None = None
    tags: dict[str, str] = Field(default_factory=dict, description="Tags the request must carry")


class ExperimentConfig(Section):
    """Sticky arms: the targets' variants by weight, with the propensity in the log."""

    id: Word
    salt: str = Field("", description="Another salt, another assignment; default: the id")
    unit: Literal["user", "session", "key", "request"] = "user"


class RouteConfig(Section):
    """One name clients ask for as `model`."""

    name: Word
    targets: tuple[TargetConfig, ...] = Field(min_length=1)
    operations: tuple[Operation_, ...] = ("chat", "completions", "responses", "messages", "embeddings", "rerank")
    balance: Literal["weight", "latency", "cost"] = Field("weight", description="How to choose within a tier")
    experiment: ExperimentConfig | None = None
    roi: tuple[RoiRule, ...] = ()
    escalate: EscalateConfig | None = None
    fallbacks: tuple[str, ...] = Field((), description="Routes to try when every target failed")
    regions: tuple[str, ...] = Field((), description="Data residency: targets elsewhere are never used")
    retry: RetryConfig = RetryConfig()
    timeouts: TimeoutConfig = TimeoutConfig()
    breaker: BreakerConfig = BreakerConfig()
    cache: CacheConfig | None = None
    guards: tuple[GuardConfig, ...] = ()
    limits: LimitsConfig = LimitsConfig()
    budgets: tuple[BudgetConfig, ...] = ()
    tags: dict[str, str] = Field(default_factory=dict)
    log_bodies: bool = Field(True, description="Keep requests and replies in the inference table, redacted")
    version: str | None = Field(None, description="Of a route out of the registry: which version this is")

    @model_validator(mode="after")
    def _arms(self) -> RouteConfig:
        if self.experiment and any(target.variant is None for target in self.targets if target.tier == 0):
            raise ValueError("an experiment needs a `variant` on every target of tier 0")
        if not any(target.weight > 0 for target in self.targets):
            raise ValueError("no target has a weight above 0")
        return self


class StoreConfig(Section):
    """Where allowances are shared: between the workers of this machine, or between machines."""

    redis_url: str | None = Field(None, description="Reference or redis:// URL; None: SQLite in the state folder")
    prefix: str = Field("llmops:", description="Begin of every Redis key, so that two gateways can share a server")
    when_gone: dict[Literal["budgets", "limits"], Literal["refuse", "allow"]] = Field(
        default={"budgets": "refuse", "limits": "allow"}, description="What to do while the store cannot be reached"
    )
    lease_usd: Decimal = Field(Decimal("0.50"), gt=0, description="Most money one worker holds of a budget")
    lease_s: float = Field(30.0, gt=0, description="A machine not heard of for so long gives its rate allowance back")


class HttpConfig(Section):
    """What one client may ask of the door."""

    header_bytes: int = Field(32 * 1024, ge=1024)
    body_bytes: int = Field(20 * 1024**2, gt=0, description="Largest request; a larger one is answered 413")
    head_s: float = Field(10.0, gt=0, description="Longest arrival of a request's head")
    body_s: float = Field(60.0, gt=0, description="Longest arrival of a request's body")
    idle_s: float = Field(75.0, gt=0, description="How long an unused client connection is kept")
    write_s: float = Field(60.0, gt=0, description="How long a client may take nothing of a waiting reply")
    connections: int = Field(10_000, gt=0, description="Most client connections of one worker")
    tls_cert: Path | None = Field(None, description="Certificate chain, PEM: the door speaks HTTPS")
    tls_key: Path | None = None


class ControlConfig(Section):
    """The control process: keys, usage, pages, the drainer, metrics of all workers."""

    host: str = "127.0.0.1"
    port: int = Field(4001, ge=0, le=65535)
    otlp_endpoint: str | None = Field(None, description="OpenTelemetry collector for GenAI metrics, OTLP over HTTP")
    alert_webhook: str | None = Field(None, description="URL told of budget, breaker and model-change alerts")
    alert_secret: str | None = Field(None, description="Reference of the key that signs them (HMAC-SHA256)")
    alert_private: bool = Field(False, description="Let the webhook be at a private or loopback address")

    @field_validator("alert_secret")
    @classmethod
    def _by_reference(cls, value: str | None) -> str | None:
        return value if value is None else check_reference(value)

    @field_validator("otlp_endpoint", "alert_webhook")
    @classmethod
    def _http(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("a URL starts with http:// or https://")
        return value


class GatewayConfig(Section):
    """One gateway job: `configs/gateway.yaml`."""

    job: Literal["gateway"] = Field("gateway", description="Which kind of job the file is for")
    state: StateConfig = StateConfig()
    catalog: str = Field(
        default_factory=current_catalog,
        pattern=r"^[a-z][a-z0-9_]{0,62}$",
        description="Catalog of the log and the routes; default: that of --env",
    )
    host: str = "127.0.0.1"
    port: int = Field(4000, ge=0, le=65535)
    workers: int = Field(1, ge=1, le=256, description="Data-plane processes on this machine")
    require_keys: bool = Field(False, description="Every request needs a virtual key (`llmops gateway keys create`)")
    allowed_hosts: tuple[str, ...] = Field((), description="Further host names by which clients may call this server")
    trusted_ids: bool = Field(True, description="Take a request id from clients whose key has the scope gateway:ids")
    providers: dict[Word, ProviderConfig] = Field(min_length=1)
    routes: tuple[RouteConfig, ...] = Field((), description="What clients name as their model")
    registered: tuple[str, ...] = Field(
        (), description="Routes whose definition is a version in the registry: gateway.fast@champion, gateway.fast/3"
    )
    teams: dict[Word, TeamConfig] = Field(default_factory=dict)
    prices: dict[str, PriceConfig] = Field(default_factory=dict, description="provider kind/model -> price")
    unpriced: Literal["refuse", "free"] = Field("refuse", description="A target whose price nobody knows")
    store: StoreConfig = StoreConfig()
    http: HttpConfig = HttpConfig()
    control: ControlConfig = ControlConfig()
    tracing: TracingConfig = TracingConfig()
    shutdown_s: float = Field(10.0, ge=0, description="How long replies may still run after a stop was asked for")

    @field_validator("registered")
    @classmethod
    def _references(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(str(Ref.parse(text)) for text in value))

    @model_validator(mode="after")
    def _names(self) -> GatewayConfig:
        names = [route.name for route in self.routes]
        if not names and not self.registered:
            raise ValueError("a gateway needs a route, in `routes` or in `registered`")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two routes are named `{twice[0]}`")
        for route in self.routes:
            for target in route.targets:
                if target.provider not in self.providers:
                    raise ValueError(f"route `{route.name}` names the provider `{target.provider}`, which is not there")
            for fallback in route.fallbacks:
                if fallback == route.name or (fallback not in names and self.complete):
                    raise ValueError(f"route `{route.name}` falls back to `{fallback}`, which is no other route")
            if not (route.cache and route.cache.semantic) or not self.complete:
                continue
            if route.cache.semantic.embedding_route not in names:
                embedding = route.cache.semantic.embedding_route
                raise ValueError(f"route `{route.name}` embeds by `{embedding}`, which is no route")
        return self

    @property
    def complete(self) -> bool:
        """Whether the registered routes were read: before that, other routes' names can't be judged."""
        return sum(route.version is not None for route in self.routes) == len(self.registered)

    def route(self, name: str) -> RouteConfig | None:
        return next((route for route in self.routes if route.name == name), None)

    @property
    def inference_log(self) -> str:
        return f"{self.catalog}.gateway.inference_log"

    @property
    def folder(self) -> Path:
        """What the gateway keeps on this machine: key snapshot, leases, worker metrics."""
        return self.state.root / "gateway"


def as_published(config: GatewayConfig) -> dict[str, Any]:
    """The checked configuration as workers load it: JSON, references still unresolved."""
    return config.model_dump(mode="json")
