"""Where a picture's URL points: every spelling of an inner address is refused, names are looked up."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.gateway.config import GuardConfig
from llmops.gateway.guard import Guards, open_guards
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


def image(url: str) -> list[tuple[Any, dict[str, Any]]]:
    """Every way to ask for a picture."""
    part = {"type": "image_url", "image_url": {"url": url}}
    block = {"type": "image", "source": {"type": "url", "url": url}}
    user = {"role": "user", "content": [part]}
    return [
        ("chat", {"messages": [user]}),
        ("chat", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": url}]}]}),
        ("chat", {"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": url}}]}]}),
        ("messages", {"messages": [{"role": "user", "content": [block]}]}),
        ("messages", {"messages": [{"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t", "content": [block]}]}]}),
        ("messages", {"messages": [{"role": "user", "content": [
            {"type": "document", "source": {"type": "content", "content": [block]}}]}]}),
        ("messages", {"system": [block], "messages": []}),
        ("responses", {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]}),
        ("responses", {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": url}]}]}),
        ("responses", {"input": [
            {"type": "function_call_output", "output": [{"type": "input_image", "image_url": url}]}]}),
        ("embeddings", {"input": [{"content": [part]}]}),
        ("embeddings", {"images": [url]}),
    ]  # fmt: skip


@pytest.mark.parametrize("number", range(len(image(""))))
def test_every_place_of_a_picture_on_every_route(number: int) -> None:
    operation, body = image("http://169.254.169.254/x")[number]
    verdict = PLAIN.check_input(operation, body)
    assert (verdict.action, verdict.findings) == ("blocked", ("image_urls",))
    assert "169" not in verdict.reason
    operation, body = image("data:image/png;base64,AAAA")[number]
    assert PLAIN.check_input(operation, body).action == "pass"


@pytest.mark.parametrize(
    "content",
    [
        "look at http://127.0.0.1/",
        [{"type": "text", "text": "http://127.0.0.1/"}],
        [{"type": "tool_use", "id": "t", "name": "fetch", "input": {"url": "http://localhost:8000/"}}],
        [{"type": "text", "text": "x", "citations": [{"type": "web", "url": "http://localhost/"}]}],
    ],
)
def test_what_nobody_fetches_is_not_judged(content: Any) -> None:
    verdict = PLAIN.check_input("messages", {"messages": [{"role": "assistant", "content": content}]})
    assert verdict.action == "pass"
    assert verdict.unresolved == ()


def test_log_only() -> None:
    guards = open_guards([GuardConfig(check="image_urls", action="log")])
    verdict = guards.check_input(*image("http://10.0.0.1/")[0])
    assert (verdict.action, verdict.findings) == ("pass", ("image_urls",))


def resolving(monkeypatch: pytest.MonkeyPatch, addresses: dict[str, list[str]]) -> list[str]:
    """Names answered from a table; what is asked for is noted."""
    asked: list[str] = []

    def getaddrinfo(host: str, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        if host not in addresses:
            raise socket.gaierror("unknown")
        return [(0, 0, 0, "", (address, 0)) for address in addresses[host]]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def resolved(guards: Guards, url: str) -> Any:
    verdict = guards.check_input(*image(url)[0])
    assert verdict.action == "pass"
    assert verdict.unresolved
    return asyncio.run(guards.resolve(verdict))


def test_names_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {
        "good.example.com": ["93.184.215.14", "2606:2800::1"],
        "bad.example.com": ["93.184.215.14", "10.0.0.1"],
        "six.example.com": ["fe80::1%eth0"],
    }
    asked = resolving(monkeypatch, names)
    guards = open_guards()
    assert resolved(guards, "https://good.example.com/a.png").action == "pass"
    assert resolved(guards, "https://good.example.com/b.png").action == "pass"
    assert asked == ["good.example.com"], "remembered for a while"
    for name in ("bad", "six", "unknown"):
        verdict = resolved(guards, f"https://{name}.example.com/a.png")
        assert (verdict.action, verdict.findings, verdict.unresolved) == ("blocked", ("image_urls",), ())
        assert "10.0" not in verdict.reason
    logging = open_guards([GuardConfig(check="image_urls", action="log")])
    verdict = resolved(logging, "https://bad.example.com/a.png")
    assert (verdict.action, verdict.findings) == ("pass", ("image_urls",))


def test_too_many_urls() -> None:
    parts = [{"type": "image_url", "image_url": {"url": f"https://example.com/{number}"}} for number in range(1001)]
    verdict = PLAIN.check_input("chat", {"messages": [{"role": "user", "content": parts}]})
    assert verdict.action == "blocked"
