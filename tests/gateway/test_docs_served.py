"""Every documented configuration is served by a real worker, and does what it is shown for.

The block itself runs, not a copy: one worker takes them over, one after the other, without a restart. What each part of
a block must do when it is asked stands in `ACTS`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.gateway.test_docs_configs import BLOCKS
from tests.support.docs_acts import ACTS, GUARDS
from tests.support.docs_scene import PATHS, Scene, World, first_tier, named, playing, secrets, staged
from tests.support.worker import RunningWorker, route

from llmops.gateway.config import RouteConfig


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("world"), stack)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorker]:
    nowhere = {"providers": {"first": {"url": "http://127.0.0.1:9/v1"}}, "routes": [route()]}
    running = RunningWorker(tmp_path_factory.mktemp("served"), nowhere)
    running.start(**secrets())
    yield running
    running.stop()


@pytest.mark.parametrize("block", BLOCKS)
def test_every_configuration_does_what_it_is_shown_for(
    block: str, world: World, worker: RunningWorker, tmp_path: Path
) -> None:
    with playing(worker, *staged(block, world, tmp_path)) as scene:
        for shown in scene.config.routes:
            check_route(scene, shown)
            for name, act in ACTS.items():
                if f"{name}:" in block:
                    act(scene, shown)
        for server in scene.servers.values():
            assert server.refused == [], "the provider itself would have refused that"


def check_route(scene: Scene, shown: RouteConfig) -> None:
    path = PATHS.get(shown.name, "/v1/chat/completions")
    reply = scene.ask(shown.name, path)
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-llmops-route"] == shown.name
    answered = {named(target): target for target in first_tier(scene.config, shown)}[reply.headers["x-llmops-target"]]
    stated = answered.price
    free = scene.config.unpriced == "free" or (stated is not None and not stated.input + stated.search)
    assert (float(reply.headers["x-llmops-cost-usd"]) == 0) is free


def test_every_act_is_of_something_shown() -> None:
    text = "".join(str(block.values[0]) for block in BLOCKS)
    assert [name for name in ACTS if f"{name}:" not in text] == []
    assert set(re.findall(r"check: (\w+)", text)) == set(GUARDS)
