"""A server that people sign in to, beside a provider of identities of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from tests.support.oidc_provider import CLIENT, SECRET, OidcProvider, running_provider
from tests.support.serving import Running, running

from llmops.core.people.accounts import Accounts
from llmops.core.people.passwords import Cost
from llmops.core.sql import Sql, open_sql
from llmops.serving.sign_in import provider as provider_module
from llmops.serving.sign_in.config import HistoryConfig, OidcConfig, SignInConfig

PASSWORD = "correct horse battery"


@dataclass
class Place:
    """One server with its accounts; each browser is a client of its own."""

    server: Running
    sql: Sql
    provider: OidcProvider

    @property
    def accounts(self) -> Accounts:
        return Accounts(self.sql, Cost(log2_n=4, p=1))

    def browser(self) -> httpx.Client:
        """A browser: it keeps cookies, and says which page a change comes from."""
        return self.server.client(headers={"origin": self.server.url})

    def signed_in(self, name: str, *groups: str) -> httpx.Client:
        """A browser of whoever signs in as `name`, an account that is made where there is none."""
        if name not in [person.name for person in self.accounts.list()]:
            self.accounts.add(name, PASSWORD, groups=groups)
        with self.browser() as first:
            answer = by_password(first, name)
            assert answer.status_code == 303, answer.text
        browser = self.browser()
        browser.cookies = first.cookies
        return browser

    def through_provider(self, browser: httpx.Client, wanted: str = "/") -> httpx.Response:
        """The whole way to the provider and back; gives the answer to the callback."""
        out = browser.get("/auth/provider", params={"next": wanted})
        assert out.status_code == 303, out.text
        back = httpx.get(out.headers["location"], trust_env=False, timeout=60)
        assert back.status_code == 303, back.text
        return browser.get(back.headers["location"])


def by_password(browser: httpx.Client, name: str, password: str = PASSWORD, wanted: str = "/") -> httpx.Response:
    return browser.post("/auth/sign-in", data={"name": name, "password": password, "next": wanted})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("state")
    secret = folder / "secret"
    secret.write_text(SECRET)
    with running_provider() as provider:
        oidc = OidcConfig(issuer=provider.issuer, client_id=CLIENT, client_secret=f"file:{secret}", name="Example")
        sign_in = SignInConfig(accounts=True, oidc=oidc)
        with (
            running(folder, sign_in=sign_in, history=HistoryConfig(sharing=True)) as server,
            open_sql(server.config.state) as sql,
        ):
            yield Place(server, sql, provider)


@pytest.fixture
def provider(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[OidcProvider]:
    """The provider as it behaves well; what a test changes is undone, and its keys are looked up when they change."""
    monkeypatch.setattr(provider_module, "LOOK_AGAIN_S", 0.0)
    before = {name: value for name, value in vars(OidcProvider()).items() if name != "issuer"}
    yield place.provider
    for name, value in before.items():
        setattr(place.provider, name, value)


@pytest.fixture
def folder(place: Place) -> Path:
    return place.server.config.state.root
