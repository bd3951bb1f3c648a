"""TLS on both sides of the door: what is shown to callers, and what is asked of upstreams.

TLS 1.2 or later, the ciphers of Python's defaults (no weak ones), ALPN `http/1.1`. Knows no socket.
"""

from __future__ import annotations

import ssl
from typing import Any

from llmops.core import tls
from llmops.core.errors import ConfigError
from llmops.gateway.config import HttpConfig, TlsConfig


class ResumingContext(ssl.SSLContext):
    """A client context that offers the last session again: a handshake without certificates, for one fewer signature.

    The loop's TLS calls `wrap_bio` without a session, so the session is put in here. One context serves one origin,
    since a session belongs to the server that gave it.
    """

    session: ssl.SSLSession | None = None

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        wrapped = super().wrap_bio(*args, **kwargs)
        if self.session is not None:
            wrapped.session = self.session
        return wrapped


def server_context(config: HttpConfig) -> ssl.SSLContext | None:
    """What callers are shown; None where the door speaks plain HTTP. Raises ConfigError for a bad certificate."""
    if config.tls_cert is None:
        if config.tls_key is not None:
            raise ConfigError("`http.tls_key` is there without `http.tls_cert`", where="http.tls_key")
        return None
    hint = "a PEM file with the chain, and its key in it or in `http.tls_key`"
    return tls.server_context(config.tls_cert, config.tls_key, hint=hint)


def client_context(config: TlsConfig) -> ResumingContext:
    """How an upstream is checked. Raises ConfigError for a file that cannot be used."""
    context = ResumingContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    try:
        if config.ca_file is not None:
            context.load_verify_locations(config.ca_file)
        else:
            context.load_default_certs()
        if config.client_cert is not None:
            context.load_cert_chain(config.client_cert)
    except (OSError, ssl.SSLError) as error:
        file = config.client_cert if config.client_cert is not None and config.ca_file is None else config.ca_file
        raise ConfigError(f"a TLS file cannot be used: {error}", where=str(file)) from error
    return context
