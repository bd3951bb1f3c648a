"""HTTP clients of tests, all with one TLS context: each would make its own, at 18 ms, and none of them speaks TLS."""

from __future__ import annotations

import ssl
from typing import Any

import httpx

_TLS = ssl.create_default_context()


def caller(url: str, **settings: Any) -> httpx.Client:
    """A client of a server on this machine, as patient as a slow machine needs."""
    return httpx.Client(base_url=url, timeout=60, trust_env=False, verify=_TLS, **settings)
