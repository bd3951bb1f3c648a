"""The main job as a newcomer meets it: `llmops up` over the project's own pages, in a browser, to the listed thumb.

The documents, the job file and the suggested questions are those of a fresh clone.
"""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import BrowserContext, expect
from tests.e2e.conftest import open_reader
from tests.support.commands import printed, running

ROOT = Path(__file__).parents[2]
SUGGESTED = yaml.safe_load((ROOT / "configs" / "serve.yaml").read_text())["endpoints"][0]["suggestions"]
ANSWERED_BY = ("docs/getting-started.md", "docs/ingest.md", "docs/feedback.md")


@pytest.fixture
def clone(tmp_path: Path, embedder_cache: Path) -> Path:
    """What `make up` works on; of the documents those that are asked about, and two more."""
    for name in (*ANSWERED_BY, "docs/chat.md", "docs/configuration.md", "configs/rag.yaml", "configs/serve.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(embedder_cache, tmp_path / ".llmops" / "cache")
    return tmp_path


@pytest.fixture
def chat(clone: Path) -> Iterator[str]:
    with running(clone, "up", "--port", "0", opened="chat is open at") as (url, process):
        yield url
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130


def test_suggested_questions_are_answered_from_their_page_and_a_thumb_down_is_listed_with_its_reason(
    clone: Path, chat: str, context: BrowserContext
) -> None:
    reader = open_reader(context, chat)
    page = reader.page
    for number, (question, uri) in enumerate(zip(SUGGESTED, ANSWERED_BY, strict=True), start=1):
        if number == 1:
            page.get_by_role("button", name=question).click()
        else:
            reader.ask(question)
        reader.answered(number)
        answer = page.get_by_role("article", name=f"Answer {number}")
        answer.locator(".chip").first.click()
        panel = page.get_by_role("complementary")
        expect(panel.locator(".uri")).to_have_text(uri)
        cited = " ".join(panel.locator("mark").inner_text().split())
        assert cited in " ".join((clone / uri).read_text().split())
        page.keyboard.press("Escape")
    answer.get_by_role("button", name="Bad answer").click()
    page.get_by_role("radio", name="Incomplete").check()
    page.get_by_label(re.compile("^Comment")).fill("It does not say for how long.")
    page.get_by_role("button", name="Send feedback").click()
    expect(answer.locator(".feedback .said")).to_have_text("Thank you, noted.")
    thumb = printed(clone, "feedback", "list")[0]
    assert (thumb["value"], thumb["reason"], thumb["question"]) == ("down", "incomplete", SUGGESTED[-1])
    assert thumb["comment"] == "It does not say for how long."
    assert thumb["citations"][0]["uri"] == ANSWERED_BY[-1]
    assert reader.complaints == []
