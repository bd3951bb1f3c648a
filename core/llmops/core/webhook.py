"""Posts JSON to a URL of the configuration: never to a private address unless that is allowed, signed where asked.

The name is resolved once and the connection goes to the address that was checked, so that a name which changes its
address in between (DNS rebinding) leads nowhere. Redirects are not followed. The signature that others check, and that
our own doors check, is made here.
"""

from __future__ import annotations

import hmac
import http.client
import socket
import ssl
import time
from collections.abc import Mapping
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

import orjson

from llmops.core.addresses import checked_address
from llmops.core.errors import ConfigError, UpstreamError
from llmops.core.secret import resolve_secret

TIMEOUT_S = 10.0
SIGNATURE = "x-llmops-signature"
TIMESTAMP = "x-llmops-timestamp"


def signature(key: str, stamp: str, body: bytes) -> str:
    """`sha256=` and the HMAC-SHA256 of `<timestamp>.<body>` in hex."""
    return "sha256=" + hmac.new(key.encode(), f"{stamp}.".encode() + body, sha256).hexdigest()


class Webhook:
    """One receiver.

    Args:
        secret: reference to the key that messages are signed with.
        private: whether it may have a private or loopback address.
        what: what it is called in errors; `where` in the configuration; `hint` says how private addresses are allowed.
    """

    def __init__(
        self,
        url: str,
        secret: str | None = None,
        *,
        private: bool = False,
        what: str = "webhook",
        where: str | None = None,
        hint: str = "allow private addresses in the configuration if it is meant",
    ) -> None:
        self._parts = urlsplit(url)
        self._what = what
        self._hint = hint
        if self._parts.scheme not in ("http", "https") or not self._parts.hostname:
            raise ConfigError(f"the {what}'s URL must start with http:// or https://", where=where)
        self._secret = secret
        self._private = private

    @property
    def shown(self) -> str:
        """The URL as it may be shown: without user and query."""
        return f"{self._parts.scheme}://{self._parts.hostname}{self._parts.path}"

    def post(self, message: Mapping[str, Any]) -> None:
        """Send one message.

        The receiver checks the signature, and that the timestamp is recent.

        Raises:
            DeniedError: the host has a private address.
            UpstreamError: it does not answer, or not with 2xx.
            ConfigError: the secret's reference leads nowhere.
        """
        body = orjson.dumps(message)
        headers = {"content-type": "application/json", "user-agent": "llmops"}
        if self._secret is not None:
            stamp = str(int(time.time()))
            headers |= {TIMESTAMP: stamp, SIGNATURE: signature(resolve_secret(self._secret), stamp, body)}
        try:
            status = self._send(body, headers)
        except (OSError, http.client.HTTPException) as error:
            raise UpstreamError(f"the {self._what} failed: {error}", where=self.shown) from error
        if not 200 <= status < 300:
            raise UpstreamError(f"the {self._what} answered {status}", where=self.shown)

    def _send(self, body: bytes, headers: Mapping[str, str]) -> int:
        host = self._parts.hostname or ""
        https = self._parts.scheme == "https"
        port = self._parts.port or (443 if https else 80)
        address = checked_address(host, port, private=self._private, hint=self._hint)
        connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        opened = socket.create_connection((address, port), TIMEOUT_S)
        try:
            connection.sock = (
                ssl.create_default_context().wrap_socket(opened, server_hostname=host) if https else opened
            )
            path = self._parts.path or "/"
            connection.request(
                "POST", f"{path}?{self._parts.query}" if self._parts.query else path, body, dict(headers)
            )
            return connection.getresponse().status
        finally:
            connection.close()
            opened.close()
