"""The registry's pages in a real browser: every one wide and narrow, light and dark, and what people do there."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect
from tests.e2e.conftest import PATIENCE_MS
from tests.e2e.test_accessibility import NARROW, WIDE, violations
from tests.support.registry_story import FRAUD, PROMPT, Story, serving_story
from tests.support.serving import Running

from llmops.registry import Version
from llmops.registry.promotion import State


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Story, Running]]:
    with serving_story(tmp_path_factory.mktemp("pages")) as opened:
        yield opened


@pytest.fixture
def told(stage: tuple[Story, Running]) -> Story:
    return stage[0]


@pytest.fixture
def url(stage: tuple[Story, Running]) -> str:
    return f"{stage[1].url}/registry"


@pytest.fixture
def page(context: BrowserContext, url: str) -> Iterator[Page]:
    """A page whose browser has nothing to complain of."""
    opened = context.new_page()
    complaints: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto(f"{url}/")
    yield opened
    assert [one for one in complaints if "status of 40" not in one] == []  # a refused form is a page as well


def addresses(told: Story) -> list[str]:
    comparison = told.registry.filed_about(told.versions[3])[1].evidence_id
    return [
        "/", f"/assets/{FRAUD}", f"/assets/{FRAUD}/rollback?reason=Too+slow", f"/versions/{FRAUD}/6",
        f"/versions/{FRAUD}/6/card", f"/versions/{FRAUD}/2/card",
        f"/versions/{FRAUD}/1", f"/versions/{PROMPT}/2", f"/evidence/{comparison}", f"/evidence/{told.decision}",
        "/approvals", "/audit", "/audit/verify", "/runs", f"/runs/{told.run_id}", "/nothing", "/sign-in",
    ]  # fmt: skip


def sign_in(page: Page, url: str, token: str) -> None:
    page.goto(f"{url}/sign-in")
    page.get_by_label("Key", exact=True).fill(token)
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()


def case(page: Page, version: Version) -> Page:
    """The part of the approvals page that is about a version."""
    return page.get_by_role("region", name=str(version.ref))  # type: ignore[return-value]


COLOURS = "axe.run({runOnly: ['color-contrast', 'link-in-text-block']}).then(told => told.violations.map(a => a.id))"
"""What another colour scheme can change of what axe finds; axe is in the page once it has looked at it."""


@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_no_violation_and_no_sideways_scrolling(browser: Browser, told: Story, url: str, size: tuple[int, int]) -> None:
    """In light, then in dark."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="light",
        reduced_motion="reduce",
        bypass_csp=True,  # axe brings a script of its own
    )
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    sign_in(page, url, told.tokens["boris"])  # his approvals page has its forms
    for path in addresses(told):
        page.goto(url + path)
        assert page.title() != "owned"
        for details in page.locator("details").all()[:5]:
            details.locator("summary").click()
        assert violations(page) == [], path
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0], path
        page.emulate_media(color_scheme="dark", reduced_motion="reduce")
        assert page.evaluate(COLOURS) == [], path
        page.emulate_media(color_scheme="light", reduced_motion="reduce")
    context.close()


def test_from_an_asset_to_the_evidence_that_crowned_its_champion(page: Page) -> None:
    page.get_by_role("link", name=str(FRAUD)).click()
    champion = page.get_by_role("region", name="Champion", exact=True)
    expect(champion.get_by_role("link", name=re.compile("^Version 3: "))).to_have_count(1)
    champion.get_by_role("link", name="comparison").click()
    expect(page.get_by_role("heading", name="comparison: pass")).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("Effect .0.016, interval"))).to_be_visible()
    page.get_by_role("link", name=f"{FRAUD}/5").first.click()
    expect(page.get_by_role("heading", name=f"{FRAUD} version 5")).to_be_visible()


def test_a_person_signs_in_approves_and_takes_it_back(page: Page, told: Story, url: str) -> None:
    version = told.ask()
    page.get_by_role("link", name="Approvals").click()
    expect(case(page, version)).to_contain_text("You can't speak for risk")
    expect(case(page, version).get_by_role("button", name="Approve for risk")).to_have_count(0)
    sign_in(page, url, told.tokens["boris"])
    page.get_by_role("link", name="Approvals").click()
    case(page, version).get_by_label("Comment for risk").fill("<b>Looked</b> at every slice")
    case(page, version).get_by_role("button", name="Approve for risk").click()
    expect(page.get_by_role("status")).to_contain_text("is approved now")
    row = page.get_by_role("row").filter(has_text=str(version.ref))
    expect(row).to_contain_text("<b>Looked</b> at every slice")
    row.get_by_role("button", name="Take my word for risk back").click()
    expect(page.get_by_role("status")).to_contain_text("is awaiting approval now")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("link", name="Sign in")).to_be_visible()


def test_a_word_that_comes_too_late_is_told_so(page: Page, told: Story, url: str) -> None:
    version = told.ask()
    sign_in(page, url, told.tokens["boris"])
    page.goto(f"{url}/approvals")
    told.promoter("anna").deny(version.ref, "risk", "It leaks")
    case(page, version).get_by_role("button", name="Approve for risk").click()
    expect(page.get_by_role("alert")).to_contain_text("This promotion has ended: it is denied")
    assert next(one for one in told.promoter("anna").states(FRAUD) if one.ref == version.ref).state is State.DENIED


def test_nobody_approves_their_own_work(page: Page, told: Story, url: str) -> None:
    version = told.ask(starter="anna")
    sign_in(page, url, told.tokens["anna"])
    page.goto(f"{url}/approvals")
    expect(case(page, version)).to_contain_text("started its promotion, and can't approve it")
    expect(case(page, version).get_by_role("button", name="Approve for risk")).to_have_count(0)


def test_a_rollback_with_the_keyboard_alone(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> None:
    with serving_story(tmp_path_factory.mktemp("back"), runs=False) as (told, server):
        context = browser.new_context()
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        page.goto(f"{server.url}/registry/assets/{FRAUD}")
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        page.keyboard.press("Enter")
        reason = page.get_by_label("What went wrong")
        for _ in range(40):
            page.keyboard.press("Tab")
            if reason.evaluate("element => element === document.activeElement"):
                break
        page.keyboard.type("Too many false alarms")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="back to version 1?")).to_be_visible()
        page.get_by_role("button", name="Roll back").focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_contain_text("version 1 is champion again")
        expect(page.get_by_text("Too many false alarms").first).to_be_visible()
        held = told.registry.alias(FRAUD, "champion")
        assert held is not None
        assert held.version == 1
        context.close()


def test_a_run_leads_to_its_tasks_and_their_logs(page: Page, told: Story) -> None:
    page.get_by_role("link", name="Runs").click()
    page.get_by_role("link", name=told.run_id).click()
    page.get_by_role("link", name=re.compile("^validate: succeeded")).click()
    expect(page).to_have_url(re.compile("#task-validate$"))
    expect(page.get_by_role("article", name="validate")).to_contain_text("needs train")


def test_the_log_is_filtered_and_checked(page: Page) -> None:
    page.get_by_role("link", name="Audit").click()
    page.get_by_label("Action").fill("rollback")
    page.get_by_role("button", name="Show").click()
    rows = page.get_by_role("region", name="Audit table").get_by_role("row")
    expect(rows).to_have_count(2)
    page.get_by_role("link", name="Check the chain").click()
    expect(page.get_by_role("heading", name="The audit log is whole")).to_be_visible()


def test_chat_and_registry_lead_to_each_other(page: Page) -> None:
    page.get_by_role("link", name="Chat", exact=True).click()
    page.get_by_label("Your question").wait_for()
    page.get_by_role("link", name="Registry").click()
    expect(page.get_by_role("heading", name="Assets")).to_be_visible()
