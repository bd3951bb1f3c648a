"""The outer door: foreign hosts and origins, oversized and endless bodies, sealed responses, sessions and keys."""

from __future__ import annotations

import socket
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.serving import Running, ask, question, running

from llmops.core.errors import ConfigError, IntegrityError
from llmops.core.web.hosts import hostname
from llmops.serving.config import ServeConfig, refuse_open_door
from llmops.serving.identity import Sessions


def get(server: Running, path: str = "/healthz", **headers: str) -> Any:
    with server.client() as client:
        return client.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "localhost.evil.example", "", "127.0.0.1.:80"])
def test_a_foreign_host_is_refused_everywhere(server: Running, host: str) -> None:
    for path in ("/", "/healthz", "/v1/models", "/openapi.json"):
        response = get(server, path, host=host)
        assert response.status_code == 403
        assert response.json()["error"]["code"] == "foreign_host"


@pytest.mark.parametrize("host", ["localhost", "localhost:1234", "127.0.0.1", "[::1]:80"])
def test_the_names_of_loopback_are_own(server: Running, host: str) -> None:
    assert get(server, host=host).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", "file://"])
def test_a_foreign_origin_is_refused(server: Running, origin: str) -> None:
    with server.client() as client:
        response = client.post("/v1/chat/completions", json=question(), headers={"origin": origin})
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "foreign_origin"
    assert "access-control-allow-origin" not in response.headers


def test_the_own_origin_passes_also_behind_tls(server: Running) -> None:
    host = server.url.removeprefix("http://")
    for scheme in ("http", "https"):
        assert get(server, "/v1/models", origin=f"{scheme}://{host}").status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_request_of_another_site_without_origin_is_refused(server: Running, site: str) -> None:
    assert get(server, "/v1/models", sec_fetch_site=site).status_code == 403
    assert get(server, "/", sec_fetch_site=site).status_code == 200  # a link may lead to the page


def test_an_allowed_origin_may_call(state: Path) -> None:
    other = "https://intranet.example.org"
    with running(state, allowed_origins=(other,), allowed_hosts=("chat.example.org",)) as server:
        assert get(server, host="chat.example.org").status_code == 200
        assert get(server, "/v1/models", origin=other).headers["access-control-allow-origin"] == other
        with server.client() as client:
            preflight = client.options(
                "/v1/chat/completions", headers={"origin": other, "access-control-request-method": "POST"}
            )
        assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (204, other)


def test_every_response_is_sealed(server: Running) -> None:
    for path in ("/", "/app.js", "/v1/models", "/nowhere"):
        headers = get(server, path).headers
        assert "script-src 'self'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


def test_a_large_body_is_refused_announced_or_not(state: Path) -> None:
    with running(state, limits={"body_bytes": 10_000}) as server, server.client() as client:
        announced = client.post("/v1/chat/completions", json=question("x" * 20_000))
        chunked = client.post(
            "/v1/chat/completions", content=iter([b"x" * 6000] * 3), headers={"content-type": "application/json"}
        )
    assert announced.status_code == chunked.status_code == 413
    assert announced.json()["error"]["code"] == "too_large"


def test_a_body_that_does_not_arrive_ends(state: Path) -> None:
    with running(state, limits={"body_timeout_s": 0.2}) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.settimeout(60)
            connection.sendall(
                b"POST /v1/feedback HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: 100\r\n\r\n{"
            )
            assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")


@given(st.text(max_size=40))
def test_any_host_header_has_a_name_or_none(host: str) -> None:
    name = hostname(host)
    assert name == "" or name in host.lower()


def test_a_browser_gets_a_session_that_makes_it_a_person(server: Running) -> None:
    with server.client() as client:
        cookie = client.post("/v1/session", json={}).headers["set-cookie"]
        assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
        assert "set-cookie" not in client.post("/v1/session", json={}).headers
        ask(client)
    assert server.log()[-1]["requester"].startswith("session:")


def test_the_page_itself_sets_no_cookie(server: Running) -> None:
    assert "set-cookie" not in get(server, "/").headers


def test_a_forged_session_is_no_session(server: Running) -> None:
    with server.client() as client:
        client.post("/v1/session", json={})
        name, value = next(iter(client.cookies.items()))
        session_id, _, signature = value.partition(".")
        other = session_id[:-1] + ("0" if session_id[-1] != "0" else "1")
        for forged in (f"{other}.{signature}", session_id, f"{session_id}.", f"{session_id}.é", "x.y"):
            client.cookies.clear()
            response = client.post(
                "/v1/chat/completions", json=question(), headers=[(b"cookie", f"{name}={forged}".encode())]
            )
            assert response.status_code == 200
            assert server.log()[-1]["requester"] == "local"


def test_the_session_key_is_private_kept_and_checked(tmp_path: Path) -> None:
    cookie = Sessions.open(tmp_path).issue()
    path = tmp_path / "session.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Sessions.open(tmp_path).read(cookie) is not None
    path.chmod(0o644)
    with pytest.raises(IntegrityError, match="other users"):
        Sessions.open(tmp_path)
    path.chmod(0o600)
    path.write_bytes(b"short")
    with pytest.raises(IntegrityError, match="damaged"):
        Sessions.open(tmp_path)


def test_an_old_session_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = Sessions.open(tmp_path)
    now = time.time()
    with monkeypatch.context() as patch:
        patch.setattr("llmops.serving.identity.new_id", lambda: _id_at(now - 181 * 86400))
        old = sessions.issue()
    assert sessions.read(old) is None
    assert sessions.read(sessions.issue()) is not None


def _id_at(seconds: float) -> str:
    stamp = f"{int(seconds * 1000):012x}"
    return f"{stamp[:8]}-{stamp[8:]}-7000-8000-000000000000"


def test_keys_open_and_close(state: Path) -> None:
    with running(state, require_keys=True) as server, server.client() as client:
        without = client.post("/v1/chat/completions", json=question())
        assert (without.status_code, without.headers["www-authenticate"]) == (401, "Bearer")
        assert client.post("/v1/session", json={}).status_code == 401
        assert client.get("/metrics").status_code == 401
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
        assert client.get("/").status_code == 200  # the page asks for the key
        for token, status in (("lk_one", 200), ("lk_nobody", 401), ("lk_gateway", 403), ("sk-other", 401)):
            headers = {"authorization": f"Bearer {token}"}
            assert client.post("/v1/chat/completions", json=question(), headers=headers).status_code == status
        assert client.post("/v1/session", json={}, headers={"authorization": "Bearer lk_one"}).status_code == 200
        assert not client.cookies
    assert [row["requester"] for row in server.log()] == ["key:one"]


def test_without_required_keys_a_wrong_one_is_still_refused(server: Running) -> None:
    with server.client() as client:
        wrong = client.post("/v1/chat/completions", json=question(), headers={"authorization": "Bearer lk_nobody"})
        filler = client.post("/v1/chat/completions", json=question(), headers={"authorization": "Bearer none"})
    assert (wrong.status_code, filler.status_code) == (401, 200)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"host": "0.0.0.0"}, "open the chat to everybody"),
        ({"host": "192.168.1.5"}, "open the chat to everybody"),
        ({"host": "::"}, "open the chat to everybody"),
        ({"host": "chat.example.org"}, "open the chat to everybody"),
        ({"host": "0.0.0.0", "require_keys": True}, "needs the names"),
    ],
)
def test_an_open_door_is_refused(settings: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=what) as refused:
        refuse_open_door(ServeConfig(**settings))
    assert refused.value.hint


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"host": "localhost"},
        {"host": "127.0.0.2"},
        {"host": "::1"},
        {"host": "0.0.0.0", "require_keys": True, "allowed_hosts": ("chat.example.org",)},
        {"host": "192.168.1.5", "require_keys": True},
    ],
)
def test_a_guarded_door_opens(settings: dict[str, Any]) -> None:
    config = ServeConfig(**settings)
    refuse_open_door(config)
    strangers = config.model_copy(update={"host": "0.0.0.0", "require_keys": False, "allowed_hosts": ()})
    with pytest.raises(ConfigError):  # the same door, open to strangers: what guards it is what was asked for
        refuse_open_door(strangers)


def test_no_cache_keeps_what_the_api_tells(server: Running) -> None:
    with server.client() as client:
        passage = {"model": "chat", "uri": "guide/ingest.pdf", "start": 0, "end": 9}
        told = [
            client.get("/v1/passages", params=passage),
            client.get("/v1/passages", params={**passage, "uri": "hr/salaries.docx"}),
            client.get("/v1/models"),
            client.post("/v1/chat/completions", json=question()),
            client.post("/v1/chat/completions", json=question(stream=True)),
        ]
    assert [answer.status_code for answer in told] == [200, 404, 200, 200, 200]
    assert [answer.headers.get_list("cache-control") for answer in told] == [["no-store"]] * 5
