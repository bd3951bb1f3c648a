"""The gateway's pages in a real browser: every one wide and narrow, light and dark, and what one does there."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect
from tests.e2e.test_accessibility import NARROW, WIDE, violations
from tests.support.control import Control, dump, fill, row, running_control, write_metrics

from llmops.core.keys import Keys
from llmops.core.sql import open_sql
from llmops.gateway.keyring import SNAPSHOT, Ring

PAGES = ("/", "/routes", "/keys", "/usage?since=30d&by=model", "/requests?since=30d", "/nothing", "/sign-in")


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Control]:
    with running_control(tmp_path_factory.mktemp("pages")) as started:
        while not started.office.watch.samples():
            time.sleep(0.01)
        now = datetime.now(UTC)
        rows = [row(at=now - timedelta(days=day), cost_usd=f"{day + 1}.5") for day in range(20)]
        fill(started.config, [*rows, row(status_code=502, error_class="cut", tags={"team": "support"})])
        break_target(started)
        yield started


def break_target(control: Control) -> None:
    """A worker tells that a target is left alone, and is believed however slow the browser is."""
    metrics = write_metrics(control.office.folder, 0, requests=30)
    gauge = ("llmops_gateway_breaker_open", {"route": "fast", "target": "near/small"}, 1)
    dump(metrics, control.office.folder, os.getpid(), [gauge], fresh_s=3600)
    control.look()


@pytest.fixture
def page(context: BrowserContext, control: Control) -> Iterator[Page]:
    """A page whose browser has nothing to complain of."""
    opened = context.new_page()
    opened.set_default_timeout(60_000)
    complaints: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto(control.url)
    yield opened
    assert [one for one in complaints if "status of 400" not in one] == []  # a refused form is a page as well


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_no_violation_and_no_sideways_scrolling(
    browser: Browser, control: Control, scheme: str, size: tuple[int, int]
) -> None:
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme=scheme,  # type: ignore[arg-type]
        bypass_csp=True,  # axe brings a script of its own
    )
    page = context.new_page()
    for path in PAGES:
        page.goto(control.url + path)
        for details in page.locator("details").all():
            details.locator("summary").click()
        assert violations(page) == [], path
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0], path
    context.close()


def test_a_key_is_made_used_and_revoked(page: Page, control: Control) -> None:
    page.get_by_role("link", name="Keys").click()
    page.get_by_label("Name").fill("intranet")
    page.get_by_role("combobox", name="Team").select_option("search")
    page.get_by_label("Budget, US dollars").fill("30")
    page.get_by_label("Requests a minute").fill("many")
    page.get_by_role("button", name="Make the key").click()
    expect(page.get_by_role("alert")).to_contain_text("whole number above 0")
    expect(page.get_by_label("Name")).to_have_value("intranet")  # nothing has to be typed again
    page.get_by_label("Requests a minute").fill("60")
    page.get_by_role("button", name="Make the key").click()
    token = page.get_by_label("Token of the new key").input_value()
    ring = Ring.load(control.office.folder / SNAPSHOT)
    found = ring.find(token)
    assert found is not None
    assert (found.team, found.limits, found.budgets) == (
        "search",
        {"requests_per_minute": 60},
        ((30 * 10**9, "month"),),
    )
    line = page.get_by_role("row").filter(has_text="intranet")
    expect(line).to_contain_text("$0.00 of $30.00 a month")
    page.goto(f"{control.url}/keys")
    assert token not in page.content()  # it was shown that once
    page.get_by_role("row").filter(has_text="intranet").get_by_role("link", name="Revoke").click()
    page.get_by_role("button", name="Revoke the key").click()
    expect(page.get_by_role("row").filter(has_text="intranet")).to_contain_text("revoked")
    ring.refresh()
    assert ring.find(token) is None


def test_numbers_lead_to_their_rows(page: Page) -> None:
    page.get_by_role("link", name="Usage").click()
    page.get_by_role("link", name="30 days").click()
    row_ = page.get_by_role("region", name="Usage by team").get_by_role("row").filter(has_text="support")
    row_.get_by_role("link", name="1").first.click()
    expect(page.get_by_role("heading", name="Requests")).to_be_visible()
    lines = page.get_by_role("region", name="Request table").get_by_role("row")
    expect(lines).to_have_count(2)
    expect(lines.last).to_contain_text("cut")
    page.get_by_role("link", name="As sums").click()
    expect(page.get_by_role("heading", name="Usage and cost")).to_be_visible()


def test_a_bar_of_a_plot_leads_to_its_day(page: Page, control: Control) -> None:
    page.goto(f"{control.url}/usage?since=30d")
    day = (datetime.now(UTC) - timedelta(days=3)).date()
    page.get_by_role("link", name=re.compile(f"{day}: \\$")).first.click()
    expect(page.get_by_role("region", name="Request table").get_by_role("row")).to_have_count(2)


def test_what_is_wrong_is_told_first(page: Page, control: Control) -> None:
    break_target(control)
    page.reload()
    expect(page.get_by_role("list").filter(has_text="keeps failing")).to_be_visible()
    page.get_by_role("link", name="Routes").click()
    break_target(control)
    page.reload()
    expect(page.get_by_role("row").filter(has_text="near/small")).to_contain_text("left alone")


def test_the_keyboard_reaches_everything(page: Page) -> None:
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Look again")).to_be_focused()


def test_signing_in_on_a_public_address(browser: Browser, tmp_path: Path) -> None:
    with running_control(tmp_path, control={"host": "0.0.0.0", "port": 0}) as control:
        with open_sql(control.config.state) as sql:
            token, _ = Keys(sql).create("ops", scopes=["gateway:admin"])
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"{control.url}/usage")
        page.get_by_label("Key", exact=True).fill("lk_wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("not valid")
        page.get_by_label("Key", exact=True).fill(token)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Overview")).to_be_visible()
        context.close()
