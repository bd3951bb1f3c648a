"""A page's fixed files, read once at the start and served from memory with their digests as ETags.

They come from packages alone: no path of a request ever reaches the file system.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

MEDIA_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "mjs": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


@dataclass(frozen=True)
class WebFile:
    body: bytes
    media_type: str
    etag: str

    def response(self, request: Request, cache: str = "no-cache") -> Response:
        """The file, or that the browser's copy is still good."""
        headers = {"etag": self.etag, "cache-control": cache}
        if request.headers.get("if-none-match") == self.etag:
            return Response(status_code=304, headers=headers)
        return Response(self.body, media_type=self.media_type, headers=headers)


def packaged(package: str, folder: str) -> dict[str, WebFile]:
    """The files of a package's folder by their paths below it: `style/frame.css`."""
    return {
        path: _read(path, file) for path, file in _walk(files(package) / folder, "") if _suffix(path) in MEDIA_TYPES
    }


def shared() -> dict[str, WebFile]:
    """What pages of the house share: colours, theme and base everywhere, the other sheets where the server renders."""
    return packaged("llmops.core.web", "static")


def _walk(folder: Traversable, prefix: str) -> list[tuple[str, Traversable]]:
    found = []
    for entry in folder.iterdir():
        path = f"{prefix}{entry.name}"
        found.extend(_walk(entry, f"{path}/") if entry.is_dir() else [(path, entry)])
    return found


def _read(path: str, file: Traversable) -> WebFile:
    body = file.read_bytes()
    return WebFile(body, MEDIA_TYPES[_suffix(path)], f'"{sha256(body).hexdigest()[:32]}"')


def _suffix(path: str) -> str:
    return path.rpartition(".")[2]
