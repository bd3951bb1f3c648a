"""Vertex AI's provider against recorded examples: each maker's words, at Vertex AI's paths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.support.provider_calls import target

from llmops.core.errors import ConfigError
from llmops.gateway.abilities import Publisher, TokenCounter
from llmops.gateway.calls import Fault, Provider, Usage
from llmops.gateway.config import ProviderConfig
from llmops.gateway.providers import open_provider

RECORDED = Path(__file__).parent / "fixtures" / "vertex"
PLACE = "/v1/projects/a-project/locations/europe-west4/"


def recorded(name: str) -> list[Any]:
    return list(json.loads((RECORDED / name).read_text(encoding="utf-8")))


def opened(**more: Any) -> Publisher:
    config = {"kind": "vertex", "project": "a-project", "location": "europe-west4", "api_key": "env:X", **more}
    found = open_provider(ProviderConfig.model_validate(config), "a-token")
    assert isinstance(found, Publisher)
    return found


def voice(model: str) -> Provider:
    return opened().of_model(model)


@pytest.mark.parametrize("case", recorded("requests.json"), ids=lambda case: case["name"])
def test_requests_are_said_as_recorded(case: dict[str, Any]) -> None:
    request = voice(case["model"]).build(case["operation"], case["body"], target(case["model"]))
    assert request.path == PLACE + case["path"]
    assert json.loads(request.body) == case["sent"]
    assert request.headers == ((b"content-type", b"application/json"),)


@pytest.mark.parametrize("case", recorded("replies.json"), ids=lambda case: case["name"])
def test_replies_are_read_as_recorded(case: dict[str, Any]) -> None:
    reply = voice(case["model"]).reply(case["operation"], json.dumps(case["body"]).encode())
    assert reply.usage == Usage(**case["usage"])
    told = json.loads(reply.body)
    if case["operation"] == "embeddings":
        assert [item["embedding"] for item in told["data"]] == case["vectors"]
    else:
        assert told["choices"][0]["message"]["content"] == case["text"]


@pytest.mark.parametrize("case", recorded("errors.json"), ids=lambda case: f"{case['model']}-{case['status']}")
def test_errors_are_told_as_what_they_are(case: dict[str, Any]) -> None:
    fault = voice(case["model"]).fault(case["status"], (), json.dumps(case["body"]).encode())
    assert fault.kind == case["kind"]
    if "retryDelay" in json.dumps(case["body"]):
        assert fault.retry_after_s == 7.0


def test_each_kind_of_model_has_its_own_voice() -> None:
    vertex = opened()
    claude, gemini = vertex.of_model("claude-opus-5"), vertex.of_model("gemini-3.8-flash")
    assert (claude.native, gemini.native) == ({"messages"}, frozenset())
    assert (isinstance(claude, TokenCounter), isinstance(gemini, TokenCounter)) == (True, False)
    assert vertex.of_model("publishers/anthropic/models/claude-opus-5") is claude
    assert vertex.of_model("endpoints/12") is gemini


@pytest.mark.parametrize("model", ["publishers/meta/models/llama-4", "meta/llama-4", "publishers/google/x", "a/b/c"])
def test_a_model_that_nobody_here_can_speak_to_is_refused_with_the_configuration(model: str) -> None:
    with pytest.raises(ConfigError):
        voice(model)


@pytest.mark.parametrize(
    ("location", "host"),
    [
        ("europe-west4", "https://europe-west4-aiplatform.googleapis.com/v1"),
        ("global", "https://aiplatform.googleapis.com/v1"),
        ("eu", "https://aiplatform.eu.rep.googleapis.com/v1"),
    ],
)
def test_addresses(location: str, host: str) -> None:
    config = {"kind": "vertex", "project": "p-1", "location": location, "api_key": "env:X"}
    assert ProviderConfig.model_validate(config).base_url == host


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": ["a", "b"]}, "input"),
        ({"input": "a", "input_type": "x"}, "input_type"),
    ],
)
def test_embeddings_that_cannot_be_asked_for(body: dict[str, Any], param: str) -> None:
    with pytest.raises(Fault) as caught:
        voice("gemini-embedding-2").build("embeddings", {"model": "r", **body}, target("gemini-embedding-2"))
    assert caught.value.param == param
    with pytest.raises(Fault, match="no embeddings"):
        voice("claude-opus-5").build("embeddings", {"model": "r", "input": "a"}, target("claude-opus-5"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "bedrock", "api_key": "env:X"},
        {"kind": "bedrock", "location": "eu-central-1"},
        {"kind": "bedrock", "location": "eu-central-1", "api_key": "env:X", "credentials": "env:Y"},
        {"kind": "bedrock", "location": "eu-central-1", "api_key": "env:X", "project": "p-1"},
        {"kind": "bedrock", "location": "evil.example/", "api_key": "env:X"},
        {"kind": "bedrock", "location": "a", "aws": {"access_key_id": "AKIDEXAMPLE", "secret_access_key": "env:Y"}},
        {"kind": "vertex", "location": "global", "api_key": "env:X"},
        {"kind": "vertex", "location": "global", "project": "p-1"},
        {"kind": "vertex", "location": "global", "project": "p/../x", "api_key": "env:X"},
        {"kind": "vertex", "location": "global", "project": "p-1", "credentials": '{"type": "service_account"}'},
        {"kind": "openai", "location": "eu-central-1"},
        {"kind": "anthropic", "credentials": "env:X"},
    ],
)
def test_configurations_that_cannot_be_meant(wrong: dict[str, Any]) -> None:
    with pytest.raises((ValueError, ConfigError)):
        ProviderConfig.model_validate(wrong)
