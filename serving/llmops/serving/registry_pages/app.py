"""The application of the registry's pages behind its own door, and the split that sets it beside the chat."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from llmops.core.keys import REGISTRY_SCOPE, Keys
from llmops.core.people.accounts import Accounts
from llmops.core.web.application import behind_door
from llmops.core.web.door import DoorRules
from llmops.core.web.hosts import names_of
from llmops.core.web.sign_in import KeySessions
from llmops.registry.assets import Registry
from llmops.registry.workflow import Workflows
from llmops.serving.config import ServeConfig
from llmops.serving.registry_pages.desk import People
from llmops.serving.registry_pages.pages import PREFIX, Pages
from llmops.serving.sign_in.operators import Operators
from llmops.serving.sign_in.reception import Reception


class Beside:
    """ASGI: what lies below a prefix goes to one application, everything else to the other."""

    def __init__(self, app: ASGIApp, prefix: str, below: ASGIApp) -> None:
        self._app = app
        self._prefix = prefix
        self._below = below

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"] if scope["type"] in ("http", "websocket") else ""
        inside = path == self._prefix or path.startswith(f"{self._prefix}/")
        await (self._below if inside else self._app)(scope, receive, send)


@dataclass(frozen=True)
class Rooms:
    """What the pages are about; whoever opened it closes it."""

    registry: Registry
    workflows: Workflows


def with_registry_pages(app: ASGIApp, config: ServeConfig, rooms: Rooms, reception: Reception | None = None) -> ASGIApp:
    """The application with the registry's pages below `/registry`."""
    return Beside(app, PREFIX, build_pages(config, rooms, reception))


def build_pages(config: ServeConfig, rooms: Rooms, reception: Reception | None = None) -> ASGIApp:
    """The pages with their door. Whoever shows a key acts as it, and whoever signed in as a person; without either, on
    loopback and where nobody has to sign in, as this machine."""
    keys = Keys(rooms.registry.sql)
    sessions = KeySessions.open(config.state.root, keys, REGISTRY_SCOPE)
    pages = Pages(rooms.registry, rooms.workflows, People(keys, Accounts(rooms.registry.sql)), sessions)

    operators = Operators(reception) if reception is not None else None
    routes = [Route(PREFIX, _home), Mount(PREFIX, routes=pages.routes())]
    return behind_door(routes, pages, _rules(config, operators), sessions)


async def _home(_request: Request) -> Response:
    return RedirectResponse(f"{PREFIX}/", status_code=307)


def _rules(config: ServeConfig, people: Operators | None) -> DoorRules:
    return DoorRules(
        names=names_of(config.host, config.names),
        keys_only=config.require_keys or config.sign_in is not None or not config.loopback,
        denied_hint="add the name to `allowed_hosts` of the serve configuration if it is meant",
        prefix=PREFIX,
        people=people,
    )
