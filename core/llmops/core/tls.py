"""What a server of ours shows to callers over https: its certificate, by TLS 1.2 or later and the ciphers of Python's
defaults. Knows no socket."""

from __future__ import annotations

import ssl
from pathlib import Path

from llmops.core.errors import ConfigError


def server_context(certificate: Path, key: Path | None, *, hint: str) -> ssl.SSLContext:
    """A context with the chain of a PEM file, and its key from there or from a file of its own.

    Args:
        hint: where the configuration names the files.

    Raises:
        ConfigError: a file is not there, or is no certificate or not its key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"the door's certificate cannot be used: {error}", where=str(certificate), hint=hint
        ) from error
    return context
