"""People over https: by the server's own certificate, and through a proxy that is believed because it is named."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select
from tests.serving.sign_in.conftest import PASSWORD, Place, by_password
from tests.serving.sign_in.test_door import cookie_of, session
from tests.support.oidc_provider import CLIENT, SECRET, OidcProvider, running_provider
from tests.support.serving import Running, question, running, stream
from tests.support.tls_proxy import TlsProxy, running_proxy
from tests.support.wire import certificate

from llmops.core.errors import ConfigError
from llmops.core.people.accounts import Accounts
from llmops.core.people.passwords import Cost
from llmops.core.people.tables import TRIES
from llmops.core.sql import Sql, open_sql
from llmops.core.tls import server_context
from llmops.serving.config import ServeConfig, refuse_open_door
from llmops.serving.sign_in.config import OidcConfig, SignInConfig


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def oidc() -> Iterator[OidcProvider]:
    with running_provider() as provider:
        yield provider


def config_of(provider: OidcProvider, folder: Path, public_url: str | None) -> SignInConfig:
    (folder / "secret").write_text(SECRET)
    oidc = OidcConfig(issuer=provider.issuer, client_id=CLIENT, client_secret=f"file:{folder / 'secret'}")
    return SignInConfig(accounts=True, oidc=oidc, public_url=public_url)


def browser(url: str, files: tuple[Path, Path], **headers: str) -> httpx.Client:
    known = ssl.create_default_context(cafile=str(files[0]))
    return httpx.Client(base_url=url, verify=known, trust_env=False, timeout=60, headers={"origin": url, **headers})


def there_and_back(client: httpx.Client) -> httpx.Response:
    out = client.get("/auth/provider")
    assert out.status_code == 303, out.text
    way = [cookie for cookie in client.cookies.jar if cookie.name == "__Host-llmops_way"]
    assert [cookie.secure for cookie in way] == [True]
    location = httpx.get(out.headers["location"], trust_env=False, timeout=60).headers["location"]
    assert location.startswith(f"{client.base_url}/auth/callback".replace("//auth", "/auth"))
    return client.get(location)


def asks_and_leaves(client: httpx.Client) -> None:
    """What a person does who is signed in; the cookie is bound to this host and to https."""
    [cookie] = [cookie for cookie in client.cookies.jar if "person" in cookie.name]
    assert (cookie.name, cookie.secure, cookie.domain_specified) == ("__Host-llmops_person", True, False)
    assert stream(client, question())
    assert client.post("/auth/sign-out").status_code == 200
    assert session(client) == 401


def tries_from(sql: Sql) -> set[str]:
    with sql.read() as connection:
        buckets = connection.execute(select(TRIES.c.bucket)).scalars().all()
    return {bucket.removeprefix("from:") for bucket in buckets if bucket.startswith("from:")}


@pytest.fixture(scope="module")
def direct(tmp_path_factory: pytest.TempPathFactory, oidc: OidcProvider, files: tuple[Path, Path]) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("direct")
    with (
        running(folder, sign_in=config_of(oidc, folder, None), tls_cert=files[0], tls_key=files[1]) as server,
        open_sql(server.config.state) as sql,
    ):
        Accounts(sql, Cost(log2_n=4, p=1)).add("ada", PASSWORD)
        yield server


def test_the_server_itself_speaks_https(direct: Running, files: tuple[Path, Path]) -> None:
    assert direct.url.startswith("https://localhost:")
    with browser(direct.url, files) as client:
        assert session(client) == 401
        assert by_password(client, "ada").status_code == 303
        asks_and_leaves(client)
    with browser(direct.url, files) as client:
        assert there_and_back(client).status_code == 303
        asks_and_leaves(client)
    with pytest.raises(httpx.HTTPError):
        httpx.get(direct.url.replace("https", "http"), trust_env=False, timeout=60)


def test_a_certificate_that_cannot_be_used_stops_the_start(tmp_path: Path, files: tuple[Path, Path]) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    for cert, key in ((broken, None), (files[0], broken), (tmp_path / "gone.pem", None)):
        with pytest.raises(ConfigError, match="certificate cannot be used"):
            server_context(cert, key, hint="mend it")
    with pytest.raises(ValueError, match="without `tls_cert`"):
        ServeConfig(tls_key=files[1])
    people = ServeConfig(host="192.0.2.1", sign_in=SignInConfig(), tls_cert=files[0], tls_key=files[1])
    refuse_open_door(people)
    for wrong in ("0.0.0.0/0", "::/0", "proxy.example.org", "10.0.0.1/8"):
        with pytest.raises(ValueError, match="trusted_proxies"):
            ServeConfig(trusted_proxies=(wrong,))


@pytest.fixture(scope="module")
def proxied(
    tmp_path_factory: pytest.TempPathFactory, oidc: OidcProvider, files: tuple[Path, Path]
) -> Iterator[tuple[TlsProxy, Running]]:
    folder = tmp_path_factory.mktemp("proxied")
    with running_proxy(files) as proxy:
        sign_in = config_of(oidc, folder, proxy.url)
        with running(folder, sign_in=sign_in, trusted_proxies=("127.0.0.0/8",)) as server:
            proxy.backend = server.url
            with open_sql(server.config.state) as sql:
                Accounts(sql, Cost(log2_n=4, p=1)).add("ada", PASSWORD)
            yield proxy, server


def test_a_named_proxy_says_who_came_and_how(proxied: tuple[TlsProxy, Running], files: tuple[Path, Path]) -> None:
    proxy, server = proxied
    with browser(proxy.url, files) as client:
        assert by_password(client, "ada").status_code == 303
        asks_and_leaves(client)
        assert there_and_back(client).status_code == 303
        asks_and_leaves(client)
        forged = {"x-forwarded-for": "198.51.100.1"}  # what a client says of itself stands before what the proxy says
        client.headers.update(forged)
        assert by_password(client, "ada", "a wrong password").status_code == 401
    with open_sql(server.config.state) as sql:
        assert tries_from(sql) == {proxy.came_from}


def test_nobody_else_is_believed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program on this machine could else guess passwords from a new address each time."""
    place.accounts.add("believed", PASSWORD)
    with place.sql.begin() as connection:
        connection.execute(TRIES.delete())
    said = {"x-forwarded-for": "203.0.113.9", "x-forwarded-proto": "https", "x-forwarded-host": "evil.example"}
    with place.browser() as client:
        client.headers.update(said)
        assert by_password(client, "believed", "a wrong password").status_code == 401
        assert by_password(client, "believed").status_code == 303
        name, _ = cookie_of(client)
        assert not name.startswith("__Host-")
        [cookie] = [cookie for cookie in client.cookies.jar if cookie.name == name]
        assert cookie.secure is False
        assert "evil.example" not in client.get("/auth/provider").headers["location"]
    assert tries_from(place.sql) == {"127.0.0.1"}


def test_the_environment_names_no_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uvicorn would take whom to believe from there."""
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    with running(tmp_path) as server, server.client(headers={"x-forwarded-proto": "https"}) as client:
        assert "secure" not in client.post("/v1/session", json={}).headers["set-cookie"].lower()
