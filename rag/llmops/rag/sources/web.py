"""Pages and files of the web, by a list of URLs or a sitemap: polite, guarded, and asked only whether they changed.

The signal is the answer's ETag, else its Last-Modified, else a hash of its bytes; the server is asked by a
conditional request (RFC 9110, section 13). A sitemap's `lastmod` that has not changed saves even that. robots.txt is
obeyed (RFC 9309). Knows HTTP and sitemaps; what a page says is a parser's matter, and its links are not followed.
"""

from __future__ import annotations

import re
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from html import unescape
from itertools import chain
from urllib.parse import urlsplit
from urllib.robotparser import RobotFileParser

from llmops.core.errors import NotFoundError, UnavailableError, UpstreamError, UserError
from llmops.core.fetch import Bounds, Fetched, fetch, shown
from llmops.core.secret import resolve_secret
from llmops.rag.config import WebSource
from llmops.rag.document import Rejected, SourceItem
from llmops.rag.facts.patterns import FactPatterns
from llmops.rag.parse.media import EXTENSIONS, extension
from llmops.rag.sources.mirror import Content, Gone, Listed, Mirror, Same
from llmops.rag.sources.patterns import Patterns

_AGENT = "llmops"
_GONE = (404, 410)
_DEPTH = 3
_ROBOTS_BYTES = 512_000
_PART = "\t"
_SITEMAP_BYTES = 50_000_000
"""The protocol's own limit of an uncompressed sitemap (sitemaps.org)."""
_PRIVATE = "set `private: true` at this source if it is meant"


@dataclass(frozen=True)
class _Page:
    url: str
    lastmod: str = ""

    def is_current(self, signal: str) -> bool:
        """Whether the sitemap says that nothing changed; a bare date is not exact enough to believe."""
        return "T" in self.lastmod and signal.partition(_PART)[0] == self.lastmod


def scan_web(source: WebSource, mirror: Mirror) -> Iterator[SourceItem | Rejected]:
    """Bring the mirror up to the listed pages, and give them.

    Raises:
        NotFoundError: the sitemap is not there.
        UnavailableError: it cannot be fetched or read; nothing is taken for deleted.
        DeniedError: it lies at a private address.
        UserError: it lists more pages than allowed.
    """
    visit = _Visit(source)
    told = FactPatterns(source.facts_from_path)
    pages: list[_Page] = []
    for page in visit.pages():
        refused = visit.refusal(page.url)
        if refused is None:
            pages.append(page)
        else:
            yield refused
    listing = (
        Listed(
            page.url,
            page.is_current,
            partial(visit.content, page),
            source.acl,
            {**told.read(urlsplit(page.url).path.lstrip("/")), **source.metadata},
        )
        for page in pages
    )
    yield from mirror.update(listing)
    yield from mirror.items()


class _Visit:
    """One pass over a source: what robots.txt said, and when each host was asked last."""

    def __init__(self, source: WebSource) -> None:
        self._source = source
        self._bounds = Bounds(timeout_s=source.timeout_s, private=source.private, hint=_PRIVATE)
        self._own_hosts = {urlsplit(url).netloc for url in (*source.urls, source.sitemap or "") if url}
        self._hosts: dict[str, _Host] = {}
        self._sitemaps = set[str]()
        self._guard = threading.Lock()

    def pages(self) -> Iterator[_Page]:
        """Every page once: those listed, then the sitemap's."""
        include, exclude = Patterns(self._source.include), Patterns(self._source.exclude)
        seen = set[str]()
        for page in chain(map(_Page, self._source.urls), self._listed()):
            path = _path(page.url)
            chosen = (
                path is None
                or page.url in self._source.urls
                or ((not include or include.match(path)) and not exclude.match(path))
            )
            if not chosen or page.url in seen:
                continue
            seen.add(page.url)
            if len(seen) > self._source.most:  # at once: a sitemap may have no end
                raise UserError(
                    f"more than {self._source.most:,} pages are listed, which is `most`",
                    where=shown(self._source.sitemap or self._source.urls[0]),
                    hint="raise `most`, or choose by `include` and `exclude`",
                )
            yield page

    def _listed(self) -> Iterator[_Page]:
        """The sitemap's pages. One that lists none is out of order, as a bucket without objects is."""
        page = None
        for page in self._sitemap(self._source.sitemap, _DEPTH):
            yield page
        if page is None and self._source.sitemap is not None:
            raise NotFoundError(
                "the sitemap lists no page", where=shown(self._source.sitemap), hint="correct it; nothing was removed"
            )

    def refusal(self, url: str) -> Rejected | None:
        """Why a page is not asked for; None for one that is."""
        if _path(url) is None:
            return Rejected(url, "the URL cannot be read", "unreachable")
        if self._source.robots and not self._host(url).allowed(url):
            return Rejected(url, "robots.txt does not allow it", "robots")
        return None

    def content(self, page: _Page, known: str | None) -> Content:
        """Fetch a page, if it changed.

        Raises:
            Gone: 404 or 410.
            Same: it is as before.
            UpstreamError: any other answer than 2xx, also "as before" where it was not asked whether it is.
        """
        headers = self._headers(page.url)
        known = known and known.partition(_PART)[2]
        if known:
            name, _, value = known.partition(" ")
            if name == "etag":
                headers["if-none-match"] = value
            elif name == "modified":
                headers["if-modified-since"] = value
        self._host(page.url).wait()
        answer = fetch(page.url, headers, self._bounds)
        if answer.status == 304 and known:
            raise Same
        if answer.status in _GONE:
            raise Gone
        if not 200 <= answer.status < 300:
            raise UpstreamError(f"the server answered {answer.status}", where=shown(page.url))
        signal = _signal(answer)
        if signal == known:
            raise Same
        return Content(answer.body, _extension(answer), f"{page.lastmod}{_PART}{signal}")

    def _headers(self, url: str) -> dict[str, str]:
        if urlsplit(url).netloc not in self._own_hosts:
            return {}
        return {name.lower(): resolve_secret(value) for name, value in self._source.headers.items()}

    def _sitemap(self, url: str | None, depth: int) -> Iterator[_Page]:
        if url is None or url in self._sitemaps:
            return
        self._sitemaps.add(url)
        if len(self._sitemaps) > self._source.most + _DEPTH:  # each may list more of them, and none a page
            raise UserError(f"more than {self._source.most:,} sitemaps are listed, which is `most`", where=shown(url))
        answer = fetch(
            url, self._headers(url), Bounds(_SITEMAP_BYTES, self._source.timeout_s, self._source.private, _PRIVATE)
        )
        if answer.status in _GONE:
            raise NotFoundError("the sitemap is not there", where=shown(url), hint="correct it; nothing was removed")
        if not 200 <= answer.status < 300:
            raise UnavailableError(f"the sitemap's server answered {answer.status}", where=shown(url))
        kind, entries = _read_sitemap(_unzipped(url, answer.body), url)
        for place, lastmod in entries:
            if kind == "urlset":
                yield _Page(place, lastmod)
            elif depth > 1:
                yield from self._sitemap(place, depth - 1)

    def _host(self, url: str) -> _Host:
        parts = urlsplit(url)
        root = f"{parts.scheme}://{parts.netloc}"
        with self._guard:
            if root not in self._hosts:
                self._hosts[root] = _Host(self._rules(root), self._source.pause_s)
            return self._hosts[root]

    def _rules(self, root: str) -> RobotFileParser:
        """What robots.txt says. None there: all is allowed; an error of the server: nothing is (RFC 9309, 2.3.1)."""
        rules = RobotFileParser()
        if not self._source.robots:
            rules.parse([])
            return rules
        answer = fetch(f"{root}/robots.txt", bounds=replace(self._bounds, max_bytes=_ROBOTS_BYTES))
        if answer.status >= 500:
            raise UnavailableError(f"robots.txt cannot be had: {answer.status}", where=root, hint="run again later")
        rules.parse(answer.body.decode(errors="replace").splitlines() if answer.status < 300 else [])
        return rules


@dataclass
class _Host:
    """One server: what it allows, and how often it is asked."""

    rules: RobotFileParser
    pause_s: float
    _guard: threading.Lock = field(default_factory=threading.Lock)
    _next: float = 0.0

    def allowed(self, url: str) -> bool:
        return self.rules.can_fetch(_AGENT, url)

    def wait(self) -> None:
        """Wait for this server's turn."""
        asked = self.rules.crawl_delay(_AGENT)
        pause = max(self.pause_s, min(float(asked), 60.0) if asked else 0.0)
        if not pause:
            return
        with self._guard:
            mine = max(self._next, time.monotonic())
            self._next = mine + pause
        time.sleep(max(0.0, mine - time.monotonic()))


def _path(url: str) -> str | None:
    """What patterns are matched with; None where it is no URL."""
    try:
        return urlsplit(url).path.lstrip("/")
    except ValueError:
        return None


def _signal(answer: Fetched) -> str:
    if tag := answer.headers.get("etag"):
        return f"etag {tag}"
    if modified := answer.headers.get("last-modified"):
        return f"modified {modified}"
    return f"sha256 {sha256(answer.body).hexdigest()}"


_BY_TYPE = {"text/html": ".html", "application/xhtml+xml": ".html"}


def _extension(answer: Fetched) -> str:
    """By the answer's media type; where that says nothing, by the URL's path."""
    known = _BY_TYPE.get(answer.media_type) or next(
        (ending for ending, media in EXTENSIONS.items() if media == answer.media_type), None
    )
    named = extension(urlsplit(answer.url).path)
    if answer.media_type in ("text/plain", "application/octet-stream", "") and named in EXTENSIONS:
        return named
    return known or (named if named in EXTENSIONS else ".txt")


def _unzipped(url: str, body: bytes) -> bytes:
    """A sitemap that is a gzip file itself, within the same limit."""
    if not body.startswith(b"\x1f\x8b"):
        return body
    unpack = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        text = unpack.decompress(body, _SITEMAP_BYTES)
    except zlib.error as error:
        raise UnavailableError("the sitemap cannot be unpacked", where=shown(url)) from error
    if not unpack.eof:
        raise UnavailableError("the sitemap is cut, or unpacks to more than allowed", where=shown(url))
    return text


def _read_sitemap(data: bytes, url: str) -> tuple[str, list[tuple[str, str]]]:
    """`urlset` or `sitemapindex`, and its places with their `lastmod`.

    Read by pattern, as the protocol fixes the few elements there are: no XML parser meets what a stranger wrote.
    """
    text = data.decode("utf-8", errors="replace")
    kind = next((kind for kind in ("sitemapindex", "urlset") if re.search(rf"<(?:\w+:)?{kind}[\s>]", text)), None)
    if kind is None:
        raise UnavailableError("this is no sitemap", where=shown(url))
    entries = []
    for _, entry in _elements(text, "url|sitemap"):
        values = {name: unescape(_CDATA.sub(r"\1", value.strip())) for name, value in _elements(entry, "loc|lastmod")}
        if values.get("loc", "").startswith(("http://", "https://")):
            entries.append((values["loc"], values.get("lastmod", "")))
    return kind, entries


_CDATA = re.compile(r"\A<!\[CDATA\[(.*)\]\]>\Z", re.DOTALL)


def _elements(text: str, names: str) -> Iterator[tuple[str, str]]:
    """Elements of these names with what stands in them, one behind the other; in one pass, whatever the text is."""
    opening, position = re.compile(rf"<(?:\w+:)?({names})\s*>"), 0
    while (begin := opening.search(text, position)) is not None:
        end = re.compile(rf"</(?:\w+:)?{begin[1]}\s*>").search(text, begin.end())
        if end is None:  # none that follows is closed either
            return
        yield begin[1], text[begin.end() : end.start()]
        position = end.end()
