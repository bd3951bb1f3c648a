"""Routes as versions: registered from the file, served from the registry, changed by moving an alias."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.cli.test_gateway_command import TEN_LINES, ask, folder, opened, refused, said, upstream  # noqa: F401
from tests.support.gateway import eventually
from tests.support.upstream import Upstream

from llmops.core.errors import ConfigError, NotFoundError, UserError
from llmops.core.ids import digest
from llmops.core.lake import Lake
from llmops.core.names import Name
from llmops.core.state import StateConfig
from llmops.gateway.config import GatewayConfig
from llmops.gateway.registered import definition, with_registered
from llmops.registry import Candidate, Definition, Evidence, Kind, Registry
from llmops.registry.evidence import Method, Subject
from llmops.registry.promotion import Promoter

FROM_THE_REGISTRY = """job: gateway
providers:
  near: {url: "%s", api_key: "env:NEAR_KEY"}
  far: {url: "%s"}
registered: [gateway.fast@champion]
routes:
  - name: deep
    targets: [{provider: far, model: large}]
    fallbacks: [fast]
unpriced: free
"""


def crown(registry: Registry, ref: str) -> None:
    version = registry.resolve(ref)
    held = registry.alias(version.name, "champion")
    record = Evidence(
        asset=Subject.of(version), gate="test", verdict="pass", method=Method(name="t", version="1"), actor="test"
    )
    registry.point("champion", ref, record, etag=held.etag if held else None)


def test_an_alias_that_moves_changes_the_route_while_calls_go_on(
    folder: Path,  # noqa: F811
    upstream: Upstream,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = folder / "configs" / "gateway.yaml"
    file.write_text(TEN_LINES % (upstream.url, upstream.url))
    (first,) = said(capsys, "register", "fast")
    assert (first["name"], first["version"], first["aliases"]) == ("dev.gateway.fast", 1, ["champion"])
    file.write_text((TEN_LINES % (upstream.url, upstream.url)).replace("model: small", "model: smaller"))
    assert [(one["version"], one["aliases"]) for one in said(capsys, "register", "fast")] == [(2, [])]
    file.write_text(FROM_THE_REGISTRY % (upstream.url, upstream.url))
    listed = {one["route"]: one for one in said(capsys, "routes")}
    assert (listed["fast"]["version"], listed["fast"]["target"]) == ("dev.gateway.fast/1", "near/small")
    assert listed["deep"]["version"] is None
    with opened(folder) as (url, _, _process):
        assert ask(url, "fast").status_code == 200
        assert upstream.requests[-1].body["model"] == "small"
        with Registry(StateConfig()) as registry:
            crown(registry, "dev.gateway.fast/2")
        eventually(lambda: ask(url, "fast").status_code == 200 and upstream.requests[-1].body["model"] == "smaller")
        with Registry(StateConfig()) as registry:
            Promoter(registry).retire("dev.gateway.fast", "leaks names")
        eventually(lambda: ask(url, "fast").status_code == 404)
        assert ask(url, "deep").status_code == 200  # its fallback is gone, and it is not
        with Registry(StateConfig()) as registry:
            crown(registry, "dev.gateway.fast/1")
        eventually(lambda: ask(url, "fast").status_code == 200 and upstream.requests[-1].body["model"] == "small")
    state = StateConfig(dir=folder / ".llmops")
    rows = Lake(state).rows("dev.gateway.inference_log", {"endpoint": "fast"})
    assert {(row["asset_name"], row["asset_version"]) for row in rows} == {
        ("dev.gateway.fast", "1"),
        ("dev.gateway.fast", "2"),
    }
    assert all(row["status_code"] == 200 for row in rows if row["asset_name"])


def gateway(folder: Path, *registered: str) -> GatewayConfig:  # noqa: F811
    return GatewayConfig.model_validate(
        {
            "state": {"dir": folder / ".llmops"},
            "providers": {"near": {"url": "http://127.0.0.1:9/v1"}},
            "registered": registered,
            "unpriced": "free",
        }
    )


def register(folder: Path, name: str, route: dict[str, Any], **values: Any) -> None:  # noqa: F811
    text = json.dumps(route)
    with Registry(StateConfig(dir=folder / ".llmops")) as registry:
        registry.register(Candidate(Kind.ROUTE, Name.parse(f"dev.gateway.{name}"), Definition(text), **values))


def test_what_cannot_be_served_is_refused_with_its_reason(tmp_path: Path) -> None:
    register(tmp_path, "lost", {"name": "lost", "targets": [{"provider": "nobody", "model": "m"}]})
    register(tmp_path, "odd", {"name": "odd", "tagrets": []})
    with pytest.raises(ConfigError, match="the provider `nobody`, which is not there"):
        with_registered(gateway(tmp_path, "dev.gateway.lost@champion"))
    with pytest.raises(ConfigError, match="does not fit"):
        with_registered(gateway(tmp_path, "dev.gateway.odd@champion"))
    with pytest.raises(NotFoundError, match=r"dev\.gateway\.losst"):
        with_registered(gateway(tmp_path, "dev.gateway.losst@champion"))
    with pytest.raises(UserError, match="is the SHA-256 of its text"):
        register(tmp_path, "sum", {"name": "sum"}, digest=digest("other"))


def test_a_definition_says_what_the_file_said(tmp_path: Path) -> None:
    values = {"name": "fast", "targets": [{"provider": "near", "model": "m", "weight": 2.0}], "tags": {"a": "b"}}
    config = GatewayConfig.model_validate({"providers": {"near": {"url": "http://127.0.0.1:9"}}, "routes": [values]})
    assert json.loads(definition(config.routes[0])) == values


def test_an_unknown_route_cannot_be_registered(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    assert "did you mean `fast`" in refused(capsys, "register", "fats")
