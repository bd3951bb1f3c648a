"""A person's conversations over the API: kept, reopened, changed; never another's, never what may not be read."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.serving.sign_in.conftest import Place
from tests.support.chain import HOPPING, TEXTS, Text
from tests.support.serving import eventually, question, stream

from llmops.core.chain import ChainContext, Citation, Delta, Done, Event, Message, PassageRef, Retrieval, Usage
from llmops.core.ids import new_id
from llmops.core.people.forgetting import forget_documents
from llmops.core.people.tables import TRIES

SECRET = "secret number of the board"


@pytest.fixture(autouse=True)
def _no_tries(place: Place) -> None:
    with place.sql.begin() as connection:
        connection.execute(TRIES.delete())


def ask(browser: httpx.Client, conversation: str, text: str = "What happens to deleted documents?", **more: Any) -> str:
    """One question of a conversation, answered in a stream; gives the request's id."""
    chunks = stream(browser, question(text, llmops={"session_id": conversation, **more}))
    return str(chunks[-1]["llmops"]["request_id"])


def read(browser: httpx.Client, conversation: str) -> dict[str, Any]:
    answer = browser.get(f"/v1/conversations/{conversation}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@contextmanager
def with_texts(place: Place, texts: tuple[Text, ...]) -> Iterator[None]:
    """The documents as they are from now on."""
    chain = place.server.shelf.loaded[-1]
    before, chain.texts = chain.texts, texts
    try:
        yield
    finally:
        chain.texts = before


def test_a_conversation_is_reopened_as_it_was(place: Place) -> None:
    kept = new_id()
    with place.signed_in("ada") as browser:
        first = ask(browser, kept, f"{HOPPING}what happens to deleted documents and thumbs?")
        second = ask(browser, kept, "What does a thumb do?", after=first)
        judged = {"feedback_id": str(uuid.uuid4()), "request_id": first, "value": "down", "reason": "wrong"}
        assert browser.post("/v1/feedback", json=judged).status_code == 200
    with place.signed_in("ada") as another_browser:
        found = read(another_browser, kept)
        judged = {"feedback_id": str(uuid.uuid4()), "request_id": second, "value": "up"}
        assert another_browser.post("/v1/feedback", json=judged).status_code == 200
    assert found["title"].startswith("In steps: what happens to deleted")
    one, two = found["turns"]
    assert [one["id"], two["id"]] == [first, second]
    assert (one["thumb"], two["thumb"]) == ("down", None)
    assert [step["number"] for step in one["steps"]] == [1, 2]
    assert one["citations"][0]["text"] in one["answer"]
    assert one["llmops"]["request_id"] == first
    assert one["llmops"]["version"] == 1
    assert (one["status"], one["withheld"], one["error"]) == ("done", False, None)


def test_an_answer_is_in_the_history_before_its_last_byte(place: Place) -> None:
    with place.signed_in("ada") as browser:
        for streamed in (True, False):
            kept = new_id()
            body = question(llmops={"session_id": kept}, stream=streamed)
            with browser.stream("POST", "/v1/chat/completions", json=body) as answer:
                answer.read()
            assert read(browser, kept)["turns"][0]["answer"]


def test_a_question_whose_reader_left_stays_with_what_had_come(place: Place) -> None:
    kept = new_id()
    chain = place.server.shelf.loaded[-1]
    with place.signed_in("ada") as browser:
        chain._before_piece = lambda number, context: context.cancel.check() if number < 3 else _wait(context)
        try:
            body = question(llmops={"session_id": kept}, stream=True)
            with browser.stream("POST", "/v1/chat/completions", json=body) as answer:
                next(answer.iter_lines())
            turn = eventually(lambda: next((t for t in read(browser, kept)["turns"] if t["status"] == "stopped"), None))
        finally:
            chain._before_piece = None
    assert turn["question"] == question()["messages"][0]["content"]


def _wait(context: Any) -> None:
    left = threading.Event()
    context.cancel.on_cancel(left.set)
    assert left.wait(60)
    context.cancel.check()


def test_a_question_that_fits_nowhere_is_refused(place: Place) -> None:
    with place.signed_in("ada") as browser:
        for extension, status in (
            ({"session_id": "no uuid"}, 400),
            ({"session_id": new_id(), "after": new_id()}, 404),
        ):
            answer = browser.post("/v1/chat/completions", json=question(llmops=extension))
            assert answer.status_code == status, answer.text
        assert browser.post("/v1/chat/completions", json=question()).status_code == 200  # kept nowhere, as asked
        assert browser.post("/v1/chat/completions", json={**question(), "model": "none"}).status_code == 404


def test_conversations_are_listed_searched_renamed_and_deleted(place: Place) -> None:
    with place.signed_in("lists") as browser:
        kept = [new_id() for _ in range(3)]
        for number, one in enumerate(kept):
            ask(browser, one, f"What happens to document {number}?")
        listed = browser.get("/v1/conversations", params={"limit": 2}).json()
        assert [item["id"] for item in listed["data"]] == [kept[2], kept[1]]
        assert listed["more"] is True
        rest = browser.get("/v1/conversations", params={"before": kept[1]}).json()
        assert ([item["id"] for item in rest["data"]], rest["more"]) == ([kept[0]], False)

        renamed = browser.patch(f"/v1/conversations/{kept[1]}", json={"title": "<b>Räume</b>"})
        assert renamed.json()["title"] == "<b>Räume</b>"
        found = browser.get("/v1/conversations", params={"words": "RÄUME"}).json()["data"]
        assert [item["id"] for item in found] == [kept[1]]
        for bad in ({"title": ""}, {"title": " "}, {"title": "x" * 121}, {}, {"owner": "person:x", "title": "x"}):
            assert browser.patch(f"/v1/conversations/{kept[1]}", json=bad).status_code == 400

        assert browser.delete(f"/v1/conversations/{kept[0]}").json() == {"deleted": 1}
        assert browser.delete(f"/v1/conversations/{kept[0]}").status_code == 404
        assert browser.delete("/v1/conversations").json() == {"deleted": 2}
        assert browser.get("/v1/conversations").json() == {"data": [], "more": False}


def test_nobody_reaches_anothers_conversation(place: Place) -> None:
    kept, unknown = new_id(), new_id()
    with place.signed_in("ada") as mine, place.signed_in("bob") as theirs:
        turn = ask(mine, kept)
        for conversation in (kept, unknown):
            answers = [
                theirs.get(f"/v1/conversations/{conversation}"),
                theirs.patch(f"/v1/conversations/{conversation}", json={"title": "x"}),
                theirs.delete(f"/v1/conversations/{conversation}"),
                theirs.post(f"/v1/conversations/{conversation}/share"),
                theirs.delete(f"/v1/conversations/{conversation}/share"),
                theirs.get("/v1/conversations", params={"before": conversation}),
            ]
            assert {answer.status_code for answer in answers} == {404}
            assert {answer.json()["error"]["code"] for answer in answers} == {"no_such_conversation"}
        assert (
            theirs.post("/v1/chat/completions", json=question(llmops={"session_id": kept, "after": turn})).status_code
            == 404
        )
        judged = {"feedback_id": str(uuid.uuid4()), "request_id": turn, "value": "down"}
        assert theirs.post("/v1/feedback", json=judged).status_code == 403
        ask(theirs, kept, "What is mine?")
        assert len(read(mine, kept)["turns"]) == 1
        assert [turn["question"] for turn in read(theirs, kept)["turns"]] == ["What is mine?"]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.uuids().map(str) | st.text(min_size=1, max_size=40).filter(lambda text: text.strip(".")))
def test_made_up_ids_find_nothing(place: Place, conversation: str) -> None:
    with place.signed_in("ada") as browser:
        for path in ("/v1/conversations", "/v1/shared"):
            answer = browser.get(f"{path}/{quote(conversation.encode(errors='replace'), safe='')}")
            assert answer.status_code in (400, 404), answer.text
            assert "turns" not in answer.text


def test_what_may_no_longer_be_read_is_withheld(place: Place) -> None:
    kept = new_id()
    with place.signed_in("director", "board") as browser:
        one = ask(browser, kept, "What is the director's salary?")
        ask(browser, kept, "What happens to deleted documents?", after=one)
        assert SECRET in read(browser, kept)["turns"][0]["answer"]

        place.accounts.set_groups(place.accounts.named("director").person_id, [])
        found = read(browser, kept)
        private, public = found["turns"]
        assert private["withheld"] is True
        assert (private["answer"], private["citations"], private["steps"]) == ("", [], [])
        assert (public["withheld"], bool(public["answer"])) == (False, True)
        everything = [browser.get(path).text for path in (f"/v1/conversations/{kept}", "/v1/conversations")]
        everything.append(browser.get("/v1/conversations", params={"words": "secret number"}).text)
        assert not any(SECRET in text or "salaries" in text for text in everything)

        place.accounts.set_groups(place.accounts.named("director").person_id, ["board"])
        assert SECRET in read(browser, kept)["turns"][0]["answer"]  # nothing is lost


def test_a_deleted_document_no_longer_answers_and_an_edited_one_does(place: Place) -> None:
    kept = new_id()
    with place.signed_in("ada") as browser:
        ask(browser, kept)
        edited = tuple(Text(text.uri, text.title, f"Now: {text.body}", text.page, text.acl) for text in TEXTS)
        with with_texts(place, edited):
            assert read(browser, kept)["turns"][0]["withheld"] is False
        with with_texts(place, TEXTS[1:]):
            assert read(browser, kept)["turns"][0]["withheld"] is True
        assert forget_documents(place.sql, [TEXTS[0].uri]) >= 1
        [turn] = read(browser, kept)["turns"]
        assert (turn["withheld"], turn["answer"]) == (True, "")


def test_an_answer_whose_sources_cannot_be_looked_at_is_withheld(place: Place) -> None:
    kept = new_id()
    with place.signed_in("ada") as browser:
        ask(browser, kept)
        place.server.shelf.aliases.pop("champion")
        try:
            eventually(lambda: browser.post("/v1/chat/completions", json=question()).status_code == 503)
            assert read(browser, kept)["turns"][0]["withheld"] is True
        finally:
            place.server.shelf.aliases["champion"] = 1
        eventually(lambda: not read(browser, kept)["turns"][0]["withheld"])


def test_a_link_opens_for_whoever_may_read_all_of_it(place: Place) -> None:
    kept = new_id()
    with (
        place.signed_in("owner", "board") as mine,
        place.signed_in("colleague", "board") as colleague,
        place.signed_in("ada") as other,
        place.browser() as stranger,
    ):
        one = ask(mine, kept)
        link = mine.post(f"/v1/conversations/{kept}/share").json()
        address = f"/v1/shared/{link['word']}"
        assert link["path"] == f"/?shared={link['word']}"
        assert read(mine, kept)["shared_at"] is not None
        assert other.get(address).json()["turns"][0]["answer"]
        assert stranger.get(address).status_code == 401

        ask(mine, kept, "What is the director's salary?", after=one)
        assert len(other.get(address).json()["turns"]) == 1  # what came later is not shared
        address = f"/v1/shared/{mine.post(f'/v1/conversations/{kept}/share').json()['word']}"
        assert SECRET in colleague.get(address).json()["turns"][1]["answer"]
        refused = other.get(address)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "not_all_readable")
        assert SECRET not in refused.text
        assert other.get(f"/v1/shared/{link['word']}").status_code == 404  # the earlier link has ended

        assert mine.delete(f"/v1/conversations/{kept}/share").status_code == 200
        assert colleague.get(address).status_code == 404


def test_the_api_is_described(place: Place) -> None:
    with place.server.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
    assert set(paths["/v1/conversations/{conversation_id}"]) == {"get", "patch", "delete"}
    assert "get" in paths["/v1/conversations"]
    assert "get" in paths["/v1/shared/{word}"]


@pytest.fixture
def written(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that tells what it was shown and cites something else."""
    chain = place.server.shelf.loaded[-1]
    public, private = (
        PassageRef(text.uri, 0, 9, text.body[:9]) for text in (TEXTS[0], next(t for t in TEXTS if SECRET in t.body))
    )

    def stream(messages: list[Message], context: ChainContext) -> Iterator[Event]:
        shown = (public, private) if "salary" in messages[-1]["content"] else (public,)
        yield Retrieval(shown, "g1", 12)
        yield Delta(f"I don't know more than the {SECRET} [1]")
        yield Citation(1, public.uri, public.start, public.end, public.text)
        yield Done(Usage(), refused="unsure" in messages[-1]["content"], generation="g1", index_seq=12, quoted=False)

    monkeypatch.setattr(chain, "stream", stream)


@pytest.mark.parametrize("words", ["What is the salary?", "What is the salary? (unsure)"])
@pytest.mark.usefixtures("written")
def test_what_a_model_wrote_rests_on_all_that_it_was_shown(place: Place, words: str) -> None:
    kept = new_id()
    name = f"writer{len(words)}"
    with place.signed_in(name, "board") as browser:
        first = ask(browser, kept, words)
        ask(browser, kept, "And in other words?", after=first)
        assert [turn["withheld"] for turn in read(browser, kept)["turns"]] == [False, False]
        place.accounts.set_groups(place.accounts.named(name).person_id, [])
        assert [turn["withheld"] for turn in read(browser, kept)["turns"]] == [True, True]
        assert SECRET not in browser.get(f"/v1/conversations/{kept}").text
