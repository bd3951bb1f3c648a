"""Pages of a real web server: fetched once, asked whether they changed, kept when the server is down, and guarded."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.web_site import Page, Site, web_site

from llmops.core import fetch as core_fetch
from llmops.core.errors import DeniedError, LlmopsError, NotFoundError, UnavailableError, UpstreamError, UserError
from llmops.core.fetch import Bounds, fetch
from llmops.core.state import StateConfig
from llmops.rag.config import WebSource
from llmops.rag.document import Rejected, SourceItem
from llmops.rag.sources import documents
from llmops.rag.sources.mirror import Mirror
from llmops.rag.sources.web import _read_sitemap, scan_web

PRIVATE = (
    "http://169.254.169.254/latest/meta-data", "http://127.0.0.1:{port}/good.md", "http://[::1]:{port}/good.md",
    "http://localhost:{port}/good.md", "http://10.0.0.1/x", "http://0.0.0.0:{port}/good.md", "http://2130706433/x",
    "http://[::ffff:127.0.0.1]:{port}/good.md", "http://[fd00::1]/x", "http://100.64.0.1/x",
)  # fmt: skip


@pytest.fixture
def site() -> Iterator[Site]:
    with web_site() as running:
        yield running


@pytest.fixture
def state(tmp_path: Path) -> StateConfig:
    return StateConfig(dir=tmp_path / "state")


def read(source: WebSource, state: StateConfig) -> dict[str, bytes | str]:
    """What the source holds: path -> bytes, or the code of why there are none."""
    found = {}
    for one in documents(source, state):
        path = one.uri.partition("://")[2].partition("/")[2]
        found[path] = one.code if isinstance(one, Rejected) else Path(one.path).read_bytes()
    return found


def test_a_page_is_fetched_again_only_where_it_changed(site: Site, state: StateConfig) -> None:
    source = WebSource(
        urls=(site.write("/a.md", "one"), site.write("/b", "<p>two", media_type="text/html; charset=utf-8")),
        private=True,
    )
    assert read(source, state) == {"a.md": b"one", "b": b"<p>two"}
    endings = {item.uri: item.path[-5:] for item in documents(source, state) if isinstance(item, SourceItem)}
    assert endings[site.url("/b")] == ".html"
    site.statuses()
    site.write("/a.md", "another")
    assert read(source, state) == {"a.md": b"another", "b": b"<p>two"}
    assert site.statuses() == {"/a.md": 200, "/b": 304}


def test_without_an_etag_the_bytes_themselves_say_whether_a_page_changed(site: Site, state: StateConfig) -> None:
    source = WebSource(urls=(site.write("/a.md", "one", etag=False),), private=True)
    (first,) = documents(source, state)
    (second,) = documents(source, state)
    assert first == second
    modified = {"last-modified": "Sun, 01 Nov 2026 10:00:00 GMT"}
    site.write("/a.md", "two", etag=False, headers=modified)
    assert read(source, state) == {"a.md": b"two"}
    site.asked.clear()
    read(source, state)
    (_, _, headers) = site.asked[-1]
    assert headers["if-modified-since"] == modified["last-modified"]


def test_a_sitemap_that_says_nothing_changed_saves_the_question(site: Site, state: StateConfig) -> None:
    site.write("/a.md", "one")
    site.write("/b.md", "two")
    exact = "2026-11-01T10:00:00Z"
    source = WebSource(sitemap=site.sitemap("/a.md", "/b.md", a=exact), private=True)
    assert read(source, state) == {"a.md": b"one", "b.md": b"two"}
    site.statuses()
    read(source, state)
    assert site.statuses() == {"/b.md": 304}  # a bare date is not exact enough to believe
    site.sitemap("/b.md")
    assert read(source, state) == {"b.md": b"two"}


def test_an_index_of_sitemaps_a_packed_one_and_patterns(site: Site, state: StateConfig) -> None:
    site.write("/guide/a.md", "a")
    site.write("/blog/b.md", "b")
    site.sitemap("/guide/a.md", "/blog/b.md")
    site.pages["/packed.xml.gz"] = Page(gzip.compress(site.pages["/sitemap.xml"].body), media_type="application/gzip")
    index = f"<sitemapindex><sitemap><loc>{site.url('/packed.xml.gz')}</loc></sitemap></sitemapindex>"
    source = WebSource(sitemap=site.write("/index.xml", index), private=True, include=("guide/**",))
    assert read(source, state) == {"guide/a.md": b"a"}
    with pytest.raises(UserError, match="more than 1 pages are listed"):
        read(WebSource(sitemap=site.url("/index.xml"), private=True, most=1), state)


def test_robots_txt_is_obeyed_and_its_failure_is_no_permission(site: Site, state: StateConfig) -> None:
    source = WebSource(urls=(site.write("/a.md", "a"), site.write("/secret/b.md", "b")), private=True)
    site.write("/robots.txt", "User-agent: *\nDisallow: /secret/", media_type="text/plain")
    assert read(source, state) == {"a.md": b"a", "secret/b.md": "robots"}
    site.pages["/robots.txt"] = Page(status=503)
    with pytest.raises(UnavailableError, match=r"robots\.txt"):
        read(source, state)


def test_what_is_gone_goes_and_what_fails_keeps_its_last_copy(site: Site, state: StateConfig) -> None:
    source = WebSource(urls=tuple(site.write(f"/{n}.md", str(n)) for n in range(3)), private=True)
    read(source, state)
    site.pages["/0.md"] = Page(status=410)
    site.pages["/1.md"] = Page(status=500)
    assert read(source, state) == {"1.md": b"1", "2.md": b"2"}
    never = WebSource(urls=(site.url("/1.md"),), private=True)
    assert read(never, state) == {"1.md": "unreachable"}


def test_a_server_that_answers_nothing_is_down_not_empty(site: Site, state: StateConfig) -> None:
    source = WebSource(urls=tuple(site.write(f"/{n}.md", str(n)) for n in range(30)), private=True)
    assert len(read(source, state)) == 30
    for page in site.pages.values():
        page.status = 502
    site.pages["/robots.txt"] = Page(status=404)
    with pytest.raises(UnavailableError, match="answers nothing"):
        read(source, state)
    for page in site.pages.values():
        page.status = 200
    assert len(read(source, state)) == 30
    gone = WebSource(sitemap=site.url("/nowhere.xml"), private=True)
    with pytest.raises(NotFoundError, match="sitemap is not there"):
        read(gone, state)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "169.254.169.254", "10.0.0.1", "0.0.0.0"])
def test_private_addresses_are_refused(host: str, state: StateConfig) -> None:
    with pytest.raises(DeniedError, match="not of the internet"):
        fetch(f"http://{host}:9/a.md")
    with pytest.raises(DeniedError, match="not of the internet"):
        read(WebSource(sitemap=f"http://{host}:9/sitemap.xml"), state)


def test_a_redirect_is_checked_and_takes_no_header_along(site: Site, state: StateConfig, monkeypatch) -> None:
    monkeypatch.setenv("SITE_TOKEN", "s3cret")
    with web_site() as other:
        target = other.write("/b.md", "b")
        site.pages["/a.md"] = Page(status=302, headers={"location": target})
        source = WebSource(urls=(site.url("/a.md"),), private=True, headers={"Authorization": "env:SITE_TOKEN"})
        assert read(source, state) == {"a.md": b"b"}
        (_, _, sent) = site.asked[-1]
        assert sent["authorization"] == "s3cret"
        assert all("authorization" not in headers for *_, headers in other.asked)
    site.pages["/a.md"] = Page(status=302, headers={"location": "file:///etc/passwd"})
    with pytest.raises(UserError, match="only http"):
        fetch(site.url("/a.md"), bounds=Bounds(private=True))
    site.pages["/a.md"] = Page(status=302, headers={"location": "/a.md"})
    with pytest.raises(UnavailableError, match="redirects"):
        fetch(site.url("/a.md"), bounds=Bounds(private=True))


def test_endless_packed_and_cut_bodies_end_in_time(site: Site) -> None:
    bounds = Bounds(max_bytes=100_000, private=True)
    site.pages["/bomb"] = Page(gzip.compress(bytes(50_000_000)), headers={"content-encoding": "gzip"})
    with pytest.raises(UserError, match="more than 100,000 bytes"):
        fetch(site.url("/bomb"), bounds=bounds)
    site.write("/long", "x" * 200_000)
    with pytest.raises(UserError, match="more than"):
        fetch(site.url("/long"), bounds=bounds)
    site.pages["/cut"] = Page(b"half", claims=4000)
    with pytest.raises(UnavailableError):
        fetch(site.url("/cut"), bounds=bounds)
    site.pages["/torn"] = Page(gzip.compress(b"half" * 1000)[:-9], headers={"content-encoding": "gzip"})
    with pytest.raises(UnavailableError):
        fetch(site.url("/torn"), bounds=bounds)


def test_a_page_of_the_internet_leads_to_no_private_address(site: Site, state: StateConfig, monkeypatch) -> None:
    """The site stands for one of the internet: its name is taken for public, every other address is looked at."""
    looked_at = core_fetch.checked_address
    monkeypatch.setattr(
        core_fetch, "checked_address",
        lambda host, port, **how: "127.0.0.1" if host == "public.example" else looked_at(host, port, **how),
    )  # fmt: skip
    public = f"http://public.example:{site.port}"
    site.write("/good.md", "good")
    for n, target in enumerate(PRIVATE):
        site.pages[f"/{n}.md"] = Page(status=302, headers={"location": target.format(port=site.port)})
    site.pages["/twice.md"] = Page(status=302, headers={"location": "/0.md"})
    pages = ("good", "twice", *map(str, range(len(PRIVATE))))
    mirror = Mirror(state.root / "m")
    found = list(scan_web(WebSource(urls=tuple(f"{public}/{page}.md" for page in pages), robots=False), mirror))
    mirror.close()
    assert [one.uri for one in found if isinstance(one, SourceItem)] == [f"{public}/good.md"]
    refused = {one.uri: one.reason for one in found if isinstance(one, Rejected)}
    assert len(refused) == len(PRIVATE) + 1
    assert all("not of the internet" in reason for reason in refused.values())
    assert {path for path, _, headers in site.asked if headers["host"] != f"public.example:{site.port}"} == set()


def test_a_server_that_drips_is_left_in_time() -> None:
    for begins, drop in ((b"HTTP/1.1 200 OK\r\n\r\n", b"x"), (b"HTTP/1.1 200 OK\r\nx-a: ", b"y")):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=_drip, args=(listener, begins, drop))
            thread.start()
            with pytest.raises(UpstreamError, match=r"more than 0\.3 s"):
                url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
                fetch(url, bounds=Bounds(private=True, timeout_s=60, total_s=0.3))
            thread.join()  # it drips until we leave


def _drip(listener: socket.socket, begins: bytes, drop: bytes) -> None:
    connection, _ = listener.accept()
    with connection, suppress(OSError):
        connection.sendall(begins)
        while True:
            connection.sendall(drop)
            time.sleep(0.02)


@pytest.mark.parametrize("text", ["<urlset>" + "<url>" * 400_000, "<urlset><url>" + "<loc>" * 400_000 + "</url>"])
def test_a_sitemap_of_what_is_never_closed_takes_no_longer_than_another(text: str) -> None:
    """2 MB took an hour where the end of each beginning was searched for to the last byte."""
    assert _read_sitemap(text.encode(), "http://example.org/sitemap.xml") == ("urlset", [])


def test_sitemaps_without_an_end_end(site: Site, state: StateConfig) -> None:
    index = f"<sitemapindex><sitemap><loc>{site.url('/index.xml')}</loc></sitemap></sitemapindex>"
    with pytest.raises(LlmopsError):  # it leads to itself, and lists nothing
        read(WebSource(sitemap=site.write("/index.xml", index), private=True), state)
    many = "".join(f"<url><loc>{site.url(f'/{n}.md')}</loc></url>" for n in range(50))
    site.write("/sitemap.xml", f"<urlset>{many}</urlset>")
    with pytest.raises(UserError, match="more than 20 pages"):
        read(WebSource(sitemap=site.url("/sitemap.xml"), private=True, most=20), state)
    laughs = (
        '<!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><urlset><url><loc>http://x.org/&b;</loc></url></urlset>'
    )
    assert _read_sitemap(laughs.encode(), "http://x.org/s.xml")[1] == [("http://x.org/&b;", "")]
    site.pages["/packed.gz"] = Page(gzip.compress(bytes(80_000_000)))
    with pytest.raises(UnavailableError, match="more than allowed"):
        read(WebSource(sitemap=site.url("/packed.gz"), private=True), state)


def test_a_pause_is_kept_between_two_requests(site: Site, state: StateConfig) -> None:
    source = WebSource(urls=tuple(site.write(f"/{n}.md", str(n)) for n in range(3)), private=True, pause_s=0.1)
    began = time.monotonic()
    read(source, state)
    assert time.monotonic() - began >= 0.2


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400) | st.text("<>/urlsetindexloc &;[]!CDATA", max_size=200).map(str.encode))
def test_a_sitemap_of_any_bytes_is_read_or_refused(data: bytes) -> None:
    try:
        kind, entries = _read_sitemap(data, "http://example.org/sitemap.xml")
    except UnavailableError:
        return
    assert kind in ("urlset", "sitemapindex")
    assert all(place.startswith("http") for place, _ in entries)


def test_an_answer_to_what_was_not_asked_is_no_answer(site: Site, state: StateConfig) -> None:
    site.write("/good.md", "good")
    site.pages["/liar.md"] = Page(status=304)
    source = WebSource(urls=(site.url("/good.md"), site.url("/liar.md")), private=True)
    assert read(source, state) == {"good.md": b"good", "liar.md": "unreachable"}


@pytest.mark.parametrize("location", ["http://[bad", "http://a..b/", "http://" + "a" * 70 + ".example/"])
def test_a_page_that_leads_nowhere_costs_only_itself(site: Site, state: StateConfig, location: str) -> None:
    site.write("/good.md", "good")
    site.pages["/bad.md"] = Page(status=302, headers={"location": location})
    source = WebSource(urls=(site.url("/good.md"), site.url("/bad.md")), private=True)
    assert read(source, state) == {"good.md": b"good", "bad.md": "unreachable"}


def test_addresses_in_any_script_are_fetched(site: Site, state: StateConfig) -> None:
    site.write("/%C3%BCber%20uns.md", "about us")
    site.pages["/old.md"] = Page(status=301, headers={"location": "/über uns.md".encode().decode("latin-1")})
    source = WebSource(
        urls=(site.url("/über uns.md"), site.url("/%C3%BCber%20uns.md?"), site.url("/old.md")), private=True
    )
    assert set(read(source, state).values()) == {b"about us"}


def test_an_entry_of_a_sitemap_that_is_no_address_costs_only_itself(site: Site, state: StateConfig) -> None:
    good, bad = site.write("/good.md", "good"), "http://[bad/x.md"
    site.write("/s.xml", f"<urlset><url><loc>{bad}</loc></url><url><loc>{good}</loc></url></urlset>")
    source = WebSource(sitemap=site.url("/s.xml"), private=True, include=("good.md",))
    found = {one.uri: isinstance(one, SourceItem) for one in documents(source, state)}
    assert found == {bad: False, good: True}


def test_sitemaps_that_list_each_other_are_asked_once_each_and_not_for_ever(site: Site, state: StateConfig) -> None:
    def index(*paths: str) -> str:
        return f"<sitemapindex>{''.join(f'<sitemap><loc>{site.url(p)}</loc></sitemap>' for p in paths)}</sitemapindex>"

    site.write("/a.md", "a")
    site.write("/pages.xml", f"<urlset><url><loc>{site.url('/a.md')}</loc></url></urlset>")
    site.write("/index.xml", index(*["/index.xml", "/pages.xml"] * 500))
    assert read(WebSource(sitemap=site.url("/index.xml"), private=True), state) == {"a.md": b"a"}
    assert len([path for path, _, _ in site.asked if path.endswith(".xml")]) == 2
    site.write("/index.xml", index(*[f"/{n}.xml" for n in range(50)]))
    site.pages |= {f"/{n}.xml": Page(b"<urlset></urlset>") for n in range(50)}
    with pytest.raises(UserError, match="more than 20 sitemaps"):
        read(WebSource(sitemap=site.url("/index.xml"), private=True, most=20), state)


def test_a_page_that_fails_is_closed_all_the_same(site: Site, state: StateConfig) -> None:
    urls = tuple(site.write(f"/{n}.md", str(n)) for n in range(2))
    read(WebSource(urls=urls, private=True), state)
    site.pages["/1.md"] = Page(status=500)
    closed = documents(WebSource(urls=urls, private=True, acl=("hr",)), state)
    assert {one.uri: one.acl for one in closed if isinstance(one, SourceItem)} == dict.fromkeys(urls, ("hr",))


def test_a_page_that_grew_too_large_keeps_no_older_copy(site: Site, state: StateConfig, monkeypatch) -> None:
    source = WebSource(urls=(site.write("/a.md", "small"), site.write("/b.md", "b")), private=True)
    assert read(source, state) == {"a.md": b"small", "b.md": b"b"}
    monkeypatch.setattr("llmops.rag.sources.web.Bounds", lambda **about: Bounds(max_bytes=100, **about))
    site.write("/a.md", "large" * 100)
    assert read(source, state) == {"a.md": "too_large", "b.md": b"b"}
