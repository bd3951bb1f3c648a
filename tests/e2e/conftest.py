"""Chromium over a real server whose answers come from a real upstream over the wire, scripted by each test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Playwright, expect, sync_playwright
from tests.support.chain import Shelf, SmallChain
from tests.support.serving import Running, running
from tests.support.upstream import Reply, Upstream, running_upstream

from llmops.serving.config import EndpointConfig

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 60_000
"""What is waited for comes soon on a machine of one's own, and late on one that others use too."""
SUGGESTION = "What happens to deleted documents?"
ANSWER = ("Deleted documents ", "leave the index [1].\n\n", "- Broken files go to **quarantine** [2].\n")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            if not CHROMIUM.exists():
                item.add_marker(pytest.mark.skip(reason=f"needs Chromium at {CHROMIUM}"))


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    """Ended with each module: while it runs, its event loop is every later test's too."""
    with sync_playwright() as started:
        expect.set_options(timeout=PATIENCE_MS)
        yield started


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    started = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
    yield started
    started.close()


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with running_upstream() as started:
        started.answer = lambda seen: Reply(pieces=ANSWER)
        yield started


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[Running]:
    endpoint = EndpointConfig(title="Ask the documentation", suggestions=(SUGGESTION,))
    shelf = Shelf({1: lambda: SmallChain(llm_url=upstream.url)})
    with running(tmp_path_factory.mktemp("state"), shelf, endpoints=(endpoint,)) as started:
        yield started


@dataclass
class Reader:
    """One person with a fresh browser profile. What the browser complains of is collected in `complaints`."""

    page: Page
    complaints: list[str]

    def ask(self, question: str) -> None:
        self.page.get_by_label("Your question").fill(question)
        self.page.keyboard.press("Enter")

    def answered(self, number: int = 1) -> None:
        """Wait until answer `number` is whole."""
        self.page.get_by_role("article", name=f"Answer {number}").get_by_role("button", name="Copy").wait_for()


def open_reader(context: BrowserContext, url: str) -> Reader:
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    complaints: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            complaints.append(message.text)

    page.on("console", note)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(url)
    page.get_by_label("Your question").wait_for()
    return Reader(page, complaints)


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    opened = browser.new_context(viewport={"width": 1280, "height": 820}, reduced_motion="reduce")
    yield opened
    opened.close()


@pytest.fixture
def reader(context: BrowserContext, server: Running) -> Iterator[Reader]:
    opened = open_reader(context, server.url)
    yield opened
    assert opened.complaints == []
