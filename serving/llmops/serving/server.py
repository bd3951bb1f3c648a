"""The process of `llmops serve`: socket, event loop, drainer, and an end without loss at Ctrl-C.

It starts and stops what the other modules make, and decides nothing about requests.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from llmops.core.drain import Drainer
from llmops.core.listen import address, listening
from llmops.core.state import StateConfig
from llmops.core.tls import server_context
from llmops.core.tracing import tracing
from llmops.serving.app import Backing, build_app, reception_of
from llmops.serving.config import ServeConfig, refuse_open_door
from llmops.serving.endpoint import Endpoints
from llmops.serving.indexes import IndexDesk
from llmops.serving.registry_pages.app import with_registry_pages
from llmops.serving.storage import note_served, standard_backing

log = logging.getLogger(__name__)

CONNECTIONS = 1000
"""More connections at once are answered 503 before they cost anything."""


def serve(config: ServeConfig, *, announce: Callable[[str], None] = log.info, indexes: IndexDesk | None = None) -> None:
    """Open the endpoints of the registry in the state folder, and answer until the process is asked to stop.

    Args:
        indexes: where operators look after the documents of indexes.
        announce: told the address once the endpoints are loaded and the port answers.

    Raises:
        ConfigError: strangers could use it without a key, or the address is not of this machine.
        ConflictError: the port is in use.
        LlmopsError: an endpoint's first version does not exist or does not load.
        KeyboardInterrupt: after everything has stopped, where Ctrl-C asked for it.
    """
    refuse_open_door(config)
    with (
        tracing(config.tracing, "llmops-serving"),
        listening(config.host, config.port) as listener,
        draining(config.state),
        standard_backing(config.state, indexes) as backing,
        Endpoints(config.endpoints, backing.source, poll_s=config.poll_s) as endpoints,
    ):
        scheme = "https" if config.tls_cert else "http"
        if backing.rooms is not None:
            note_served(backing.rooms, config.endpoints)
        server_for(config, backing, endpoints, lambda: announce(address(listener, scheme))).run(sockets=[listener])


@contextmanager
def draining(state: StateConfig) -> Iterator[None]:
    """Move rows into the lake in the background; what is there at the end is moved before this ends."""
    drainer = Drainer(state)
    drainer.start()
    try:
        yield
    finally:
        drainer.stop()


def server_for(config: ServeConfig, backing: Backing, endpoints: Endpoints, started: Callable[[], None]) -> Server:
    """The HTTP server; `run` answers until a signal comes, then lets running answers end, for `shutdown_s` at most."""
    reception = reception_of(config, backing)
    app: ASGIApp = build_app(config, backing, endpoints, reception)
    if backing.rooms is not None:
        app = with_registry_pages(app, config, backing.rooms, reception)
    settings = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        ws="none",
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=max(1, round(config.shutdown_s)),
        h11_max_incomplete_event_size=64 * 1024,
        proxy_headers=bool(config.trusted_proxies),  # by default uvicorn believes every program on this machine
        forwarded_allow_ips=list(config.trusted_proxies),
    )
    hint = "a PEM file with the chain, and its key in it or in `tls_key`"
    tls = server_context(config.tls_cert, config.tls_key, hint=hint) if config.tls_cert else None
    return Server(settings, started, tls)


class Server(uvicorn.Server):
    """Uvicorn's server that tells when it answers. `tls` is what callers are shown; None: it speaks plain HTTP."""

    def __init__(self, settings: uvicorn.Config, started: Callable[[], None], tls: ssl.SSLContext | None) -> None:
        super().__init__(settings)
        self._on_start = started
        self._tls = tls

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.config.ssl = self._tls
        await super().startup(sockets)
        if self.started:
            self._on_start()
