"""The chat page's files on the application; they come from packages alone."""

from __future__ import annotations

from fastapi import FastAPI, Request
from starlette.responses import Response

from llmops.core.web.files import WebFile, packaged, shared


class Pages:
    """The files by URL path; `index.html` is `/`."""

    def __init__(self, pages: dict[str, WebFile]) -> None:
        self._pages = pages

    @classmethod
    def packaged(cls) -> Pages:
        found = {f"/{path}": file for path, file in packaged("llmops.serving", "web").items()}
        found["/"] = found.pop("/index.html")
        house = shared()
        sheets = {f"/style/{name}": house[name] for name in ("colours.css", "base.css")}
        return cls(found | sheets | {"/theme.js": house["theme.js"]})

    def attach(self, app: FastAPI) -> None:
        """Add one route a file; the API's routes stand before them."""
        for path in self._pages:
            app.add_api_route(path, self._serve, methods=["GET"], include_in_schema=False, response_model=None)

    async def _serve(self, request: Request) -> Response:
        return self._pages[request.url.path].response(request)
