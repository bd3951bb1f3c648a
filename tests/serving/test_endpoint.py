"""Endpoints follow their alias without dropping a request, and keep what works when the next version does not."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.support.chain import Shelf, SmallChain
from tests.support.serving import ask, eventually, question, running

from llmops.core.chain import ChainContext, Event, Message
from llmops.core.errors import NotFoundError, UnavailableError, UserError
from llmops.serving.config import EndpointConfig
from llmops.serving.endpoint import Endpoint, Endpoints


class Broken(SmallChain):
    """Loads, but can't find passages."""

    def stream(self, messages: Sequence[Message], context: ChainContext) -> Iterator[Event]:
        raise UserError("the index is gone")


def unloadable() -> SmallChain:
    raise UserError("the digest does not match")


def shelf_of(**more: Any) -> Shelf:
    return Shelf({1: SmallChain, 2: lambda: SmallChain(prompt_version="8"), 3: Broken, 4: unloadable}, **more)


def test_a_moved_alias_is_followed_while_requests_run(state: Path) -> None:
    shelf = shelf_of()
    stop, statuses, versions = threading.Event(), [], set()

    def keep_asking(url: str) -> None:
        with server.client() as client:
            while not stop.is_set():
                response = client.post("/v1/chat/completions", json=question())
                statuses.append(response.status_code)
                versions.add(response.json()["llmops"]["version"])

    with running(state, shelf) as server:
        threads = [threading.Thread(target=keep_asking, args=(server.url,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        eventually(lambda: 1 in versions)
        shelf.aliases["champion"] = 2
        eventually(lambda: 2 in versions)
        stop.set()
        for thread in threads:
            thread.join()
        assert set(statuses) == {200}
        assert versions == {1, 2}
        assert eventually(shelf.loaded[0].closed.is_set)
        assert not shelf.loaded[1].closed.is_set()
        rows = server.log()
        assert {(row["asset_version"], row["prompt_version"]) for row in rows} == {(1, "7"), (2, "8")}


def test_an_answer_finishes_on_the_version_it_began_with(state: Path) -> None:
    gate, inside = threading.Event(), threading.Event()

    def hold(number: int, context: ChainContext) -> None:
        if number == 1 and not inside.is_set():  # the first answer only: others may still reach the old version
            inside.set()
            assert gate.wait(60)

    shelf = Shelf({1: lambda: SmallChain(before_piece=hold), 2: SmallChain})
    answers: list[dict[str, Any]] = []
    with running(state, shelf) as server, server.client() as client:
        thread = threading.Thread(target=lambda: answers.append(ask(client)))
        thread.start()
        assert inside.wait(60)
        shelf.aliases["champion"] = 2
        with server.client() as other:
            eventually(lambda: ask(other)["llmops"]["version"] == 2)
        assert not shelf.loaded[0].closed.is_set()
        gate.set()
        thread.join()
        assert eventually(shelf.loaded[0].closed.is_set)
    assert answers[0]["llmops"]["version"] == 1


@pytest.mark.parametrize(("version", "why"), [(3, "the index is gone"), (4, "the digest does not match")])
def test_a_version_that_fails_leaves_the_old_one_in_service(state: Path, version: int, why: str) -> None:
    shelf = shelf_of()
    with running(state, shelf) as server, server.client() as client:
        shelf.aliases["champion"] = version
        ready = eventually(lambda: (found := client.get("/readyz")).json()["endpoints"]["chat"]["problem"] and found)
        assert ready.status_code == 200
        assert why in ready.json()["endpoints"]["chat"]["problem"]
        assert ask(client)["llmops"]["version"] == 1
        assert 'llmops_endpoint_reload_failing{endpoint="chat"} 1.0' in client.get("/metrics").text
        shelf.aliases["champion"] = 2
        eventually(lambda: ask(client)["llmops"]["version"] == 2)
        eventually(lambda: client.get("/readyz").json()["endpoints"]["chat"]["problem"] is None)
    assert all(chain.closed.wait(60) for chain in shelf.loaded)


def test_a_retired_champion_answers_nobody_until_there_is_another(state: Path) -> None:
    shelf = shelf_of()
    with running(state, shelf) as server, server.client() as client:
        assert ask(client)["llmops"]["version"] == 1
        del shelf.aliases["champion"]
        refused = eventually(
            lambda: (told := client.post("/v1/chat/completions", json=question())).status_code == 503 and told
        )
        error = refused.json()["error"]
        assert error["code"] == "no_champion"
        assert error["message"].startswith("endpoint `chat` serves nothing: `dev.docs.chat` has no champion")
        assert eventually(shelf.loaded[0].closed.is_set)
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["endpoints"]["chat"]["serving"]) == (503, None)
        assert ready.json()["endpoints"]["chat"]["problem"] == "`dev.docs.chat` has no champion"
        assert client.get("/v1/models/chat").json()["llmops"]["version"] is None
        shelf.aliases["champion"] = 2
        assert eventually(lambda: client.get("/readyz").status_code == 200)
        assert ask(client)["llmops"]["version"] == 2


def test_a_failing_version_is_not_tried_at_every_look() -> None:
    tries: list[int] = []

    def counted() -> SmallChain:
        tries.append(1)
        raise UserError("no")

    shelf = Shelf({1: SmallChain, 2: counted})
    endpoint = Endpoint(EndpointConfig(), shelf)
    endpoint.open()
    shelf.aliases["champion"] = 2
    for _ in range(50):
        assert endpoint.refresh() is False
    assert len(tries) == 1
    endpoint.close()


def test_a_pinned_version_ignores_the_alias() -> None:
    shelf = shelf_of(aliases={"champion": 1})
    endpoint = Endpoint(EndpointConfig(asset="dev.docs.chat/2"), shelf)
    endpoint.open()
    shelf.aliases["champion"] = 1
    assert endpoint.refresh() is False
    with endpoint.use() as loaded:
        assert (loaded.ref.version, loaded.alias) == (2, None)
    endpoint.close()


def test_an_unknown_alias_or_a_broken_first_version_stops_the_start() -> None:
    with (
        pytest.raises(NotFoundError, match="no alias `challenger`"),
        Endpoints((EndpointConfig(asset="dev.docs.chat@challenger"),), shelf_of(), poll_s=1),
    ):
        pass
    shelf = shelf_of()
    configs = (EndpointConfig(), EndpointConfig(name="other", asset="dev.docs.chat/3"))
    with pytest.raises(UserError, match="the index is gone"), Endpoints(configs, shelf, poll_s=1):
        pass
    assert all(chain.closed.is_set() for chain in shelf.loaded)


def test_before_the_first_version_an_endpoint_is_unavailable() -> None:
    with pytest.raises(UnavailableError, match="still loading"):
        Endpoint(EndpointConfig(), shelf_of()).acquire()
