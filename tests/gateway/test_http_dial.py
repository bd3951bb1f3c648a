"""Connections to providers: names, addresses, the clock, and TLS."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.raw_upstream import OK, Heard, fetch, pool, saying, upstream
from tests.support.wire import JSON, certificate, full_listener, run, until

from llmops.core.errors import ConfigError
from llmops.gateway.calls import UpstreamRequest
from llmops.gateway.config import ProviderConfig, TlsConfig
from llmops.gateway.http.client import OriginPool
from llmops.gateway.http.dial import Address, Dialer, Origin
from llmops.gateway.http.timers import Timers


def test_refused() -> None:
    async def work() -> None:
        with socket.socket() as sock:  # bound, so that nobody else listens there
            sock.bind(("127.0.0.1", 0))
            async with pool(f"http://127.0.0.1:{sock.getsockname()[1]}") as one:
                heard = Heard()
                call = one.call(UpstreamRequest("/", JSON, b""), heard, first_byte_s=30, idle_s=30)
                await heard.over.wait()
                assert heard.fault is not None
                assert (heard.fault.kind, call.sent) == ("refused", False)

    run(work())


def test_a_name_that_nobody_knows_is_refused() -> None:
    async def work() -> None:
        async with pool("http://nobody.invalid") as one:
            heard = await fetch(one)
            assert heard.fault is not None
            assert heard.fault.kind in ("refused", "connect_timeout")

    run(work())


def test_connecting_ends_by_the_clock() -> None:
    async def work() -> None:
        with full_listener() as port:
            async with pool(f"http://127.0.0.1:{port}", connect_s=0.2) as one:
                heard = await fetch(one)
                assert heard.fault is not None
                assert (heard.fault.kind, heard.fault.status) == ("connect_timeout", 504)

    run(work())


def test_tls_is_checked_against_the_configured_authority_and_sessions_are_used_again(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(cert, key)
    close = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

    async def work() -> None:
        resumed: list[bool] = []

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            resumed.append(writer.get_extra_info("ssl_object").session_reused)
            await saying(close)(reader, writer)

        async with upstream(script, ssl=served) as origin:
            url = f"https://127.0.0.1:{origin.port}"
            async with pool(url, tls=TlsConfig(ca_file=cert)) as one:
                for _ in range(3):
                    assert (await fetch(one)).body == b"ok"
                    await until(lambda one=one: not one.connections)
            assert resumed == [False, True, True]
            async with pool(url, tls=TlsConfig(ca_file=cert, server_name="localhost")) as one:
                assert (await fetch(one)).body == b"ok"

    run(work())


@pytest.mark.parametrize("fault", ["unknown authority", "other name", "not tls", "old tls"])
def test_an_upstream_that_does_not_prove_who_it_is_gets_nothing(tmp_path: Path, fault: str) -> None:
    cert, key = certificate(tmp_path)
    served: ssl.SSLContext | None = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    assert served is not None
    served.load_cert_chain(cert, key)
    tls = TlsConfig(ca_file=cert)
    if fault == "unknown authority":
        tls = TlsConfig()
    elif fault == "other name":
        tls = TlsConfig(ca_file=cert, server_name="elsewhere.example")
    elif fault == "not tls":
        served = None
    else:
        served.minimum_version = ssl.TLSVersion.TLSv1_2
        served.maximum_version = ssl.TLSVersion.TLSv1_2
        served.set_ciphers("AES128-SHA")

    async def work() -> None:
        got: list[bytes] = []

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 mail ready\r\n")
            got.append(await reader.read(65536))

        async with upstream(script, ssl=served) as origin:
            async with pool(f"https://127.0.0.1:{origin.port}", tls=tls) as one:
                heard = Heard()
                asked = UpstreamRequest("/", ((b"authorization", b"Bearer secret"),), b"{}")
                call = one.call(asked, heard, first_byte_s=30, idle_s=30)
                await heard.over.wait()
                assert heard.fault is not None
                assert (heard.fault.kind, call.sent) == ("tls", False)
            assert b"secret" not in b"".join(got)

    run(work())


def test_a_client_certificate_is_shown_where_it_is_asked_for(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    ours, our_key = certificate(tmp_path, "gateway")
    ours.write_bytes(ours.read_bytes() + our_key.read_bytes())
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ours)
    served.load_cert_chain(cert, key)
    served.verify_mode = ssl.CERT_REQUIRED

    async def work() -> None:
        async with upstream(saying(OK), ssl=served) as origin:
            url = f"https://127.0.0.1:{origin.port}"
            async with pool(url, tls=TlsConfig(ca_file=cert, client_cert=ours)) as one:
                assert (await fetch(one)).body == b"ok"
            async with pool(url, tls=TlsConfig(ca_file=cert)) as one:
                assert (await fetch(one)).fault is not None

    run(work())


@pytest.mark.parametrize(
    "config",
    [
        lambda folder: ProviderConfig(url="https://h", tls=TlsConfig(ca_file=folder / "missing.pem")),
        lambda folder: ProviderConfig(url="https://h", tls=TlsConfig(client_cert=folder / "missing.pem")),
        lambda folder: ProviderConfig(url="http://user:password@h"),
        lambda folder: ProviderConfig(url="http://"),
        lambda folder: ProviderConfig(url="http://h:99999"),
    ],
)
def test_a_provider_that_cannot_be_called_is_a_configuration_error(
    tmp_path: Path, config: Callable[[Path], ProviderConfig]
) -> None:
    async def work() -> None:
        timers = Timers(asyncio.get_running_loop())
        with pytest.raises(ConfigError) as error:
            OriginPool(config(tmp_path), timers)
        assert "password" not in str(error.value)
        timers.close()

    run(work())


def test_both_families_of_a_name_are_tried() -> None:
    """`localhost` often has an IPv6 address where nobody listens."""

    async def work() -> None:
        async with upstream(saying(OK)) as origin, pool(f"http://localhost:{origin.port}") as one:
            assert (await fetch(one)).body == b"ok"

    run(work())


def test_a_burst_of_calls_asks_the_resolver_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        asked = 0
        resolve = Dialer._look_up

        async def counted(self: Dialer) -> list[Address]:
            nonlocal asked
            asked += 1
            return await resolve(self)

        monkeypatch.setattr(Dialer, "_look_up", counted)
        async with upstream(saying(*[OK] * 20)) as origin, pool(f"http://localhost:{origin.port}") as one:
            for heard in await asyncio.gather(*[fetch(one) for _ in range(20)]):
                assert heard.body == b"ok"
            assert asked == 1

    run(work())


def test_addresses_are_tried_side_by_side_and_the_losers_closed() -> None:
    async def work() -> None:
        async with upstream(saying(OK)) as origin:
            dialer = Dialer(Origin.of(origin.url), None, None)
            with full_listener() as port:
                stuck = (socket.AF_INET, ("127.0.0.1", port))
                good = (socket.AF_INET, ("127.0.0.1", origin.port))
                connected = await dialer._connect([stuck, good])
                assert connected.getpeername() == good[1]
                connected.close()

    run(work())
