"""The serve job file: which endpoints to open, to whom, and within which limits.

Light to import: pydantic only. It knows no HTTP; `refuse_open_door` holds the one rule that guards a public address.
"""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from llmops.core.addresses import is_loopback, is_wildcard
from llmops.core.errors import ConfigError
from llmops.core.names import Ref, current_catalog
from llmops.core.state import StateConfig
from llmops.core.tracing import TracingConfig
from llmops.serving.sign_in.config import HistoryConfig, Section, SignInConfig


class EndpointConfig(Section):
    """One named door onto a version of an asset."""

    name: str = Field("chat", pattern=r"^[a-z][a-z0-9._-]{0,62}$", description="The `model` that programs ask for")
    asset: str = Field(
        "docs.chat@champion",
        validate_default=True,
        description="What it serves: name@alias follows the alias, name/3 stays",
    )
    title: str | None = Field(None, max_length=80, description="Heading of the chat page; default: the name")
    suggestions: tuple[str, ...] = Field((), max_length=6, description="Questions offered on the empty chat page")

    @field_validator("asset")
    @classmethod
    def _reference(cls, value: str) -> str:
        return str(Ref.parse(value))

    @property
    def ref(self) -> Ref:
        return Ref.parse(self.asset)


class LimitsConfig(Section):
    """What one requester may ask of the server."""

    body_bytes: int = Field(1_000_000, gt=0, description="Largest request body; a larger one is answered 413")
    body_timeout_s: float = Field(30.0, gt=0, description="Longest arrival of a request body")
    question_chars: int = Field(8000, gt=0, description="Longest single question; a longer one is answered 413")
    messages: int = Field(400, gt=0, description="Most messages of a conversation")
    concurrent: int = Field(32, gt=0, description="Answers made at once")
    waiting: int = Field(128, ge=0, description="Requests that may wait for a free place; more are answered 429")
    wait_s: float = Field(30.0, gt=0, description="Longest wait for a free place")
    answer_s: float = Field(300.0, gt=0, description="Longest answer; it is cut after that")
    comment_chars: int = Field(4000, gt=0, description="Longest comment of a feedback")


class ServeConfig(Section):
    """One serve job: `configs/serve.yaml`."""

    job: Literal["serve"] = Field("serve", description="Which kind of job the file is for")
    state: StateConfig = StateConfig()
    catalog: str = Field(
        default_factory=current_catalog,
        pattern=r"^[a-z][a-z0-9_]{0,62}$",
        description="Catalog of the log tables; default: that of --env",
    )
    host: str = Field("127.0.0.1", description="Address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one")
    endpoints: tuple[EndpointConfig, ...] = Field((EndpointConfig(),), min_length=1)
    tls_cert: Path | None = Field(None, description="Certificate chain, PEM: the server itself speaks https")
    tls_key: Path | None = Field(None, description="Its key, where that is not in the same file")
    trusted_proxies: tuple[str, ...] = Field(
        (), description="Addresses or networks of proxies whose X-Forwarded-For and X-Forwarded-Proto count"
    )
    require_keys: bool = Field(False, description="Every request needs a program key (`llmops keys create`)")
    sign_in: SignInConfig | None = Field(None, description="People sign in; without it they are anonymous, on loopback")
    history: HistoryConfig = HistoryConfig()
    allowed_hosts: tuple[str, ...] = Field((), description="Further host names by which clients may call this server")
    allowed_origins: tuple[str, ...] = Field(
        (), description="Other sites whose pages may call it: https://intranet.example.org"
    )
    local_groups: tuple[str, ...] = Field((), description="Groups of whoever comes over loopback without a key")
    poll_s: float = Field(1.0, gt=0, description="How often the aliases are looked up")
    shutdown_s: float = Field(5.0, ge=0, description="How long answers may still run after a stop was asked for")
    limits: LimitsConfig = LimitsConfig()
    tracing: TracingConfig = TracingConfig()

    @field_validator("endpoints")
    @classmethod
    def _distinct(cls, value: tuple[EndpointConfig, ...]) -> tuple[EndpointConfig, ...]:
        names = [endpoint.name for endpoint in value]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two endpoints are named `{twice[0]}`")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            if ip_network(one).prefixlen == 0:
                raise ValueError(f"`{one}` would trust everybody")
        return value

    @model_validator(mode="after")
    def _whole(self) -> ServeConfig:
        if self.tls_key is not None and self.tls_cert is None:
            raise ValueError("`tls_key` is there without `tls_cert`")
        return self

    @property
    def https(self) -> bool:
        """Whether browsers reach this server over https, and only so."""
        return self.tls_cert is not None or (self.sign_in is not None and self.sign_in.secure)

    @property
    def inference_log(self) -> str:
        return f"{self.catalog}.serving.inference_log"

    @property
    def feedback(self) -> str:
        return f"{self.catalog}.serving.feedback"

    @property
    def names(self) -> tuple[str, ...]:
        """Further host names by which clients may call this server: those allowed, and that of the public address."""
        public = urlsplit(self.sign_in.public_url).hostname if self.sign_in and self.sign_in.public_url else None
        return (*self.allowed_hosts, public) if public else self.allowed_hosts

    @property
    def loopback(self) -> bool:
        return is_loopback(self.host)


def refuse_open_door(config: ServeConfig) -> None:
    """Stop a server that strangers could reach and use without a key.

    Raises:
        ConfigError: a public address without required keys, or one that names no host clients may call it by.
    """
    if config.loopback:
        return
    if not config.require_keys and config.sign_in is None:
        raise ConfigError(
            f"listening on {config.host or 'every address'} would open the chat to everybody who can reach it",
            where="host",
            hint="set `require_keys: true` and give out keys with `llmops keys create`, or let people `sign_in`, or "
            "listen on 127.0.0.1",
        )
    if config.sign_in is not None and not config.https:
        raise ConfigError(
            "passwords and cookies would go over the network as they are",
            where="sign_in.public_url",
            hint="say how browsers reach this server, `https://chat.example.org`; a proxy in front of it speaks https, "
            "or the server itself with `tls_cert`",
        )
    if is_wildcard(config.host) and not config.names:
        raise ConfigError(
            f"listening on {config.host or 'every address'} needs the names by which clients call this server",
            where="allowed_hosts",
            hint="name them, such as `allowed_hosts: [chat.example.org]`; other Host headers are refused",
        )
