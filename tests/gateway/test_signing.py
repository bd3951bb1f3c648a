"""Credentials over time: a first token that is waited for, renewals ahead of need, failed sign-ins, rotated files."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support.upstreams import bedrock, vertex
from tests.support.upstreams.bedrock import BedrockServer
from tests.support.upstreams.vertex import TokenServer, VertexServer
from tests.support.upstreams.wire import KEY, running
from tests.support.wire import certificate, full_listener

from llmops.core.errors import ConfigError
from llmops.gateway.calls import Fault, Headers, UpstreamCall, UpstreamRequest
from llmops.gateway.config import ProviderConfig
from llmops.gateway.http.timers import Timers
from llmops.gateway.signing import SignedPool, google, open_signed, watch
from llmops.gateway.signing.account import ServiceAccount, read_token

CHAT = UpstreamRequest(
    f"/v1/projects/{vertex.PROJECT}/locations/{vertex.LOCATION}/publishers/google/models/gemini-3.8-flash:generateContent",
    ((b"content-type", b"application/json"),),
    b'{"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}',
)
CONVERSE = UpstreamRequest(
    "/model/m/converse",
    ((b"content-type", b"application/json"),),
    b'{"messages": [{"role": "user", "content": [{"text": "Hi"}]}]}',
)


class Heard:
    """A listener that can be waited for."""

    def __init__(self) -> None:
        self.status = 0
        self.fault: Fault | None = None
        self.over = asyncio.Event()

    def on_reply(self, status: int, headers: Headers, body: bytes) -> None:
        self.on_head(status, headers)
        self.on_data(body)
        self.on_end()

    def on_head(self, status: int, headers: Headers) -> None:
        self.status = status

    def on_data(self, data: bytes) -> None:
        """Not looked at."""

    def on_end(self) -> None:
        self.over.set()

    def on_fault(self, fault: Fault) -> None:
        self.fault = fault
        self.over.set()


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[TokenServer]:
    server = TokenServer(*certificate(tmp_path))
    yield server
    server.close()


@pytest.fixture
def server(tokens: TokenServer) -> Iterator[VertexServer]:
    with running(VertexServer) as found:
        found.tokens = tokens
        yield found


def google_config(folder: Path, tokens: TokenServer, server: VertexServer, **more: Any) -> ProviderConfig:
    (folder / "google.json").write_text(json.dumps(tokens.key_file()))
    return ProviderConfig.model_validate(
        {
            "kind": "vertex",
            "project": vertex.PROJECT,
            "location": vertex.LOCATION,
            "url": server.url,
            "credentials": f"file:{folder}/google.json",
            "tls": {"ca_file": folder / "localhost.pem"},
            **more,
        }
    )


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


@asynccontextmanager
async def signed(config: ProviderConfig) -> AsyncIterator[SignedPool]:
    timers = Timers(asyncio.get_running_loop())
    pool = open_signed(config, timers)
    try:
        yield pool
    finally:
        pool.close()
        await asyncio.sleep(0.05)
        timers.close()


def start(pool: SignedPool, request: UpstreamRequest = CHAT) -> tuple[Heard, UpstreamCall]:
    heard = Heard()
    return heard, pool.call(request, heard, first_byte_s=30, idle_s=30)


async def ask(pool: SignedPool, request: UpstreamRequest = CHAT) -> Heard:
    heard, _ = start(pool, request)
    await heard.over.wait()
    return heard


async def fault_of(pool: SignedPool, kind: str) -> Fault:
    """The fault of a request, once it is of this kind: what its signer was told last may be on its way still."""
    while (fault := (await ask(pool)).fault) is None or fault.kind != kind:  # noqa: ASYNC110 - nobody tells of it
        await asyncio.sleep(0.01)
    return fault


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - what is waited for has no event
        await asyncio.sleep(0.01)


def test_the_first_requests_wait_for_one_token(tmp_path: Path, tokens: TokenServer, server: VertexServer) -> None:
    async def work() -> None:
        async with signed(google_config(tmp_path, tokens, server)) as pool:
            found = await asyncio.gather(*(ask(pool) for _ in range(5)))
            assert [heard.status for heard in found] == [200] * 5
            heard, call = start(pool)
            await heard.over.wait()
            assert (heard.status, call.sent) == (200, True)
        assert len(tokens.given) == 1

    run(work())


def test_nothing_is_asked_of_anybody_by_a_configuration_that_is_only_checked(
    tmp_path: Path, tokens: TokenServer, server: VertexServer
) -> None:
    async def work() -> None:
        timers = Timers(asyncio.get_running_loop())
        open_signed(google_config(tmp_path, tokens, server), timers).close()
        await asyncio.sleep(0.2)
        timers.close()
        assert tokens.asked == []

    run(work())


def test_a_token_is_renewed_before_its_end_while_requests_go_on(
    tmp_path: Path, tokens: TokenServer, server: VertexServer
) -> None:
    tokens.lasts_s = 2

    async def work() -> None:
        async with signed(google_config(tmp_path, tokens, server)) as pool:
            while len(tokens.given) < 3:
                heard = await ask(pool)
                assert (heard.status, heard.fault) == (200, None)
                await asyncio.sleep(0.02)
        assert server.refused == []

    run(work())


def test_a_sign_in_that_fails_is_told_and_tried_again(
    tmp_path: Path, tokens: TokenServer, server: VertexServer, caplog: pytest.LogCaptureFixture
) -> None:
    tokens.refusal = (400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."})

    async def work() -> None:
        async with signed(google_config(tmp_path, tokens, server)) as pool:
            told = (await ask(pool)).fault
            assert told is not None
            assert (told.kind, told.status, told.code) == ("unauthenticated", 502, "sign_in_failed")
            assert told.message == ("the gateway could not sign in at 127.0.0.1: invalid_grant: Invalid JWT Signature.")
            tokens.refusal = (503, {"error": "backend"})
            busy = await fault_of(pool, "overloaded")
            assert busy.status == 503
            assert busy.retry_after_s is not None
            tokens.refusal = None
            while (await ask(pool)).status != 200:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)

    with caplog.at_level(logging.ERROR):
        run(work())
    assert "could not sign in" in caplog.text
    assert "PRIVATE KEY" not in caplog.text
    assert not any(token in caplog.text for token in tokens.given)


def test_a_token_serves_on_while_its_renewal_fails(tmp_path: Path, tokens: TokenServer, server: VertexServer) -> None:
    tokens.lasts_s = 4

    async def work() -> None:
        async with signed(google_config(tmp_path, tokens, server)) as pool:
            assert (await ask(pool)).status == 200
            tokens.refusal = (500, {})
            await until(lambda: len(tokens.asked) > 1)
            assert (await ask(pool)).status == 200
            tokens.refusal = None
            await until(lambda: len(tokens.given) > 1)

    run(work())


def test_a_token_service_that_does_not_prove_who_it_is_gets_no_assertion(
    tmp_path: Path, tokens: TokenServer, server: VertexServer
) -> None:
    async def work() -> None:
        async with signed(google_config(tmp_path, tokens, server, tls={})) as pool:
            fault = (await ask(pool)).fault
            assert fault is not None
            assert fault.kind == "tls"
        assert tokens.asked == []

    run(work())


def test_a_caller_who_leaves_or_a_pool_that_closes_ends_the_waiting(
    tmp_path: Path, tokens: TokenServer, server: VertexServer
) -> None:
    async def work() -> None:
        timers = Timers(asyncio.get_running_loop())
        pool = open_signed(google_config(tmp_path, tokens, server), timers)
        (gone, call), (kept, other) = start(pool), start(pool)
        call.pause()
        call.resume()
        call.cancel()
        pool.close()
        await kept.over.wait()
        assert kept.fault is not None
        assert (kept.fault.kind, gone.over.is_set()) == ("cancelled", False)
        assert (call.sent, other.sent) == (False, False)
        timers.close()

    run(work())


def test_waiting_ends(tmp_path: Path, tokens: TokenServer, server: VertexServer) -> None:
    config = google_config(tmp_path, tokens, server, connect_s=0.05)

    async def work() -> None:
        async with signed(config) as pool:
            fault = (await ask(pool)).fault
            assert fault is not None
            assert fault.kind in ("connect_timeout", "overloaded")

    with full_listener() as port:
        account = tokens.key_file() | {"token_uri": f"https://127.0.0.1:{port}/token"}
        (tmp_path / "google.json").write_text(json.dumps(account))
        run(work())


def test_a_replaced_key_of_a_service_account_is_taken_over(
    tmp_path: Path, tokens: TokenServer, server: VertexServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "EVERY_S", 0.05)
    other = TokenServer(tmp_path / "localhost.pem", tmp_path / "localhost.key")

    async def work() -> None:
        async with signed(google_config(tmp_path, tokens, server)) as pool:
            assert (await ask(pool)).status == 200
            before = pool.fingerprint
            (tmp_path / "google.json").write_text("{")
            await asyncio.sleep(0.2)
            assert (await ask(pool)).status == 200
            assert pool.fingerprint == before
            (tmp_path / "google.json").write_text(json.dumps(other.key_file()))
            await until(lambda: other.given and pool.fingerprint != before)

    try:
        run(work())
    finally:
        other.close()


@pytest.mark.parametrize("form", ["aws", "credentials", "api_key"])
def test_replaced_keys_of_aws_are_taken_over(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "EVERY_S", 0.05)
    secret, identity = tmp_path / "secret", tmp_path / "id"
    identity.write_text(bedrock.ACCESS_KEY)

    def write(value: str) -> None:
        keys = {"AccessKeyId": bedrock.ACCESS_KEY, "SecretAccessKey": value}
        secret.write_text(json.dumps(keys, indent=1) if form == "credentials" else value)

    right = KEY if form == "api_key" else bedrock.SECRET_KEY
    write("wrong" * 8)
    given = f"file:{secret}"
    ways = {"aws": {"access_key_id": f"file:{identity}", "secret_access_key": given}}

    async def work(server: BedrockServer) -> None:
        config = {"kind": "bedrock", "location": bedrock.REGION, "url": server.url, form: ways.get(form, given)}
        async with signed(ProviderConfig.model_validate(config)) as pool:
            assert (await ask(pool, CONVERSE)).status == 403
            secret.unlink()
            await asyncio.sleep(0.2)
            assert (await ask(pool, CONVERSE)).status == 403
            write(right)
            while (await ask(pool, CONVERSE)).status != 200:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)

    with running(BedrockServer) as server:
        run(work(server))


@pytest.mark.parametrize(
    "wrong",
    [
        "no json",
        "[]",
        '{"type": "authorized_user"}',
        {"client_email": ""},
        {"private_key": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"},
        {"token_uri": "http://oauth2.googleapis.com/token"},
        {"token_uri": 5},
    ],
)
def test_a_key_file_that_is_none(tokens: TokenServer, wrong: Any) -> None:
    document = wrong if isinstance(wrong, str) else json.dumps({**tokens.key_file(), **wrong})
    with pytest.raises(ConfigError) as caught:
        ServiceAccount.of(document, "file:google.json")
    assert "AAAA" not in str(caught.value)
    assert repr(tokens.key_file()["private_key"][40:60]) not in repr(
        ServiceAccount.of(json.dumps(tokens.key_file()), "")
    )


@pytest.mark.parametrize("wrong", ["no json", "[]", "{}", '{"AccessKeyId": "AKID"}', '{"AccessKeyId": 1}'])
def test_credentials_of_aws_that_are_none(tmp_path: Path, wrong: str) -> None:
    (tmp_path / "aws.json").write_text(wrong)
    config = {"kind": "bedrock", "location": "eu-central-1", "credentials": f"file:{tmp_path}/aws.json"}

    async def work() -> None:
        timers = Timers(asyncio.get_running_loop())
        with pytest.raises(ConfigError, match="no access key"):
            open_signed(ProviderConfig.model_validate(config), timers)
        timers.close()

    run(work())


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"access_token": "x", "expires_in": "soon"}', b'{"access_token": "a\\nb", "expires_in": 9}'],
)
def test_a_reply_without_a_token(body: bytes) -> None:
    with pytest.raises(Fault) as caught:
        read_token(200, body, 0.0)
    assert caught.value.kind == "invalid"


def test_a_token_is_not_sent_up_to_its_very_end() -> None:
    token = read_token(200, b'{"access_token": "x", "expires_in": 3599}', 1000.0)
    assert (token.lasts_s, token.good_until) == (3599.0, 1000.0 + 3589.0)
    assert "x'" not in repr(token)
    assert google.AHEAD_S > 60
