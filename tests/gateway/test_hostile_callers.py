"""Hostile callers against a whole worker: what they send reaches no header of ours, no inner address, and no stack."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.faulty import Scripted, scripted_upstream
from tests.support.worker import PATIENCE_S, RunningWorker, route, running_worker, user_says

CHAT = "/v1/chat/completions"
HEADERS = (
    b"x-request-id", b"x-llmops-parent-invocation", b"x-llmops-tags", b"x-llmops-session", b"traceparent",
    b"authorization", b"x-api-key", b"api-key", b"anthropic-version", b"anthropic-beta", b"openai-organization",
    b"user-agent", b"cookie", b"x-forwarded-for", b"cache-control",
)  # fmt: skip
BREAKS = (
    b"a=b\rx-evil: 1",
    b"a=b\x00x-evil: 1",
    b"a=b\r\n x-evil: 1",
    b"a=\xff\xfe",
    b"a=b\x0bx-evil: 1",
    b"x" * 60_000,
)
INNER = (
    "http://169.254.169.254/latest/meta-data", "http://localhost:4001/api/keys", "http://[::1]/", "http://2130706433/",
    "http://0x7f.1/", "http://10.0.0.8/x.png", "file:///etc/passwd", "http://[::ffff:127.0.0.1]/",
)  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[Scripted]:
    with scripted_upstream() as running:
        yield running


@pytest.fixture(scope="module")
def running(server: Scripted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorker]:
    config = {"providers": {"first": {"url": server.url}}, "routes": [route()]}
    with running_worker(tmp_path_factory.mktemp("worker"), **config) as worker:
        yield worker


@pytest.fixture
def upstream(server: Scripted) -> Scripted:
    server.reset()
    return server


@pytest.fixture
def worker(running: RunningWorker, upstream: Scripted) -> Iterator[RunningWorker]:
    yield running
    assert running.chat().status_code == 200, "it still answers"
    assert "Traceback" not in running.log


def said(worker: RunningWorker, *pieces: bytes, replies: int = 1) -> bytes:
    """The raw answer to raw bytes; the connection is left open until so many replies came, or it was closed."""
    host, port = worker.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), PATIENCE_S) as sock:
        sock.sendall(b"".join(pieces))
        data = b""
        while data.count(b"HTTP/1.1 ") < replies or not _whole(data):
            part = sock.recv(65536)
            if not part:
                break
            data += part
    return data


def _whole(data: bytes) -> bool:
    head, _, body = data[data.rindex(b"HTTP/1.1 ") :].partition(b"\r\n\r\n")
    length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return bool(length) and len(body) >= int(length[0].split(b":")[1])


def post(body: bytes, *lines: bytes) -> bytes:
    head = [f"POST {CHAT} HTTP/1.1".encode(), b"Host: localhost", b"Content-Length: %d" % len(body), *lines]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


@pytest.mark.parametrize("name", HEADERS, ids=bytes.decode)
def test_no_header_of_a_caller_reaches_the_upstream_or_breaks_the_reply(
    worker: RunningWorker, upstream: Scripted, name: bytes
) -> None:
    body = json.dumps(user_says()).encode()
    worker.chat()
    usual = dict(upstream.asked[0].headers)
    for value in BREAKS:
        reply = said(worker, post(body, name + b": " + value))
        assert int(reply.split(b" ", 2)[1]) in (200, 400, 401, 403, 431), (value[:20], reply[:200])
        assert reply.count(b"HTTP/1.1 ") == 1
        assert b"x-evil" not in reply.partition(b"\r\n\r\n")[0]
    for asked in upstream.asked:
        assert asked.headers == usual | {"content-length": asked.headers["content-length"]}
        assert asked.path == "/v1/chat/completions"


@pytest.mark.parametrize(
    "field", ["model", "user", "safety_identifier", "service_tier", "stop", "seed", "metadata", "x-evil\r\nx-evil"]
)
def test_no_text_of_a_body_leaves_the_body(worker: RunningWorker, upstream: Scripted, field: str) -> None:
    evil = "chat\r\nx-evil: 1\r\n\r\nGET /evil HTTP/1.1\r\n\x00"
    reply = worker.chat({**user_says(), field: evil})
    assert reply.status_code in (200, 400, 404)
    assert not any("evil" in f"{key}{value}" for key, value in reply.headers.items())
    for asked in upstream.asked:
        assert asked.path == "/v1/chat/completions"
        assert not any("evil" in f"{key}{value}" for key, value in asked.headers.items())
    assert len(upstream.asked) <= 1


@pytest.mark.parametrize("url", INNER)
def test_what_is_inside_a_network_is_asked_for_by_nobody(worker: RunningWorker, upstream: Scripted, url: str) -> None:
    content: list[tuple[str, dict[str, Any]]] = [
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]}),
        ("/v1/responses", {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]}),
        (
            "/v1/messages",
            {
                "max_tokens": 9,
                "messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": url}}]}],
            },
        ),
        ("/v1/responses", {"input": "x", "tools": [{"type": "mcp", "server_label": "x", "server_url": url}]}),
        (CHAT, {**user_says(), "plugins": [{"id": "x", "source": url}]}),
        (CHAT, {"messages": [{"role": "user", "content": "flat", "image_url": url}]}),
    ]
    for path, body in content:
        with worker.client() as client:
            reply = client.post(path, json={"model": "chat", **body})
        assert (reply.status_code, "must not be followed" in reply.text) == (400, True), (path, reply.text)
        assert "169.254" not in reply.text
    assert upstream.asked == []


@pytest.mark.parametrize("depth", [100, 300, 900, 2_000, 200_000])
@pytest.mark.parametrize("place", ["stop", "messages", "content", "tools", "stream_options", "metadata"])
def test_deep_json_is_the_callers_mistake(worker: RunningWorker, upstream: Scripted, place: str, depth: int) -> None:
    deep = "[" * depth + "]" * depth
    message = '{"role":"user","content":"hi"}'
    if place == "messages":
        message = '{"role":"user","content":"hi","more":' + deep + "}"
    elif place == "content":
        message = '{"role":"user","content":' + deep + "}"
    more = f', "{place}": {deep}' if place not in ("messages", "content") else ""
    raw = f'{{"model": "chat", "max_tokens": 5, "messages": [{message}]{more}}}'
    for path in (CHAT, "/v1/messages"):
        with worker.client() as client:
            reply = client.post(path, content=raw.encode())
        assert reply.status_code == 400, (path, reply.text)
    assert upstream.asked == []


def test_nul_is_refused_where_it_is_no_text_and_kept_where_it_is(worker: RunningWorker, upstream: Scripted) -> None:
    body = json.dumps(user_says()).encode()
    for raw in (body[:-1] + b"\x00}", b"\x00" + body, body + b"\x00"):
        assert said(worker, post(raw)).startswith(b"HTTP/1.1 400 ")
    assert said(worker, post(body).replace(b"/v1/chat", b"/v1\x00/chat")).startswith(b"HTTP/1.1 400 ")
    assert upstream.asked == []
    reply = worker.chat(user_says("a\x00b"))
    assert reply.status_code == 200
    assert upstream.asked[0].body["messages"][0]["content"] == "a\x00b"
    assert json.loads(worker.row_of(reply)["request_json"])["messages"][0]["content"] == "a\x00b"


def test_two_lengths_are_one_refusal_and_no_call(worker: RunningWorker, upstream: Scripted) -> None:
    inner = post(json.dumps(user_says("smuggled")).encode())
    for lines in ((b"Transfer-Encoding: chunked",), (b"Content-Length: 0",), (b"Transfer-Encoding: xchunked",)):
        reply = said(worker, post(b"0\r\n\r\n", *lines), inner)
        assert reply.startswith(b"HTTP/1.1 400 ")
        assert reply.count(b"HTTP/1.1 ") == 1
    assert upstream.asked == []


def test_pipelined_calls_are_answered_in_order_each_by_its_own(worker: RunningWorker, upstream: Scripted) -> None:
    calls = [post(json.dumps(user_says(f"number {number}", user=f"u{number}")).encode()) for number in range(5)]
    wrong = post(b"{")
    reply = said(worker, *calls, wrong, replies=6)
    statuses = [part.split(b" ", 1)[0] for part in reply.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"200"] * 5 + [b"400"]
    assert [asked.body["messages"][0]["content"] for asked in upstream.asked] == [f"number {n}" for n in range(5)]
