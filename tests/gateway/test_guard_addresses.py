"""Where a URL points that a provider would fetch: every spelling of an inner address is refused, names looked up."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.json_values import mutants

from llmops.gateway.calls import Operation
from llmops.gateway.config import GuardConfig
from llmops.gateway.engine.measure import measure
from llmops.gateway.guard import Guards, open_guards
from llmops.gateway.guard import guards as guards_module
from llmops.gateway.guard.addresses import RefusedUrlError, check_address, check_url

PLAIN = open_guards()
INSIDE = [
    "http://127.0.0.1/", "http://127.1/", "http://2130706433/", "http://0x7f000001/", "http://0x7f.1/",
    "http://0177.0.0.1/", "http://017700000001/", "http://0/", "http://127.0.0.1./", "http://127.0.0.1:8080/x.png",
    "http://10.0.0.1/", "http://172.16.3.4/", "http://192.168.0.1/", "http://169.254.169.254/latest/meta-data/",
    "http://0xa9fea9fe/", "http://2852039166/", "http://0251.0376.0251.0376/", "http://100.64.0.1/",
    "http://100.100.100.200/", "http://192.0.0.192/", "http://0.0.0.0/", "http://255.255.255.255/", "http://224.0.0.1/",
    "http://[::1]/", "http://[::]/", "http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/", "http://[::127.0.0.1]/",
    "http://[0:0:0:0:0:ffff:a9fe:a9fe]/", "http://[fe80::1]/", "http://[fe80::1%25eth0]/", "http://[fc00::1]/",
    "http://[fd00:ec2::254]/", "http://[64:ff9b::7f00:1]/", "http://[64:ff9b::169.254.169.254]/",
    "http://[2002:7f00:1::]/",
    "http://[ff02::1]/", "http://localhost/", "http://LOCALHOST./", "http://a.localhost/", "http://printer.local/",
    "http://metadata.google.internal/", "http://intranet/", "http://router.home.arpa/", "http://db.corp/",
    "http://127。0。0。1/", "http://１２７.０.０.１/", "http://①②⑦.⓪.⓪.①/", "http://127.0.0.1\u200b/", "http://%31%32%37.0.0.1/",
    "http://127.0.0.1%2f.example.com/", "http://lo\u00adcalhost/",
    "http://example.com@127.0.0.1/", "http://127.0.0.1@example.com/", "http:\\\\127.0.0.1/", "http:/127.0.0.1/",
    "http:127.0.0.1", "http://exa\tmple.com/", "http://example.com\n/", " http://example.com/", "http://[::1", "http://",
    "http:///x", "http://exam ple.com/", "http://example.com:80:90/", "http://1.2.3.4.5/", "http://999.1.1.1/",
    "http://1.2.3.4.0x5/", "http://256.256.256.256/", "http://a..b.com/", "http://-/", "http://exa%00mple.com/",
    "file:///etc/passwd", "ftp://example.com/x", "gopher://example.com/",
    "dict://127.0.0.1:11211/", "javascript:alert(1)",
    "//127.0.0.1/x", "/etc/passwd", "example.com/x.png", "", "http://" + "a" * 9000 + ".com/", "HTTP://LocalHost/",
]  # fmt: skip
OUTSIDE = {
    "https://example.com/a.png": "example.com",
    "https://EXAMPLE.com:8443/a.png?x=http://127.0.0.1": "example.com",
    "http://8.8.8.8/a.png": None,
    "http://[2606:4700:4700::1111]/a.png": None,
    "https://bücher.example/a.png": "xn--bcher-kva.example",
    "https://cdn_1.example.co.uk#frag": "cdn_1.example.co.uk",
    "https://0.example.com": "0.example.com",
    "data:image/png;base64,iVBORw0KGgo=": None,
    "DATA:image/png;base64,iVBORw0KGgo=": None,
}


@pytest.mark.parametrize("url", INSIDE, ids=lambda url: ascii(url)[:50])
def test_what_points_inside_or_nowhere_is_refused(url: str) -> None:
    with pytest.raises(RefusedUrlError) as refused:
        check_url(url)
    assert "127" not in str(refused.value)


@pytest.mark.parametrize(("url", "name"), OUTSIDE.items())
def test_what_points_outside_may_pass(url: str, name: str | None) -> None:
    assert check_url(url) == name


@given(st.ip_addresses(v=4), st.integers(1, 4), st.data())
def test_every_spelling_of_an_inner_address(address: ipaddress.IPv4Address, parts: int, data: st.DataObject) -> None:
    """As inet_aton takes it; what is not written plainly is refused even where the address itself would not be."""
    value = int(address)
    octets = [value >> 8 * (3 - place) & 255 for place in range(parts - 1)]
    numbers = [*octets, value & (1 << 8 * (5 - parts)) - 1]
    spelled = ".".join(data.draw(st.sampled_from([str(n), hex(n), f"0{n:o}", f"0X{n:x}"])) for n in numbers)
    assert socket.inet_aton(spelled) == address.packed
    try:
        check_url(f"http://{spelled}/")
        passed = True
    except RefusedUrlError:
        passed = False
    assert not passed or (spelled == str(address) and address.is_global)


@given(st.ip_addresses())
def test_no_address_that_is_not_global(address: Any) -> None:
    try:
        check_address(address)
    except RefusedUrlError:
        return
    assert address.is_global
    assert not address.is_private


@given(st.text(max_size=40))
def test_any_text_is_judged(text: str) -> None:
    for url in (text, f"http://{text}/", f"https://{text}"):
        try:
            name = check_url(url)
        except RefusedUrlError:
            continue
        assert name is None or name.isascii()


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


def asked(url: str) -> dict[str, tuple[Operation, dict[str, Any]]]:
    """Every way to ask somebody upstream to fetch something."""
    picture = {"type": "image_url", "image_url": {"url": url}}
    block = {"type": "image", "source": {"type": "url", "url": url}}
    mcp = {"type": "mcp", "server_label": "x", "server_url": url}
    return {
        "picture": ("chat", user(picture)),
        "picture, short": ("chat", user({"type": "image_url", "image_url": url})),
        "picture without a type": ("chat", user({"image_url": url})),
        "picture in Go's spelling": ("chat", user({"type": "image_url", "Image_URL": {"URL": url}})),
        "picture in another spelling": ("chat", user({"type": "image_url", "imageUrl": {"url": url}})),
        "picture among others": ("chat", user({"type": "text", "text": "x"}, picture, picture)),
        "picture of a message": ("chat", {"messages": [{"role": "user", "content": "x", "images": [url]}]}),
        "flat message": ("chat", {"messages": [{"role": "user", "content": "x", "image_url": url}]}),
        "tool's picture": ("chat", {"messages": [{"role": "tool", "tool_call_id": "t", "content": [picture]}]}),
        "film": ("chat", user({"type": "video_url", "video_url": {"url": url}})),
        "film in frames": ("chat", user({"type": "video", "video": [url, url]})),
        "sound": ("chat", user({"type": "audio_url", "audio_url": {"url": url}})),
        "sound by link": ("chat", user({"type": "input_audio", "input_audio": url})),
        "sound's data by link": ("chat", user({"type": "input_audio", "input_audio": {"data": url, "format": "mp3"}})),
        "file's data by link": ("chat", user({"type": "file", "file": {"filename": "x.pdf", "file_data": url}})),
        "file by link": ("chat", user({"type": "file", "file": {"file_url": url}})),
        "file in Google's words": ("chat", user({"fileData": {"mimeType": "image/png", "fileUri": url}})),
        "document by link": ("chat", user({"type": "document_url", "document_url": url})),
        "picture in a template's words": ("chat", user({"type": "image", "image": url})),
        "picture by url": ("chat", user({"type": "image", "url": url})),
        "sound by url": ("chat", user({"type": "audio", "url": url})),
        "feed to search": ("chat", {"messages": [], "search_parameters": {"sources": [{"links": [url]}]}}),
        "plugin": ("chat", {"messages": [], "plugins": [{"id": "web", "engine": url}]}),
        "chat's MCP server": ("chat", {"messages": [], "tools": [mcp]}),
        "first stage": ("chat", {"messages": [], "kv_transfer_params": {"remote_host": url.split("/")[2]}}),
        "first stage, another": ("chat", {"messages": [], "bootstrap_host": url.split("/")[2]}),
        "first stages": ("chat", {"messages": [], "bootstrap_host": [url.split("/")[2]]}),
        "block": ("messages", user(block)),
        "block's document": ("messages", user({"type": "document", "source": {"type": "url", "url": url}})),
        "tool's block": ("messages", user({"type": "tool_result", "tool_use_id": "t", "content": [block]})),
        "block within a document": ("messages", user({
            "type": "document", "source": {"type": "content", "content": [block]}})),
        "system block": ("messages", {"system": [block], "messages": []}),
        "MCP servers": ("messages", {"messages": [], "mcp_servers": [{"type": "url", "name": "x", "url": url}]}),
        "MCP servers of no type": ("messages", {"messages": [], "mcp_servers": [{"url": url}]}),
        "input image": ("responses", {"input": [{"role": "user", "content": [
            {"type": "input_image", "image_url": url}]}]}),
        "input file": ("responses", {"input": [{"role": "user", "content": [
            {"type": "input_file", "file_url": url}]}]}),
        "tool's input image": ("responses", {"input": [
            {"type": "function_call_output", "output": [{"type": "input_image", "image_url": url}]}]}),
        "screenshot": ("responses", {"input": [
            {"type": "computer_call_output", "output": {"type": "computer_screenshot", "image_url": url}}]}),
        "MCP tool": ("responses", {"input": "x", "tools": [mcp]}),
        "MCP tool in another spelling": ("responses", {"input": "x", "tools": [{"type": "mcp", "serverUrl": url}]}),
        "connector": ("responses", {"input": "x", "tools": [{"type": "connector", "settings": {"endpoint": url}}]}),
        "mask": ("responses", {"input": "x", "tools": [
            {"type": "image_generation", "input_image_mask": {"image_url": url}}]}),
        "prompt's variable": ("responses", {"prompt": {"id": "p", "variables": {
            "v": {"type": "input_image", "image_url": url}}}}),
        "embedded part": ("embeddings", {"input": [{"content": [picture]}]}),
        "embedded chat": ("embeddings", user(picture)),
        "embedded image": ("embeddings", {"input": [{"image": url}]}),
        "embedded link": ("embeddings", {"input": [{"url": url}]}),
        "embedded input by kind": ("embeddings", {"input": [url], "modality": "image"}),
        "embedded input of one": ("embeddings", {"input": url, "modality": "audio"}),
        "embedded images": ("embeddings", {"images": [url]}),
        "embedded inputs": ("embeddings", {"inputs": [{"content": [picture]}]}),
        "ranked picture": ("rerank", {"query": "x", "documents": [{"image": url}]}),
        "ranked part": ("rerank", {"query": {"content": [picture]}, "documents": ["x"]}),
    }  # fmt: skip


@pytest.mark.parametrize("place", asked("http://x/"))
def test_every_place_of_a_url_on_every_route(place: str) -> None:
    for url in ("http://169.254.169.254/x", "HTTP://localhost/x", " http://10.0.0.8/x", "http://[::1]/"):
        operation, body = asked(url)[place]
        verdict = PLAIN.check_input(operation, body)
        assert (verdict.action, verdict.findings) == ("blocked", ("image_urls",)), url
        assert "169" not in verdict.reason
        assert not measure(operation, body, b"{}").plain, "else nobody looks"
    operation, body = asked("https://files.example.com/x")[place]
    verdict = PLAIN.check_input(operation, body)
    assert (verdict.action, verdict.unresolved) == ("pass", ("files.example.com",))


@pytest.mark.parametrize(
    "place", [place for place in asked("http://x/") if "MCP" not in place and "stage" not in place]
)
def test_inline_data_passes_wherever_it_stands(place: str) -> None:
    operation, body = asked("data:image/png;base64,AAAA/x/x")[place]
    verdict = PLAIN.check_input(operation, body)
    assert (verdict.action, verdict.unresolved) == ("pass", ())


INNER = "http://localhost:8000/wiki"
QUOTED: list[tuple[Operation, dict[str, Any]]] = [
    ("messages", {"messages": [{"role": "assistant", "content": f"look at {INNER}"}]}),
    ("chat", {"messages": [{"role": "user", "content": INNER}], "metadata": {"url": INNER}}),
    ("messages", user({"type": "text", "text": INNER})),
    ("messages", user({"type": "tool_use", "id": "t", "name": "fetch", "input": {"url": INNER}})),
    ("messages", user({"type": "text", "text": "x", "citations": [{"type": "web", "url": INNER}]})),
    ("messages", user({"type": "search_result", "source": INNER, "title": INNER, "content": []})),
    ("messages", user({"type": "document", "title": INNER, "source": {"type": "text", "data": INNER}})),
    ("messages", user({"type": "image", "source": {"type": "base64", "data": "//uQAAAA"}})),
    ("messages", {"messages": [], "tools": [{"name": "f", "input_schema": {"properties": {"image": {"url": INNER}}}}]}),
    ("chat", {"messages": [], "tools": [{"type": "function", "function": {
        "name": "f", "description": INNER, "parameters": {"properties": {"image": {"url": INNER}}}}}]}),
    ("chat", {"messages": [], "documents": [{"title": "x", "url": INNER, "image": INNER}]}),
    ("chat", {"messages": [{"role": "assistant", "content": None, "tool_calls": [
        {"id": "c", "function": {"name": "f", "arguments": INNER, "url": INNER}}]}]}),
    ("chat", user({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "mp3"}})),
    ("responses", {"input": INNER, "instructions": INNER}),
    ("responses", {"input": [{"type": "web_search_call", "action": {"type": "open_page", "url": INNER}}]}),
    ("responses", {"input": "x", "tools": [{"type": "mcp", "server_description": INNER, "headers": {"a": INNER}}]}),
    ("embeddings", {"input": [INNER, f"{INNER} is ours"]}),
    ("embeddings", {"input": INNER}),
    ("rerank", {"query": INNER, "documents": [INNER, {"text": INNER, "url": INNER}]}),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(QUOTED)))
def test_what_nobody_fetches_is_not_judged(number: int) -> None:
    verdict = PLAIN.check_input(*QUOTED[number])
    assert (verdict.action, verdict.unresolved) == ("pass", ())


@given(st.sampled_from(list(asked("http://x/"))), st.data())
def test_whatever_stands_around_it(place: str, data: st.DataObject) -> None:
    """Of any shape, with one thing of another kind: a verdict, and no error."""
    operation, body = asked("https://files.example.com/x")[place]
    wrong = data.draw(st.sampled_from([one for one in mutants(body) if isinstance(one, dict)]))
    assert PLAIN.check_input(operation, wrong).action in ("pass", "blocked")


def test_log_only() -> None:
    guards = open_guards([GuardConfig(check="image_urls", action="log")])
    verdict = guards.check_input(*asked("http://10.0.0.1/")["picture"])
    assert (verdict.action, verdict.findings) == ("pass", ("image_urls",))


def resolving(monkeypatch: pytest.MonkeyPatch, addresses: dict[str, list[str]]) -> list[str]:
    """Names answered from a table; what is asked for is noted."""
    looked_up: list[str] = []

    def getaddrinfo(host: str, *_: Any, **__: Any) -> list[Any]:
        looked_up.append(host)
        if host not in addresses:
            raise socket.gaierror("unknown")
        return [(0, 0, 0, "", (address, 0)) for address in addresses[host]]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return looked_up


def resolved(guards: Guards, url: str) -> Any:
    verdict = guards.check_input(*asked(url)["picture"])
    assert verdict.action == "pass"
    assert verdict.unresolved
    return asyncio.run(guards.resolve(verdict))


def test_names_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {
        "good.example.com": ["93.184.215.14", "2606:2800::1"],
        "bad.example.com": ["93.184.215.14", "10.0.0.1"],
        "six.example.com": ["fe80::1%eth0"],
    }
    looked_up = resolving(monkeypatch, names)
    guards = open_guards()
    assert resolved(guards, "https://good.example.com/a.png").action == "pass"
    assert resolved(guards, "https://good.example.com/b.png").action == "pass"
    assert looked_up == ["good.example.com"], "remembered for a while"
    for name in ("bad", "six", "unknown"):
        verdict = resolved(guards, f"https://{name}.example.com/a.png")
        assert (verdict.action, verdict.findings, verdict.unresolved) == ("blocked", ("image_urls",), ())
        assert "10.0" not in verdict.reason
    logging = open_guards([GuardConfig(check="image_urls", action="log")])
    verdict = resolved(logging, "https://bad.example.com/a.png")
    assert (verdict.action, verdict.findings) == ("pass", ("image_urls",))


def test_names_that_nobody_answers_for_hold_up_neither_the_request_nor_the_providers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = threading.Event()

    def getaddrinfo(host: str, *_: Any, **__: Any) -> list[Any]:
        if host.startswith("slow"):
            assert answer.wait(60)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.215.14", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(guards_module, "RESOLVE_S", 0.05)
    picture = [{"type": "image_url", "image_url": {"url": f"https://slow{number}.example.com/"}} for number in range(9)]

    async def work() -> None:
        verdict = PLAIN.check_input("chat", user(*picture))
        assert len(verdict.unresolved) == 9
        found = await asyncio.gather(*[open_guards().resolve(verdict) for _ in range(50)])
        assert {(one.action, one.reason[-7:]) for one in found} == {("blocked", "in time")}
        assert await asyncio.get_running_loop().getaddrinfo("provider.example.com", 443)

    try:
        asyncio.run(work())
    finally:
        answer.set()


def test_too_many_urls() -> None:
    parts = [{"type": "image_url", "image_url": {"url": f"https://example.com/{number}"}} for number in range(1001)]
    verdict = PLAIN.check_input("chat", {"messages": [{"role": "user", "content": parts}]})
    assert verdict.action == "blocked"
