"""A caller whose head comes again on one connection is not read again; what changed since is in force all the same."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.faulty import Scripted, scripted_upstream, whole
from tests.support.worker import RunningWorker, route, running_worker, user_says

PATH = "/v1/chat/completions"


@pytest.fixture
def upstream() -> Iterator[Scripted]:
    with scripted_upstream() as one:
        one.answer = whole()
        yield one


@pytest.fixture
def worker(tmp_path: Path, upstream: Scripted) -> Iterator[RunningWorker]:
    routes = [route(), route("other")]
    with running_worker(
        tmp_path, providers={"first": {"url": upstream.url}}, routes=routes, require_keys=True
    ) as running:
        yield running


def test_a_revoked_key_is_refused_on_its_kept_connection(worker: RunningWorker) -> None:
    with worker.client(worker.key()) as client:
        assert [client.post(PATH, json=user_says()).status_code for _ in range(3)] == [200] * 3
        worker.policies.clear()
        worker.publish_keys()
        worker.until(lambda: client.post(PATH, json=user_says()).status_code == 401)


def test_a_key_expires_on_its_kept_connection(worker: RunningWorker) -> None:
    with worker.client(worker.key()) as client:
        assert [client.post(PATH, json=user_says()).status_code for _ in range(3)] == [200] * 3
        expires_at = time.time() + 1.0
        worker.policies[0] = replace(worker.policies[0], expires_at=expires_at)
        worker.publish_keys()
        worker.until(lambda: client.post(PATH, json=user_says()).status_code == 401)
        assert time.time() >= expires_at


def test_a_route_taken_from_a_key_is_refused_on_its_kept_connection(worker: RunningWorker) -> None:
    with worker.client(worker.key()) as client:
        assert client.post(PATH, json=user_says(model="other")).status_code == 200
        worker.policies[0] = replace(worker.policies[0], routes=frozenset({"chat"}))
        worker.publish_keys()
        worker.until(lambda: client.post(PATH, json=user_says(model="other")).status_code == 403)
        assert client.post(PATH, json=user_says()).status_code == 200


def test_a_route_that_is_no_more_is_refused_on_a_kept_connection(worker: RunningWorker) -> None:
    with worker.client(worker.key()) as client:
        assert client.post(PATH, json=user_says(model="other")).status_code == 200
        worker.reload(routes=[route()])
        worker.until(lambda: client.post(PATH, json=user_says(model="other")).status_code == 404)


def test_callers_that_share_a_connection_are_told_apart(worker: RunningWorker, upstream: Scripted) -> None:
    tokens = [worker.key(), worker.key()]
    wrong = tokens[0][:-1] + ("a" if tokens[0][-1] != "a" else "b")
    with worker.client() as client:

        def ask(token: str, length: int, **headers: str) -> int:
            headers["authorization"] = f"Bearer {token}"
            return client.post(PATH, json=user_says("x" * length), headers=headers).status_code

        for length in (1, 1, 20, 300):
            assert [ask(token, length) for token in tokens] == [200, 200]
            assert ask(wrong, length) == 401
        assert ask(tokens[1], 7, **{"x-llmops-tags": "a=1"}) == 200
        assert ask(tokens[1], 7, **{"x-llmops-tags": "a=2"}) == 200
    rows = worker.rows(10)
    first, second = (f"key:{policy.key_id}" for policy in worker.policies)
    assert [row["requester"] for row in rows] == [*[first, second] * 4, second, second]
    assert [row["tags"].get("a") for row in rows[-3:]] == [None, "1", "2"]
    lengths = [len(asked.body["messages"][0]["content"]) for asked in upstream.asked]
    assert lengths == [1, 1, 1, 1, 20, 20, 300, 300, 7, 7]
