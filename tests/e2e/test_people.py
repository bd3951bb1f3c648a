"""People in a real browser: they sign in, find their conversations again, share one, and leave."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect
from tests.e2e.conftest import PATIENCE_MS
from tests.e2e.test_accessibility import violations
from tests.support.chain import Shelf, SmallChain
from tests.support.oidc_provider import CLIENT, SECRET, OidcProvider, running_provider
from tests.support.serving import Running, running

from llmops.core.chain import ChainContext
from llmops.core.people.accounts import Accounts
from llmops.core.people.passwords import Cost
from llmops.core.sql import open_sql
from llmops.serving.api import reply
from llmops.serving.sign_in.config import HistoryConfig, OidcConfig, SignInConfig

PASSWORD = "correct horse battery"


GOING_ON = threading.Event()
"""Where it is not set, an answer stops after its first piece."""
GOING_ON.set()


def held(number: int, context: ChainContext) -> None:
    while number and not GOING_ON.wait(0.01):
        context.cancel.check()


@pytest.fixture(scope="module")
def provider() -> Iterator[OidcProvider]:
    with running_provider() as started:
        started.asks = True
        yield started


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory, provider: OidcProvider) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("people")
    (folder / "secret").write_text(SECRET)
    oidc = OidcConfig(
        issuer=provider.issuer, client_id=CLIENT, client_secret=f"file:{folder / 'secret'}", name="Example"
    )
    sign_in = SignInConfig(accounts=True, oidc=oidc)
    shelf = Shelf({1: lambda: SmallChain(before_piece=held)})
    with running(folder, shelf, sign_in=sign_in, history=HistoryConfig(sharing=True)) as started:
        with open_sql(started.config.state) as sql:
            Accounts(sql, Cost(log2_n=4, p=1)).add("bob", PASSWORD)
        yield started


def sign_in_as(provider: OidcProvider, page: Page, url: str, name: str, *groups: str) -> None:
    provider.person = {"sub": name, "preferred_username": name, "groups": list(groups)}
    page.goto(url)
    page.get_by_role("link", name="Sign in with Example").click()
    page.get_by_role("link", name="Yes, it is me").click()
    page.locator(".layout").wait_for()


def test_a_person_finds_their_conversations_again(
    people: Running, provider: OidcProvider, browser: Browser, context: BrowserContext
) -> None:
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if "Content Security" in message.text else None)
    sign_in_as(provider, page, people.url, "ada", "board")

    page.get_by_label("Your question").fill("What is the director's salary?")
    page.keyboard.press("Enter")
    page.get_by_role("article", name="Answer 1").get_by_role("button", name="Copy", exact=True).wait_for()
    page.get_by_role("button", name="Good answer").click()
    page.get_by_text("Thank you, noted.").first.wait_for()
    page.get_by_role("button", name="New chat").click()
    page.get_by_label("Your question").fill("What does a thumb do?")
    page.keyboard.press("Enter")
    page.get_by_role("article", name="Answer 1").get_by_role("button", name="Copy", exact=True).wait_for()
    assert page.evaluate("() => localStorage.getItem('llmops.conversations')") is None

    page.reload()
    nav = page.get_by_role("navigation", name="Conversations")
    nav.get_by_label("Search your conversations").fill("SALARY director")
    expect(nav.get_by_role("button", name="What does a thumb do?", exact=True)).to_have_count(0)
    nav.get_by_role("button", name="What is the director's salary?", exact=True).click()
    expect(page.get_by_role("article")).to_contain_text("secret number of the board")
    expect(page.get_by_role("button", name="Good answer")).to_have_attribute("aria-pressed", "true")
    page.locator(".chip").first.click()
    expect(page.get_by_role("complementary")).to_contain_text("The director's salary is a secret number")
    page.keyboard.press("Escape")
    page.get_by_label("Your question").fill("And what does a thumb do there?")
    page.keyboard.press("Enter")
    page.get_by_role("article", name="Answer 2").get_by_role("button", name="Copy", exact=True).wait_for()

    page.get_by_role("button", name="Share this conversation").click()
    page.get_by_role("button", name="Make a link").click()
    link = page.get_by_label("Link, shown this once").input_value()
    page.get_by_role("button", name="Close", exact=True).click()

    nav.get_by_text("ada", exact=True).click()
    nav.get_by_role("button", name="Sign out", exact=True).click()
    page.get_by_role("heading", name="You are signed out").wait_for()
    assert provider.ended
    page.goto(people.url)
    page.get_by_role("heading", name="Sign in").wait_for()

    _another_person(browser, people, link, provider)
    assert complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_sign_in_that_ends_in_mid_use_loses_nothing(people: Running, browser: Browser, scheme: str) -> None:
    """Narrow, by axe, in both colours: the dialog, what was written, and that nobody else gets to see it."""
    context = browser.new_context(
        viewport={"width": 375, "height": 740}, color_scheme=scheme, reduced_motion="reduce", bypass_csp=True
    )
    with open_sql(people.config.state) as sql, closing(context):
        accounts = Accounts(sql, Cost(log2_n=4, p=1))
        for name in (f"carol-{scheme}", f"dave-{scheme}"):
            accounts.add(name, PASSWORD)
        carol = accounts.named(f"carol-{scheme}")
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.goto(people.url)
        with page.expect_response("**/v1/conversations*"):  # else the list hears of it before the question does
            by_password(page, carol.name)
        accounts.sign_out(carol.person_id)

        question = page.get_by_label("Your question")
        question.fill("What does a thumb do?")
        page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog", name="You are signed out")
        expect(dialog.get_by_role("heading")).to_be_focused()
        assert violations(page) == []
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
        page.get_by_role("button", name="Not yet").click()
        expect(dialog).to_have_count(0)
        expect(page.get_by_role("article")).to_contain_text("You were signed out before this could be answered.")
        question.fill("And what does a reason do?")
        page.keyboard.press("Enter")
        expect(dialog).to_be_visible()
        dialog.get_by_role("link", name="Sign in").click()
        with page.expect_response("**/v1/conversations*"):
            by_password(page, carol.name)
        expect(question).to_have_value("And what does a reason do?")
        page.keyboard.press("Enter")
        page.get_by_role("article", name="Answer 1").get_by_role("button", name="Copy", exact=True).wait_for()

        accounts.sign_out(carol.person_id)
        question.fill("Something private")
        page.keyboard.press("Enter")
        dialog.get_by_role("link", name="Sign in").click()
        by_password(page, f"dave-{scheme}")
        page.wait_for_function("() => sessionStorage.length === 0")  # who signed in is known, and the draft is gone
        expect(question).to_have_value("")

        page.get_by_role("button", name="Conversations").click()
        page.get_by_text(f"dave-{scheme}", exact=True).click()
        assert violations(page) == []
        page.get_by_role("button", name="Sign out everywhere").click()
        page.get_by_role("heading", name="You are signed out").wait_for()
        assert violations(page) == []


def test_an_answer_that_is_cut_by_a_sign_out_stays_as_far_as_it_came(
    people: Running, context: BrowserContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reply, "LOOK_S", 0.1)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(people.url)
    with open_sql(people.config.state) as sql:
        accounts = Accounts(sql, Cost(log2_n=4, p=1))
        eve = accounts.add("eve", PASSWORD)
        by_password(page, "eve")
        GOING_ON.clear()
        try:
            page.get_by_label("Your question").fill("What happens to deleted documents and thumbs?")
            page.keyboard.press("Enter")
            page.get_by_role("button", name="Stop").wait_for()
            expect(page.get_by_role("article")).to_contain_text("Deleted")
            accounts.sign_out(eve.person_id)
            page.get_by_role("dialog", name="You are signed out").wait_for()
        finally:
            GOING_ON.set()
    page.get_by_role("dialog").get_by_role("link", name="Sign in").click()
    by_password(page, "eve")
    page.get_by_role("button", name="What happens to deleted documents and thumbs?", exact=True).click()
    expect(page.get_by_role("article")).to_contain_text("Deleted")


def by_password(page: Page, name: str) -> None:
    page.get_by_role("heading", name="Sign in").wait_for()
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    page.locator(".layout").wait_for()


def _another_person(browser: Browser, people: Running, link: str, provider: OidcProvider) -> None:
    """Bob sees nothing of Ada's; the link opens for whoever is on the board. Seen narrow and dark, by axe."""
    context = browser.new_context(
        viewport={"width": 375, "height": 740}, color_scheme="dark", reduced_motion="reduce", bypass_csp=True
    )
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(link)
    page.get_by_role("heading", name="Sign in").wait_for()
    assert violations(page) == []
    page.get_by_label("Name").fill("bob")
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_text("this conversation rests on documents that you may not read")).to_be_visible()
    page.goto(people.url)
    page.get_by_role("button", name="Conversations").click()
    expect(page.get_by_text("Your conversations will be listed here. Only you see them.")).to_be_visible()
    page.get_by_text("bob", exact=True).click()
    assert violations(page) == []
    page.get_by_role("button", name="Sign out", exact=True).click()
    page.get_by_role("heading", name="You are signed out").wait_for()

    sign_in_as(provider, page, link, "grace", "board")
    expect(page.get_by_text("This conversation was shared with you.")).to_be_visible()
    expect(page.get_by_role("article", name="Answer 1")).to_contain_text("secret number of the board")
    expect(page.get_by_role("button", name=re.compile("Good answer"))).to_have_count(0)
    assert violations(page) == []
    page.get_by_role("button", name="New chat").last.click()
    page.get_by_label("Your question").fill("What does a thumb do?")
    page.keyboard.press("Enter")
    page.get_by_role("article", name="Answer 1").get_by_role("button", name="Copy", exact=True).wait_for()
    page.get_by_role("button", name="Share this conversation").click()
    assert violations(page) == []
    context.close()
