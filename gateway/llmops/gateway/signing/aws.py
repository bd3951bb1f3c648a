"""Signs requests to Bedrock with an access key, which may be a temporary one that is replaced in its file.

Knows where keys come from and which headers are signed; how is `sigv4`'s matter.

Source: https://docs.aws.amazon.com/sdkref/latest/guide/feature-process-credentials.html (the JSON)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import orjson

from llmops.core.errors import ConfigError
from llmops.core.ids import digest
from llmops.core.secret import resolve_document, resolve_secret
from llmops.gateway.calls import UpstreamRequest
from llmops.gateway.config import ProviderConfig
from llmops.gateway.signing.pool import with_headers
from llmops.gateway.signing.sigv4 import AwsKeys, Message, Scope, Signature
from llmops.gateway.signing.watch import SecretWatch

SERVICE = "bedrock"


class AwsSigner:
    """Signs for one region. `host` is what the Host header will say."""

    def __init__(self, config: ProviderConfig, host: str, loop: asyncio.AbstractEventLoop) -> None:
        assert config.location is not None
        self._config = config
        self._host = ("host", host)
        self._scope = Scope(config.location, SERVICE)
        self._watch = SecretWatch(config.references, self._load, loop)
        try:
            self._load()
        except ConfigError:
            self._watch.close()
            raise

    def _load(self) -> None:
        keys = load_keys(self._config)
        self.fingerprint = digest([keys.access_key_id, keys.secret_access_key, keys.session_token])
        self._signature = Signature(keys, self._scope)

    def sign(self, request: UpstreamRequest, moment: float) -> UpstreamRequest | None:
        headers = [self._host, *_signed(request)]
        message = Message(request.method, request.path, headers, request.body)
        added = self._signature.headers(message, datetime.fromtimestamp(moment, UTC))
        return with_headers(request, [(name.encode(), value.encode()) for name, value in added])

    def wait(self, wake: Callable[[], None]) -> None:
        """Never needed: the keys are there from the start."""

    def close(self) -> None:
        self._watch.close()


def _signed(request: UpstreamRequest) -> list[tuple[str, str]]:
    """The headers that mean something to AWS; others may be changed by a proxy on the way."""
    found = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers]
    return [(name, value) for name, value in found if name == "content-type" or name.startswith("x-amz")]


def load_keys(config: ProviderConfig) -> AwsKeys:
    """The keys of the configuration, now.

    Raises:
        ConfigError: one is missing, or the JSON is not what `credential_process` gives.
    """
    if config.aws is not None:
        token = config.aws.session_token
        return AwsKeys(
            resolve_secret(config.aws.access_key_id),
            resolve_secret(config.aws.secret_access_key),
            resolve_secret(token) if token is not None else None,
        )
    assert config.credentials is not None
    where = config.credentials
    try:
        told: Any = orjson.loads(resolve_document(where))
    except orjson.JSONDecodeError:
        raise _unusable(where) from None
    if not isinstance(told, dict):
        raise _unusable(where)
    token = told.get("SessionToken")
    return AwsKeys(
        _fitting(told.get("AccessKeyId"), where),
        _fitting(told.get("SecretAccessKey"), where),
        _fitting(token, where) if token else None,
    )


def _fitting(value: Any, where: str) -> str:
    if isinstance(value, str) and value and value.isascii() and value.isprintable():
        return value
    raise _unusable(where)


def _unusable(where: str) -> ConfigError:
    return ConfigError(
        f"the credentials `{where}` are no access key of AWS",
        hint='give {"AccessKeyId": ..., "SecretAccessKey": ..., "SessionToken": ...}, as `credential_process` does',
    )
