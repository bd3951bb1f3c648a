"""People at the registry's pages: who may come in, and in whose name they act."""

from __future__ import annotations

from pathlib import Path

import httpx
from tests.serving.sign_in.conftest import PASSWORD, by_password
from tests.support.serving import running

from llmops.core.people.accounts import Accounts
from llmops.core.people.passwords import Cost
from llmops.core.state import StateConfig
from llmops.registry.assets import Registry
from llmops.registry.workflow import Workflows
from llmops.serving.registry_pages.app import Rooms
from llmops.serving.sign_in.config import SignInConfig


def test_the_registrys_pages_are_for_operators(tmp_path: Path) -> None:
    state = StateConfig(dir=tmp_path)
    with Registry(state) as registry, Workflows(state) as workflows:
        accounts = Accounts(registry.sql, Cost(log2_n=4, p=1))
        for name, group in (("olga", "platform"), ("ulf", "staff")):
            accounts.add(name, PASSWORD, groups=[group])
        sign_in = SignInConfig(operators=("platform",))
        with running(tmp_path, rooms=Rooms(registry, workflows), sign_in=sign_in) as server:

            def browser() -> httpx.Client:
                return server.client(headers={"origin": server.url, "accept": "text/html"})

            with browser() as olga, browser() as ulf:
                led = olga.get("/registry/approvals")
                assert led.status_code == 303
                assert led.headers["location"] == "/auth/sign-in?next=/registry/approvals"
                assert olga.get("/registry/api/assets", headers={"accept": "*/*"}).status_code == 401
                back = by_password(olga, "olga", wanted="/registry/approvals")
                assert back.headers["location"] == "/registry/approvals"
                page = olga.get("/registry/")
                assert page.status_code == 200
                assert "olga" in page.text
                assert 'action="/auth/sign-out"' in page.text

                by_password(ulf, "ulf")
                assert ulf.get("/registry/").status_code == 403
                accounts.set_groups(accounts.named("olga").person_id, [])
                assert olga.get("/registry/").status_code == 403
                accounts.set_groups(accounts.named("olga").person_id, ["platform"])
                assert "You are signed out" in olga.post("/auth/sign-out").text
                assert olga.get("/registry/").status_code == 303
