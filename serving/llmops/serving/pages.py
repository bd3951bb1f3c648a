"""The chat page's files, read once at the start and served from memory with their digests as ETags.

They come from the package alone: no path of a request ever reaches the file system.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

from fastapi import FastAPI, Request
from starlette.responses import Response

MEDIA_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "mjs": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


@dataclass(frozen=True)
class Page:
    body: bytes
    media_type: str
    etag: str


class Pages:
    """The files by URL path; `index.html` is `/`."""

    def __init__(self, pages: dict[str, Page]) -> None:
        self._pages = pages

    @classmethod
    def packaged(cls) -> Pages:
        root = files("llmops.serving") / "web"
        found = {f"/{path}": _page(path, file) for path, file in _walk(root, "") if _suffix(path) in MEDIA_TYPES}
        found["/"] = found.pop("/index.html")
        return cls(found)

    def attach(self, app: FastAPI) -> None:
        """Add one route a file; the API's routes stand before them."""
        for path in self._pages:
            app.add_api_route(path, self._serve, methods=["GET"], include_in_schema=False, response_model=None)

    async def _serve(self, request: Request) -> Response:
        page = self._pages[request.url.path]
        headers = {"etag": page.etag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == page.etag:
            return Response(status_code=304, headers=headers)
        return Response(page.body, media_type=page.media_type, headers=headers)


def _walk(folder: Traversable, prefix: str) -> list[tuple[str, Traversable]]:
    found = []
    for entry in folder.iterdir():
        path = f"{prefix}{entry.name}"
        found.extend(_walk(entry, f"{path}/") if entry.is_dir() else [(path, entry)])
    return found


def _page(path: str, file: Traversable) -> Page:
    body = file.read_bytes()
    return Page(body, MEDIA_TYPES[_suffix(path)], f'"{sha256(body).hexdigest()[:32]}"')


def _suffix(path: str) -> str:
    return path.rpartition(".")[2]
