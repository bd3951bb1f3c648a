"""The example job files of tracing and facts are valid, and say what their pages say."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from llmops.gateway.config import GatewayConfig
from llmops.rag.config import RagConfig
from llmops.serving.config import ServeConfig, refuse_open_door

CONFIGS = Path(__file__).parents[2] / "configs"


def test_the_example_of_facts_declares_what_its_documents_and_sources_state() -> None:
    config = RagConfig(**yaml.safe_load((CONFIGS / "rag-facts.yaml").read_text(encoding="utf-8")))
    assert config.retrieval.self_query is not None
    assert set(config.retrieval.self_query.facts) == {"author", "date", "team", "kind"}
    assert config.answer.llm is not None
    assert config.index.sources[1].acl == ("board",)


def test_the_example_of_tracing_keeps_content_out() -> None:
    config = ServeConfig(**yaml.safe_load((CONFIGS / "serve-traced.yaml").read_text(encoding="utf-8")))
    assert config.tracing.exporter == "otlp"
    assert not config.tracing.content
    assert ServeConfig().tracing.exporter == "off"


def test_the_example_of_the_gateways_tracing_tells_only_our_own_server() -> None:
    config = GatewayConfig(**yaml.safe_load((CONFIGS / "gateway-traced.yaml").read_text(encoding="utf-8")))
    assert {name: one.traceparent for name, one in config.providers.items()} == {"anthropic": False, "vllm": True}
    assert config.tracing.exporter == "otlp"
    assert not config.tracing.content
    assert GatewayConfig.model_fields["tracing"].default.exporter == "off"


def test_the_example_of_several_indexes_names_each_once() -> None:
    config = RagConfig(**yaml.safe_load((CONFIGS / "rag-several.yaml").read_text(encoding="utf-8")))
    assert [(other.name, other.weight) for other in config.also] == [("dev.wiki.index", 1.5), ("dev.reports.index", 1)]


def test_the_page_about_signing_in_shows_servers_that_may_be_opened() -> None:
    page = (CONFIGS.parent / "docs" / "sign-in.md").read_text(encoding="utf-8")
    shown = [ServeConfig(**yaml.safe_load(block)) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    for config in shown:
        refuse_open_door(config)
    assert [config.https for config in shown] == [False, True, True]
