"""Posts alerts to a URL from the configuration: never to a private address unless that is allowed, signed where asked.

The name is resolved here and the connection goes to the address that was checked, so that a name which changes its
address in between (DNS rebinding) leads nowhere. Redirects are not followed.
"""

from __future__ import annotations

import hmac
import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Mapping
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

import orjson

from llmops.core.errors import ConfigError, DeniedError, UpstreamError
from llmops.core.secret import resolve_secret

TIMEOUT_S = 10.0
SIGNATURE = "x-llmops-signature"
TIMESTAMP = "x-llmops-timestamp"


class Webhook:
    """Where alerts go."""

    def __init__(self, url: str, secret: str | None = None, *, private: bool = False) -> None:
        self._parts = urlsplit(url)
        if self._parts.scheme not in ("http", "https") or not self._parts.hostname:
            raise ConfigError(
                "the alert webhook's URL must start with http:// or https://", where="control.alert_webhook"
            )
        self._secret = secret
        self._private = private

    @property
    def shown(self) -> str:
        """The URL as it may be shown: without user and query."""
        return f"{self._parts.scheme}://{self._parts.hostname}{self._parts.path}"

    def post(self, message: Mapping[str, Any]) -> None:
        """Send one message.

        The signature is the HMAC-SHA256 of `<timestamp>.<body>` in hex; check it, and that the timestamp is recent.

        Raises:
            DeniedError: the host has a private address.
            UpstreamError: it does not answer, or not with 2xx.
            ConfigError: the secret's reference leads nowhere.
        """
        body = orjson.dumps(message)
        headers = {"content-type": "application/json", "user-agent": "llmops-gateway"}
        if self._secret is not None:
            stamp = str(int(time.time()))
            key = resolve_secret(self._secret).encode()
            signed = hmac.new(key, f"{stamp}.".encode() + body, sha256).hexdigest()
            headers |= {TIMESTAMP: stamp, SIGNATURE: f"sha256={signed}"}
        try:
            status = self._send(body, headers)
        except (OSError, http.client.HTTPException) as error:
            raise UpstreamError(f"the alert webhook failed: {error}", where=self.shown) from error
        if not 200 <= status < 300:
            raise UpstreamError(f"the alert webhook answered {status}", where=self.shown)

    def _send(self, body: bytes, headers: Mapping[str, str]) -> int:
        host = self._parts.hostname or ""
        https = self._parts.scheme == "https"
        port = self._parts.port or (443 if https else 80)
        address = checked_address(host, port, private=self._private)
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


def checked_address(host: str, port: int, *, private: bool) -> str:
    """An address of the host that may be called: all of them must be public, unless private ones are allowed.

    Raises:
        DeniedError: one is private, link-local, loopback, or otherwise not of the internet.
        OSError: the name has no address.
    """
    found = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if not private:
        for address in found:
            parsed = ipaddress.ip_address(address.partition("%")[0])
            mapped = getattr(parsed, "ipv4_mapped", None)
            if not (mapped or parsed).is_global or parsed.is_multicast:
                raise DeniedError(
                    f"`{host}` has the address {address}, which is not of the internet",
                    where="control.alert_webhook",
                    hint="set `control.alert_private: true` if it is meant",
                    code="private_address",
                )
    return found[0]
