"""Every configuration of the gateway's pages can be copied: the product's own loader takes it, a worker can run it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from tests.support.wire import certificate

from llmops.core.config import load_config
from llmops.core.positions import load_yaml
from llmops.gateway.config import GatewayConfig
from llmops.gateway.published import refuse_open_door
from llmops.gateway.worker import check_worker

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("gateway*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S))
]
REFERENCE = re.compile(r"\b(env|file):([\w./-]+)")
FIRST: dict[str, Any] = {
    "job": "gateway",
    "providers": {
        "openai": {"api_key": "env:OPENAI_API_KEY"},
        "anthropic": {"kind": "anthropic", "api_key": "env:ANTHROPIC_API_KEY"},
    },
    "routes": [
        {"name": "fast", "targets": [{"provider": "anthropic", "model": "claude-haiku-5-5"}]},
        {"name": "deep", "targets": [{"provider": "openai", "model": "gpt-6.2-sol"}]},
    ],
}
"""What a piece is laid over that is shown by itself."""


@cache
def google_key() -> str:
    """A service account's key, of nobody."""
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    account = {"client_email": "a@b.iam.gserviceaccount.com", "private_key_id": "1", "private_key": pem}
    return json.dumps({"type": "service_account", **account})


CREDENTIALS: dict[str, Callable[[], str]] = {
    "aws.json": lambda: '{"AccessKeyId": "AKIDEXAMPLE", "SecretAccessKey": "a-secret"}',
    "google.json": google_key,
}
FEATURES = frozenset(
    (
        "weight", "tier", "fallbacks", "retry", "breaker", "balance", "experiment", "roi", "escalate", "regions",
        "limits", "budgets", "user_limits", "user_budgets", "prices", "unpriced", "cache", "semantic", "guards", "tags",
        "redis_url", "tls", "tls_cert", "otlp_endpoint", "alert_webhook", "workers", "registered",
    )
)  # fmt: skip


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with every file and variable that the pages refer to."""
    monkeypatch.chdir(tmp_path)
    text = "".join(block.values[0] for block in BLOCKS)
    for kind, name in REFERENCE.findall(f"{text} {FIRST}"):
        if kind == "env":
            monkeypatch.setenv(name, "redis://localhost:1/0" if name == "REDIS_URL" else "a-secret")
        else:
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(CREDENTIALS.get(file.name, lambda: "a-secret")(), encoding="utf-8")
    cert, key = certificate(tmp_path)
    (tmp_path / "tls").mkdir()
    for name in re.findall(r"tls/[\w-]+\.(?:pem|key)", text):
        parts = (key,) if name.endswith(".key") else (cert, key)
        (tmp_path / name).write_bytes(b"".join(part.read_bytes() for part in parts))
    return tmp_path


def completed(block: str, file: Path) -> dict[str, Any]:
    """A configuration as it is shown, or a piece laid over the first one of the pages; also written to `file`."""
    file.write_text(block, encoding="utf-8")
    shown: dict[str, Any] = load_yaml(file).values
    if not block.startswith("job: gateway\n"):
        routes = {route["name"]: route for route in (*FIRST["routes"], *shown.get("routes", ()))}
        providers = {**FIRST["providers"], **shown.get("providers", {})}
        shown = {**FIRST, **shown, "providers": providers, "routes": list(routes.values())}
        file.write_text(yaml.safe_dump(shown), encoding="utf-8")
    return shown


@pytest.mark.parametrize("block", BLOCKS)
def test_every_configuration_could_run(block: str, project: Path) -> None:
    file = project / "gateway.yaml"
    completed(block, file)
    config = load_config(GatewayConfig, file).value
    refuse_open_door(config)
    check_worker(config)


def test_a_wrong_configuration_would_be_found(project: Path) -> None:
    right = next(block.values[0] for block in BLOCKS if "gpt-6.2-sol" in block.values[0])
    file = project / "gateway.yaml"
    file.write_text(right.replace("gpt-6.2-sol", "a-model-without-a-price"), encoding="utf-8")
    with pytest.raises(Exception, match="the price of `a-model-without-a-price`"):
        check_worker(load_config(GatewayConfig, file).value)


def test_every_feature_is_shown() -> None:
    shown: set[str] = set()
    waiting = [yaml.safe_load(block.values[0]) for block in BLOCKS]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            shown |= {str(name) for name in value}
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    assert not FEATURES - shown


def test_every_link_between_the_pages_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+\.md)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} -> {target}"
