"""Registering a route as a task of a workflow. Called in a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from llmops.core.config import load_config
from llmops.core.errors import ConfigError, UserError
from llmops.gateway.config import GatewayConfig, RouteConfig
from llmops.gateway.registered import register_routes

if TYPE_CHECKING:
    from llmops.registry.workflow import TaskContext


def register_route(context: TaskContext) -> dict[str, Any]:
    """Make a route's definition a version; gives `version` and `digest`. It crowns nobody: gates come first.

    Settings: `route` (the route, as under `routes` of a gateway's configuration), `description`, `config` (the
    gateway's file, default configs/gateway.yaml, for its catalog).

    Raises:
        ConfigError: the route is malformed.
        UserError: a setting is not known.
    """
    from llmops.registry import Registry

    settings = dict(context.settings)
    given, description = settings.pop("route", None), str(settings.pop("description", ""))
    file = Path(str(settings.pop("config", "configs/gateway.yaml")))
    if settings:
        raise UserError(f"unknown settings: {', '.join(settings)}", where=f"task `{context.task}`")
    try:
        route = RouteConfig.model_validate(given)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = f"task `{context.task}`, with.route.{'.'.join(map(str, problem['loc']))}"
        raise ConfigError(problem["msg"].removeprefix("Value error, "), where=where) from error
    config = load_config(GatewayConfig, file).value
    with Registry(context.state, principal=context.principal) as registry:
        (version,) = register_routes(config, [route], registry, crown_first=False, description=description)
    return {"version": str(version.ref), "digest": version.digest}
