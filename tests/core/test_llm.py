"""The LLM client against a real server: streams, faults, retries, cancels, and never a secret in an error."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from httpcore._backends.sync import SyncStream
from tests.support.ports import free_port
from tests.support.upstream import Reply, Upstream, running_upstream
from tests.support.waiting import eventually

from llmops.core import llm as llm_module
from llmops.core.chain import Cancelled, CancelToken, ChainContext, Message, Usage
from llmops.core.errors import ConfigError, RateLimitedError, UpstreamError
from llmops.core.llm import Completion, LlmClient, LlmEnd, LlmEndpoint, LlmText, Sampling

ASK: list[Message] = [{"role": "user", "content": "two words here"}]
KEY = "sk-very-secret-0123456789"


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with running_upstream() as server:
        yield server


def client(upstream: Upstream, **settings: object) -> LlmClient:
    return LlmClient(LlmEndpoint(upstream.url, "test", **settings))  # type: ignore[arg-type]


def whole(upstream: Upstream, **settings: object) -> Completion:
    llm = client(upstream, **settings)
    try:
        return llm.complete(ASK, Sampling())
    finally:
        llm.close()


def read_until_failure(llm: LlmClient, texts: list[str] | None = None) -> tuple[list[str], UpstreamError]:
    texts = [] if texts is None else texts
    with pytest.raises(UpstreamError) as caught:
        texts.extend(event.text for event in llm.stream(ASK, Sampling()) if isinstance(event, LlmText))
    return texts, caught.value


@contextmanager
def cancelled_once(true: Callable[[], object]) -> Iterator[CancelToken]:
    """A token that another thread cancels a moment after this has come true."""
    token = CancelToken()

    def cancel() -> None:
        eventually(true)
        time.sleep(0.1)
        token.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    yield token
    thread.join()


def test_stream_gives_pieces_then_one_end(upstream: Upstream) -> None:
    upstream.script(Reply(pieces=("Hé", "llo ", "wörld")))
    events = list(client(upstream).stream(ASK, Sampling(max_tokens=7, temperature=0.5)))
    assert events == [LlmText("Hé"), LlmText("llo "), LlmText("wörld"), LlmEnd("stop", Usage(3, 3))]
    body = upstream.requests[0].body
    assert (body["max_tokens"], body["temperature"], body["model"]) == (7, 0.5, "test")
    assert upstream.requests[0].path == "/v1/chat/completions"


def test_server_that_ignores_stream_is_understood(upstream: Upstream) -> None:
    upstream.script(Reply(pieces=("all ", "at once"), stream=False, finish_reason="length"))
    assert whole(upstream) == Completion("all at once", "length", Usage(3, 2))


def test_usage_may_be_missing(upstream: Upstream) -> None:
    upstream.script(Reply(usage=False))
    assert whole(upstream).usage is None


@pytest.mark.parametrize("reply", [Reply(pieces=("a", "b", "c"), cut_after=2), Reply(pieces=("a", "b"), end=False)])
def test_unfinished_reply_fails_after_its_pieces(upstream: Upstream, reply: Reply) -> None:
    upstream.script(reply)
    texts, error = read_until_failure(client(upstream))
    assert texts == ["a", "b"]
    assert "middle of its reply" in error.what
    assert len(upstream.requests) == 1  # after the first byte nothing is repeated


def test_cut_after_the_finish_reason_costs_only_the_count(upstream: Upstream) -> None:
    finish = b'data: {"choices":[{"delta":{"content":"ok"},"finish_reason":"stop"}]}\n\n'
    upstream.script(Reply(raw=finish))
    assert whole(upstream) == Completion("ok", "stop", None)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"data: {broken\n\n", "not JSON"),
        (b"data: [1]\n\n", "not an object"),
        (b'data: {"error": {"message": "model crashed"}}\n\n', "model crashed"),
        (b"data: " + b"x" * 1_100_000, "longer than"),
    ],
)
def test_nonsense_is_an_upstream_error(upstream: Upstream, raw: bytes, says: str) -> None:
    upstream.script(Reply(raw=raw))
    with pytest.raises(UpstreamError, match=says):
        whole(upstream)


def test_odd_chunks_are_tolerated(upstream: Upstream) -> None:
    upstream.script(
        Reply(
            raw=b": comment\r\nevent: x\r\ndata: {}\r\n\r\n"
            b'data: {"choices":[{"delta":{"role":"assistant","content":null}}]}\r\n'
            b'data: {"choices":[{"delta":{"content":"hi"}}]}\ndata: [DONE]'
        )
    )
    assert whole(upstream).text == "hi"


def test_500_and_503_are_asked_again_then_reported(upstream: Upstream) -> None:
    upstream.script(Reply(status=500), Reply(status=503), Reply(pieces=("fine",)))
    assert whole(upstream).text == "fine"
    upstream.script(*[Reply(status=500, error="out of memory")] * 2)
    with pytest.raises(UpstreamError, match="answered 500: out of memory"):
        whole(upstream, attempts=2)
    assert len(upstream.requests) == 5


def test_400_is_not_asked_again(upstream: Upstream) -> None:
    upstream.script(Reply(status=400, error="context length exceeded"))
    with pytest.raises(UpstreamError, match="400: context length exceeded"):
        whole(upstream)
    assert len(upstream.requests) == 1


def test_429_waits_as_long_as_it_is_asked_to(upstream: Upstream) -> None:
    upstream.script(Reply(status=429, headers={"Retry-After": "0.3"}), Reply(pieces=("fine",)))
    begun = time.monotonic()
    assert whole(upstream).text == "fine"
    assert time.monotonic() - begun >= 0.3


def test_429_with_a_long_wait_is_reported_at_once(upstream: Upstream) -> None:
    upstream.script(Reply(status=429, headers={"Retry-After": "3600"}))
    with pytest.raises(RateLimitedError) as caught:
        whole(upstream)
    assert caught.value.hint == "try again in 3600 s"
    assert len(upstream.requests) == 1


def test_silence_is_an_error_and_not_repeated(upstream: Upstream) -> None:
    upstream.script(Reply(delay_s=30))
    with pytest.raises(UpstreamError, match="sent nothing for"):
        whole(upstream, timeout_s=0.2)
    assert len(eventually(lambda: upstream.requests)) == 1


def test_silence_in_the_middle_is_an_error(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """The patience is short only once a piece was read: a slow machine may need longer to come to it."""
    upstream.script(Reply(pieces=("a", "b"), allowed=threading.Semaphore(1)))
    texts: list[str] = []
    read = SyncStream.read
    monkeypatch.setattr(SyncStream, "read", lambda self, size, timeout: read(self, size, timeout if texts else 60.0))
    _, error = read_until_failure(client(upstream, timeout_s=0.1), texts)
    assert texts == ["a"]
    assert "fell silent for 0.1 s" in error.what


def test_dripping_for_ever_ends(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    upstream.script(Reply(pieces=("x",) * 1000, piece_delay_s=0.02))
    texts: list[str] = []
    now = time.monotonic
    monkeypatch.setattr(llm_module, "time", SimpleNamespace(monotonic=lambda: now() + 100 * len(texts)))
    _, error = read_until_failure(client(upstream, total_s=250.0), texts)
    assert 3 <= len(texts) < 1000
    assert "did not finish within 250 s" in error.what


def test_nobody_there_is_an_upstream_error() -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(UpstreamError, match="cannot be reached") as caught:
        LlmClient(LlmEndpoint(url, "test", attempts=2)).complete(ASK, Sampling())
    assert caught.value.where == f"{url}/chat/completions"


@pytest.mark.parametrize("reply", [Reply(delay_s=30), Reply(pieces=("a", "b"), piece_delay_s=30)])
def test_cancel_from_another_thread_hangs_up(upstream: Upstream, reply: Reply) -> None:
    upstream.script(reply)
    with cancelled_once(lambda: upstream.requests) as token, pytest.raises(Cancelled):
        client(upstream).complete(ASK, Sampling(), ChainContext(cancel=token))
    assert upstream.requests[0].client_left.wait(60)


def test_cancel_ends_the_pause_between_attempts(upstream: Upstream) -> None:
    upstream.script(Reply(status=429, headers={"Retry-After": "15"}))
    with (
        cancelled_once(lambda: upstream.requests and upstream.requests[0].finished.is_set()) as token,
        pytest.raises(Cancelled),
    ):
        client(upstream).complete(ASK, Sampling(), ChainContext(cancel=token))
    assert len(upstream.requests) == 1


def test_cancelled_before_the_start_asks_nothing(upstream: Upstream) -> None:
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        client(upstream).complete(ASK, Sampling(), ChainContext(cancel=token))
    assert upstream.requests == []


def test_closing_the_stream_hangs_up(upstream: Upstream) -> None:
    upstream.script(Reply(pieces=("a",) * 100, piece_delay_s=0.1))
    events = client(upstream).stream(ASK, Sampling())
    assert next(events) == LlmText("a")
    events.close()  # type: ignore[attr-defined]
    assert upstream.requests[0].client_left.wait(60)


def test_a_call_names_the_request_it_belongs_to(upstream: Upstream) -> None:
    context = ChainContext()
    client(upstream).complete(ASK, Sampling(), context)
    headers = upstream.requests[0].headers
    assert headers["x-request-id"] == context.request_id
    assert headers["x-llmops-parent-invocation"] == context.invocation_id


def test_key_is_read_at_each_call(upstream: Upstream, tmp_path: Path) -> None:
    file = tmp_path / "key"
    llm = client(upstream, api_key=f"file:{file}")
    for key in ("first", "second"):
        file.write_text(f"{key}\n")
        llm.complete(ASK, Sampling())
    assert [seen.headers["authorization"] for seen in upstream.requests] == ["Bearer first", "Bearer second"]


def test_key_never_shows_in_an_error(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_LLM_KEY", KEY)
    upstream.script(Reply(status=401, error=f"Incorrect API key provided: {KEY}"))
    with pytest.raises(UpstreamError) as caught:
        whole(upstream, api_key="env:TEST_LLM_KEY")
    assert KEY not in f"{caught.value.as_json()}{caught.value!r}{caught.value.__cause__!r}"


@pytest.mark.parametrize("reference", [KEY, f"env:{KEY}", "env:", "file:"])
def test_key_written_out_is_refused_without_showing_it(reference: str) -> None:
    with pytest.raises(ConfigError) as caught:
        LlmEndpoint("http://127.0.0.1:1/v1", "test", api_key=reference)
    assert KEY not in str(caught.value.as_json())


def test_missing_key_is_a_config_error(upstream: Upstream) -> None:
    with pytest.raises(ConfigError, match="not set"):
        whole(upstream, api_key="env:LLMOPS_TEST_SURELY_MISSING")
    assert upstream.requests == []


@pytest.mark.parametrize("url", ["ftp://host/v1", "localhost:8080", "http://user:pw@host/v1"])
def test_bad_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        LlmEndpoint(url, "test")
    assert "pw" not in str(caught.value.where)
