"""A real web server on loopback whose pages a test writes, edits, breaks and counts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Page:
    body: bytes = b""
    status: int = 200
    media_type: str = "text/markdown"
    headers: dict[str, str] = field(default_factory=dict)
    etag: bool = True
    claims: int | None = None
    """A content-length that is not the body's."""


@dataclass
class Site:
    """Pages by path. `asked` holds each request as (path, status, headers)."""

    port: int = 0
    pages: dict[str, Page] = field(default_factory=dict)
    asked: list[tuple[str, int, dict[str, str]]] = field(default_factory=list)
    before: Callable[[str], object] = lambda path: None
    """Called with the path of each request before it is answered."""

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def write(self, path: str, text: str, **about: Any) -> str:
        self.pages[path] = Page(text.encode(), **about)
        return self.url(path)

    def sitemap(self, *paths: str, **lastmod: str) -> str:
        entries = "".join(
            f"<url><loc>{self.url(path)}</loc><lastmod>{lastmod.get(path.strip('/').partition('.')[0], '2026-11-01')}"
            "</lastmod></url>"
            for path in paths
        )
        text = f'<?xml version="1.0"?><urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{entries}</urlset>'
        return self.write("/sitemap.xml", text, media_type="application/xml")

    def statuses(self) -> dict[str, int]:
        """Path -> status of what was asked since the last call, robots.txt and the sitemap aside."""
        found = {path: status for path, status, _ in self.asked if path not in ("/robots.txt", "/sitemap.xml")}
        self.asked.clear()
        return found


@contextmanager
def web_site() -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            site.before(self.path)
            page = site.pages.get(self.path, Page(status=404))
            tag = f'"{sha256(page.body).hexdigest()[:8]}"'
            same = page.etag and page.status == 200 and self.headers.get("if-none-match") == tag
            status = 304 if same else page.status
            site.asked.append((self.path, status, {name.lower(): value for name, value in self.headers.items()}))
            self.send_response(status)
            self.send_header("content-type", page.media_type)
            if page.etag:
                self.send_header("etag", tag)
            for name, value in page.headers.items():
                self.send_header(name, value)
            body = b"" if same else page.body
            self.send_header("content-length", str(len(body) if page.claims is None else page.claims))
            self.end_headers()
            self.wfile.write(body)
            if page.claims is not None:
                self.close_connection = True

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
