"""The control application: its API and pages behind one door."""

from __future__ import annotations

from starlette.types import ASGIApp

from llmops.core.addresses import is_loopback, is_wildcard
from llmops.core.web.application import behind_door
from llmops.core.web.door import DoorRules
from llmops.core.web.hosts import names_of
from llmops.gateway.config import GatewayConfig
from llmops.gateway.control.api import api_routes
from llmops.gateway.control.office import Office
from llmops.gateway.control.pages import Pages


def build_app(office: Office) -> ASGIApp:
    """The whole application."""
    pages = Pages(office)
    return behind_door([*api_routes(office), *pages.routes()], pages, _rules(office.config()), office.sessions)


def _rules(config: GatewayConfig) -> DoorRules:
    """A wildcard address alone says nothing about who can reach it; it is called by its loopback names as well."""
    host = config.control.host
    names = names_of(host, config.allowed_hosts)
    return DoorRules(
        names=names | names_of("localhost", ()) if is_wildcard(host) else names,
        keys_only=not is_loopback(host),
        denied_hint="add the name to `allowed_hosts` of the gateway configuration if it is meant",
    )
