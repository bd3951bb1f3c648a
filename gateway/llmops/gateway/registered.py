"""Routes that are versions in the registry: registering them, reading them into a configuration, following an alias.

The supervisor forks and must stay light, so a child process asks the registry: it is told what is wanted on stdin and
answers on stdout, in JSON. Knows definitions; what a route does is the engine's.
"""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import ValidationError

from llmops.core import errors
from llmops.core.errors import ConfigError, IntegrityError, LlmopsError, NotFoundError, UnavailableError
from llmops.core.ids import canonical_json
from llmops.core.names import Name, Ref
from llmops.gateway.config import GatewayConfig, RouteConfig

if TYPE_CHECKING:
    from llmops.registry.assets import Registry
    from llmops.registry.records import Version

SCHEMA = "gateway"
ANSWER_S = 60.0
NO_CHAMPION = "no_champion"
_log = logging.getLogger(__name__)


def register_routes(
    config: GatewayConfig,
    routes: Iterable[RouteConfig],
    registry: Registry,
    *,
    crown_first: bool = True,
    description: str = "",
) -> list[Version]:
    """Make each route's definition a version of `<catalog>.gateway.<route>`; an unchanged one keeps its version."""
    from llmops.registry.records import Candidate, Definition, Kind

    return [
        registry.register(
            Candidate(
                Kind.ROUTE,
                asset_name(config, route.name),
                Definition(definition(route)),
                description=description,
                params={"targets": [f"{target.provider}/{target.model}" for target in route.targets]},
            ),
            crown_first=crown_first,
        )
        for route in routes
    ]


def asset_name(config: GatewayConfig, route: str) -> Name:
    """The name a route has in the registry: characters that names there can't have become `_`."""
    word = re.sub(r"[^a-z0-9_]", "_", route.lower())
    return Name(config.catalog, SCHEMA, word if word[0].isalpha() else f"r_{word}")


def definition(route: RouteConfig) -> str:
    """A route as the registry keeps it: what the file says, without what is left at its default."""
    return canonical_json(route.model_dump(mode="json", exclude_defaults=True, exclude={"version"})).decode()


def with_registered(config: GatewayConfig) -> GatewayConfig:
    """The configuration with the definitions that its references name now.

    Raises:
        NotFoundError: no such route, version or alias.
        ConfigError: a definition does not fit this gateway: a provider or a fallback is not there.
        UnavailableError: the registry does not answer.
    """
    if not config.registered:
        return config
    own = [route.model_dump(mode="json", exclude_defaults=True) for route in config.routes if route.version is None]
    read = [{**entry["definition"], "version": entry["version"]} for entry in _ask(config)]
    try:
        return GatewayConfig.model_validate({**config.model_dump(exclude={"routes"}), "routes": [*own, *read]})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigError(
            f"a registered route does not fit this gateway: {first['msg'].removeprefix('Value error, ')}",
            where=", ".join(config.registered),
            hint="mend the configuration, or point `registered` at another version",
        ) from error


def read_definitions(references: Iterable[str], registry: Registry) -> list[dict[str, Any]]:
    """What each reference names now: its version and definition. A route that was retired is not there."""
    from llmops.registry.records import Kind

    found = []
    for version in _in_service(references, registry):
        text = registry.load_definition(version, Kind.ROUTE)
        try:
            found.append({"version": str(version.ref), "definition": orjson.loads(text)})
        except orjson.JSONDecodeError as error:
            raise IntegrityError("a route's definition is no JSON", where=str(version.ref)) from error
    return found


def moved(config: GatewayConfig, registry: Registry) -> tuple[str, ...] | None:
    """The versions that the references name now, where they are others than those in force; else None."""
    wanted = tuple(str(version.ref) for version in _in_service(config.registered, registry))
    in_force = {route.version for route in config.routes if route.version is not None}
    return None if in_force == set(wanted) else wanted


def _in_service(references: Iterable[str], registry: Registry) -> list[Version]:
    """The versions that references name; one whose champion was retired names none, one that never had any is wrong."""
    found = []
    for reference in references:
        try:
            found.append(registry.resolve(reference))
        except NotFoundError as error:
            if error.error_code != NO_CHAMPION or not registry.history(Ref.parse(reference).name, "champion"):
                raise
            _log.warning("the route of %s is not served: %s", reference, error.what)
    return found


def _ask(config: GatewayConfig) -> list[dict[str, Any]]:
    question = orjson.dumps({"state": config.state.model_dump(mode="json"), "registered": config.registered})
    command = [sys.executable, "-m", "llmops.gateway.registered"]
    try:
        done = subprocess.run(command, input=question, capture_output=True, check=False, timeout=ANSWER_S)  # noqa: S603
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"the registry did not answer within {ANSWER_S:g} s") from error
    try:
        answer = orjson.loads(done.stdout)
    except orjson.JSONDecodeError as error:
        told = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise UnavailableError(f"the registry could not be asked: {told[0]}") from error
    if refused := answer.get("refused"):
        raise getattr(errors, refused.pop("kind"))(**refused)
    found: list[dict[str, Any]] = answer["routes"]
    return found


def main() -> int:
    """The child: one question on stdin, one answer on stdout."""
    from llmops.core.keys import REGISTRY_SCOPE, acting_principal
    from llmops.core.state import StateConfig
    from llmops.registry.assets import Registry

    asked = orjson.loads(sys.stdin.buffer.read())
    state = StateConfig(**asked["state"])
    answer: dict[str, Any]
    try:
        with Registry(state, principal=acting_principal(state, REGISTRY_SCOPE)) as registry:
            answer = {"routes": read_definitions(asked["registered"], registry)}
    except LlmopsError as error:
        told = {"what": error.what, "where": error.where, "hint": error.hint, "code": error.error_code}
        answer = {"refused": {"kind": type(error).__name__, **told}}
    sys.stdout.buffer.write(orjson.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
