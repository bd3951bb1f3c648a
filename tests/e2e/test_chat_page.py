"""The chat page as a reader uses it, in real Chromium."""

from __future__ import annotations

import json
from threading import Semaphore

import pytest
from playwright.sync_api import Browser, BrowserContext, Route, expect
from tests.e2e.conftest import SUGGESTION, Reader, open_reader
from tests.support.chain import HOPPING
from tests.support.serving import Running, eventually, running
from tests.support.upstream import Reply, Upstream

QUESTION = "What happens to deleted documents, and to broken files?"


def test_an_answer_streams_with_its_sources_and_version(reader: Reader, upstream: Upstream, server: Running) -> None:
    page = reader.page
    allowed = Semaphore(1)
    upstream.script(Reply(pieces=("First part. ", "Second part [1]."), allowed=allowed))
    reader.ask(QUESTION)
    answer = page.get_by_role("article", name="Answer 1")
    expect(answer).to_contain_text("First part.")
    assert "Second part" not in answer.inner_text()
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    allowed.release()
    reader.answered()
    expect(answer).to_contain_text("Second part")
    expect(answer.get_by_role("button", name="Source 1: Refreshing the index, page 3")).to_be_visible()
    expect(answer).to_contain_text("dev.docs.chat v1 · index 12")
    expect(page.get_by_role("status").filter(has_text="Answer finished, with 1 source")).to_have_count(1)
    assert server.log()[-1]["requester"].startswith("session:")
    assert server.log()[-1]["session_id"]


def test_the_searches_on_the_way_are_shown_then_folded_away(
    reader: Reader, upstream: Upstream, server: Running
) -> None:
    page = reader.page
    allowed = Semaphore(0)
    upstream.script(Reply(pieces=("Found it [1]. ", "All of it."), allowed=allowed))
    reader.ask(f"{HOPPING}{QUESTION}")
    steps = page.get_by_role("article", name="Answer 1").locator("details.steps")
    expect(steps.get_by_role("listitem")).to_contain_text([QUESTION, "who repairs broken files"])
    expect(steps).to_have_attribute("open", "")
    allowed.release(2)
    reader.answered()
    expect(steps).not_to_have_attribute("open", "")
    steps.get_by_text("Searched 2 times").click()
    expect(steps.get_by_role("listitem").last).to_be_visible()
    expect(steps.get_by_role("listitem").last).to_contain_text("in team north or south, date from 2024 1 passage")
    page.reload()
    page.get_by_role("button", name="In steps").first.click()
    expect(page.get_by_text("Searched 2 times")).to_be_visible()
    assert [step["query"] for step in json.loads(server.log()[-1]["response_json"])["steps"]][1:] == [
        "who repairs broken files"
    ]


def test_finished_blocks_are_not_made_again(reader: Reader, upstream: Upstream) -> None:
    page = reader.page
    allowed = Semaphore(2)
    upstream.script(Reply(pieces=("One.\n\n", "Two.\n\n", "Three.\n\n", "Four."), allowed=allowed))
    reader.ask(QUESTION)
    first = page.locator(".block").first.locator("p")
    expect(page.locator(".block")).to_have_count(2)
    first.evaluate("element => { element.dataset.seen = 'yes'; }")
    allowed.release(2)
    reader.answered()
    expect(page.locator(".block")).to_have_count(4)
    assert first.get_attribute("data-seen") == "yes"


def test_stop_reaches_the_upstream_and_keeps_what_came(reader: Reader, upstream: Upstream, server: Running) -> None:
    page = reader.page
    upstream.script(Reply(pieces=("Some words. ", "more"), allowed=Semaphore(1)))
    reader.ask(QUESTION)
    expect(page.get_by_role("article", name="Answer 1")).to_contain_text("Some words.")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("You stopped this answer.")).to_be_visible()
    assert upstream.requests[-1].client_left.wait(60)
    row = eventually(lambda: server.log() and server.log()[-1]["error_class"] == "Cancelled" and server.log()[-1])
    assert "Some words." in row["response_json"]
    expect(page.get_by_label("Your question")).to_be_focused()


def test_a_citation_opens_its_passage_and_escape_returns(reader: Reader) -> None:
    page = reader.page
    reader.ask(QUESTION)
    reader.answered()
    chip = page.locator(".chip").first
    chip.click()
    panel = page.get_by_role("complementary")
    expect(panel).to_contain_text("guide/ingest.pdf")
    expect(panel).to_contain_text("page 3")
    expect(panel.locator("mark")).to_have_text("Deleted documents leave the index with the next refresh.")
    expect(panel.get_by_role("heading")).to_be_focused()
    page.keyboard.press("Escape")
    expect(panel).to_have_count(0)
    expect(chip).to_be_focused()


def test_a_wrapped_paragraph_of_a_source_flows_and_nothing_else_does(reader: Reader) -> None:
    wrapped = "A deleted document leaves the index with the next refresh, and\nthe passages of it leave both searches\n"
    flowing = wrapped.replace("\nthe", " the")
    kept = "Name: Ann; Start: 2025-01-01; Share: 19%, of which she gave\nName: Bo; Share: 2%\n\n# A heading\nits text\n"
    items = "- an item that says as much as the room of one line allows\n- another\n\n    code is no prose\n"
    for text, shown in ((wrapped, flowing), (kept, kept), (items, items), ("", ""), ("\n\n", "\n\n")):
        found = reader.page.evaluate("text => import('/flow.js').then((module) => module.flowing(text))", text)
        assert found == shown


def test_a_thumb_is_kept_at_one_click_and_a_reason_supersedes_it(reader: Reader, server: Running) -> None:
    page = reader.page
    reader.ask(QUESTION)
    reader.answered()
    page.get_by_role("button", name="Bad answer").click()
    request_id = server.log()[-1]["request_id"]

    def thumbs() -> list[object]:
        rows = [row for row in server.feedback() if row["request_id"] == request_id]
        return [(row["name"], row["value_num"], row["value_str"], row["rationale"]) for row in rows]

    eventually(lambda: thumbs() == [("thumb", 0.0, None, None)])
    page.get_by_role("radio", name="Source does not say so").check()
    page.get_by_label("Comment (optional)").fill("Page 4 says otherwise.")
    page.get_by_label("I want to talk to a person").check()
    page.get_by_role("button", name="Send feedback").click()
    eventually(
        lambda: (
            thumbs()[1:]
            == [("thumb", 0.0, "wrong_source", "Page 4 says otherwise."), ("talk_to_a_person", 1.0, None, None)]
        )
    )
    expect(page.get_by_role("button", name="Bad answer")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_text("Somebody will see that you want to talk.")).to_be_visible()


def test_feedback_is_called_noted_once_it_is_kept(reader: Reader, server: Running) -> None:
    page = reader.page
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    reader.ask(QUESTION)
    reader.answered()
    page.get_by_role("button", name="Bad answer").click()
    eventually(lambda: server.feedback()[-1]["request_id"] == server.log()[-1]["request_id"])
    page.route("**/v1/feedback", hold)
    with page.expect_request("**/v1/feedback"):
        page.get_by_role("button", name="Send feedback").click()
    said = page.locator(".feedback .said")
    expect(said).to_be_attached()
    expect(page.get_by_role("form", name="More about your feedback")).to_have_count(0)
    assert said.inner_text() == ""
    held[0].continue_()
    expect(said).to_have_text("Thank you, noted.")


def test_answer_again_replaces_the_answer(reader: Reader, upstream: Upstream) -> None:
    upstream.script(Reply(pieces=("The first answer.",)), Reply(pieces=("The second answer.",)))
    reader.ask(QUESTION)
    reader.answered()
    reader.page.get_by_role("button", name="Answer again").click()
    article = reader.page.get_by_role("article")
    expect(article).to_have_count(1)
    expect(article).to_contain_text("The second answer.")
    assert [message["content"] for message in upstream.requests[-1].messages] == [QUESTION]


def test_an_edited_question_drops_what_followed(reader: Reader, upstream: Upstream) -> None:
    page = reader.page
    reader.ask(QUESTION)
    reader.answered()
    reader.ask("And then?")
    reader.answered(2)
    page.get_by_role("button", name="Edit and ask again").first.click()
    page.get_by_role("textbox", name="Question", exact=True).fill("What about renamed documents?")
    page.keyboard.press("Enter")
    expect(page.get_by_role("article")).to_have_count(1)
    reader.answered()
    assert [message["content"] for message in upstream.requests[-1].messages] == ["What about renamed documents?"]


def test_a_follow_up_carries_the_conversation(reader: Reader, upstream: Upstream) -> None:
    reader.ask(QUESTION)
    reader.answered()
    reader.ask("And then?")
    reader.answered(2)
    roles = [message["role"] for message in upstream.requests[-1].messages]
    assert roles == ["user", "assistant", "user"]


def test_history_is_kept_renamed_and_deleted(reader: Reader) -> None:
    page = reader.page
    reader.ask(QUESTION)
    reader.answered()
    page.get_by_role("button", name="New chat").click()
    expect(page.get_by_role("article")).to_have_count(0)
    reader.ask("Another question about documents")
    reader.answered()
    page.reload()
    page.get_by_role("button", name=QUESTION, exact=True).click()
    expect(page.get_by_role("article")).to_contain_text("Deleted documents")
    page.get_by_role("button", name=f"Rename {QUESTION}").click()
    page.get_by_label("Name of the conversation").fill("Deleting")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Deleting", exact=True)).to_be_visible()
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete Deleting").click()
    expect(page.get_by_role("button", name="Deleting", exact=True)).to_have_count(0)
    page.reload()
    expect(page.get_by_role("navigation").get_by_role("listitem")).to_have_count(1)


def test_a_thumb_after_a_reload_is_still_the_readers_own(reader: Reader, server: Running) -> None:
    page = reader.page
    reader.ask(QUESTION)
    reader.answered()
    page.reload()
    page.get_by_role("button", name=QUESTION, exact=True).click()
    before = len(server.feedback())
    page.get_by_role("button", name="Good answer").click()
    eventually(lambda: len(server.feedback()) == before + 1)
    thumb = server.feedback()[-1]
    (asked,) = [row for row in server.log() if row["request_id"] == thumb["request_id"]]
    assert thumb["source_id"] == asked["requester"], "the reader after the reload is the one who asked"
    expect(page.get_by_role("button", name="Good answer")).to_have_attribute("aria-pressed", "true")


def test_a_suggested_question_is_asked_by_a_click(reader: Reader) -> None:
    reader.page.get_by_role("button", name=SUGGESTION).click()
    reader.answered()
    expect(reader.page.get_by_role("region", name="Question 1")).to_contain_text(SUGGESTION)


def test_copy_gives_the_answers_text(reader: Reader, context: BrowserContext) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    reader.ask(QUESTION)
    reader.answered()
    reader.page.get_by_role("button", name="Copy").click()
    expect(reader.page.get_by_role("status").filter(has_text="Copied")).to_have_count(1)
    assert "Broken files go to **quarantine** [2]." in reader.page.evaluate("() => navigator.clipboard.readText()")


def test_everything_works_by_keyboard_alone(reader: Reader) -> None:
    page = reader.page
    page.keyboard.type(QUESTION)
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("Second line.")
    page.keyboard.press("Enter")
    reader.answered()
    expect(page.get_by_label("Your question")).to_be_focused()
    reached = []
    for _ in range(14):
        page.keyboard.press("Shift+Tab")
        reached.append(page.evaluate("() => document.activeElement.getAttribute('aria-label') ?? ''"))
        if reached[-1].startswith("Source 1"):
            break
    assert {"Answer again", "Copy", "Bad answer", "Good answer"} <= set(reached)
    page.keyboard.press("Enter")
    expect(page.get_by_role("complementary").get_by_role("heading")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator(".chip").first).to_be_focused()
    while page.evaluate("() => document.activeElement.getAttribute('aria-label')") != "Good answer":
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("form", name="More about your feedback")).to_be_visible()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(page.get_by_role("radio", name="Correct")).to_be_checked()
    page.keyboard.press("Escape")
    expect(page.get_by_role("form", name="More about your feedback")).to_have_count(0)


HOSTILE = """<script>window.ran = 1</script><img src=x onerror="window.ran = 2">

[click](javascript:window.ran=3) <a href="https://evil.example" onclick="window.ran=4">here</a>

<iframe srcdoc="<script>parent.ran=5</script>"></iframe> ![x](https://evil.example/leak.png) <svg onload="window.ran=6">

[1]: https://evil.example

Really deleted [1].
"""


def test_script_and_markup_in_an_answer_never_run(reader: Reader, upstream: Upstream) -> None:
    page = reader.page
    wanted: list[str] = []
    page.on("request", lambda request: wanted.append(request.url))
    upstream.script(Reply(pieces=(HOSTILE,)))
    reader.ask(QUESTION)
    reader.answered()
    answer = page.get_by_role("article")
    expect(answer).to_contain_text("Really deleted")
    expect(answer).to_contain_text("<script>window.ran = 1</script>")
    answer.get_by_text("click").click()
    assert page.evaluate("() => window.ran") is None
    assert answer.locator("script, img, iframe, .prose svg, [onclick], [onerror]").count() == 0
    assert answer.locator(".prose a[href^='javascript']").count() == 0
    assert not [url for url in wanted if "evil.example" in url]
    expect(page.locator(".chip")).to_have_count(2)  # what looks like a link's definition is text, and cites


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (Reply(status=500), "500"),
        (Reply(status=429), "limits requests"),
        (Reply(pieces=("Half an ", "answer"), cut_after=1), "Half an"),
    ],
)
def test_a_failing_model_is_told_and_the_question_can_be_asked_again(
    context: BrowserContext, server: Running, upstream: Upstream, reply: Reply, told: str
) -> None:
    reader = open_reader(context, server.url)
    upstream.script(reply)
    reader.ask(QUESTION)
    reader.answered()
    article = reader.page.get_by_role("article")
    expect(article.get_by_role("alert")).not_to_be_empty()
    expect(article).to_contain_text(told)
    reader.page.get_by_role("button", name="Answer again").click()
    expect(article).to_contain_text("Deleted documents")
    expect(article.get_by_role("alert")).to_have_count(0)


def test_an_oversized_question_cannot_be_sent(reader: Reader) -> None:
    reader.page.get_by_label("Your question").fill("x" * 8001)
    expect(reader.page.get_by_text("The question is 1 characters too long.")).to_be_visible()
    expect(reader.page.get_by_role("button", name="Send")).to_be_disabled()


def test_a_narrow_page_shows_one_thing_at_a_time(browser: Browser, server: Running) -> None:
    context = browser.new_context(viewport={"width": 375, "height": 740}, reduced_motion="reduce")
    reader = open_reader(context, server.url)
    page = reader.page
    reader.ask(QUESTION)
    reader.answered()
    assert page.evaluate("() => document.documentElement.scrollWidth") == 375
    page.locator(".chip").first.click()
    expect(page.get_by_role("complementary")).to_be_in_viewport()
    assert page.get_by_role("complementary").bounding_box()["width"] == 375  # type: ignore[index]
    page.get_by_role("button", name="Close the source").click()
    page.get_by_role("button", name="Conversations").click()
    expect(page.get_by_role("button", name="New chat")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Conversations")).to_be_focused()
    assert reader.complaints == []
    context.close()


def test_the_theme_follows_the_system_and_can_be_chosen(browser: Browser, server: Running) -> None:
    context = browser.new_context(color_scheme="dark")
    reader = open_reader(context, server.url)
    page = reader.page

    def ground() -> str:
        return str(page.evaluate("() => getComputedStyle(document.body).backgroundColor"))

    dark = ground()
    page.get_by_role("button", name="Theme: as the system").click()
    light = ground()
    assert light != dark
    page.reload()
    assert ground() == light
    page.get_by_role("button", name="Theme: light").click()
    assert ground() == dark
    page.emulate_media(color_scheme="light")
    assert ground() == dark
    assert reader.complaints == []
    context.close()


def test_a_key_is_asked_for_and_kept_in_the_tab(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> None:
    with running(tmp_path_factory.mktemp("keys"), require_keys=True) as server:
        context = browser.new_context()
        page = context.new_page()
        page.goto(server.url)
        field = page.get_by_label("Key", exact=True)
        expect(field).to_be_focused()
        field.fill("lk_wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("The key is not valid")
        field.fill("lk_one")
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog")).to_have_count(0)
        reader = Reader(page, [])
        reader.ask(QUESTION)
        reader.answered()
        page.reload()
        expect(page.get_by_role("dialog")).to_have_count(0)
        assert page.evaluate("() => localStorage.getItem('llmops.key')") is None
        context.close()
    assert server.log()[-1]["requester"] == "key:one"
