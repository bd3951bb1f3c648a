"""What server-rendered pages stand on: escaped templates, words for numbers and times, the shared files, form fields.

No build step, and no script but the one that sets the theme chosen in the chat. Which pages there are is each part's.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs, urlencode

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from llmops.core.identity import LOCAL
from llmops.core.web import files, plots


class Templates:
    """The templates of one package's `web` folder, on the house's base page.

    Args:
        title: how the application is called, in its head and in the browser's tabs.
        pages: (path, name) of what the head leads to.
        prefix: the path the application is mounted at.
        aside: a template of the package that stands at the end of the head: who is signed in, what is next door.
    """

    def __init__(
        self, package: str, title: str, pages: tuple[tuple[str, str], ...], prefix: str = "", aside: str | None = None
    ) -> None:
        self._environment = Environment(
            loader=ChoiceLoader([PackageLoader(package, "web"), PackageLoader("llmops.core.web", "templates")]),
            autoescape=select_autoescape(default=True),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {
            "money": money, "whole": whole, "seconds": seconds, "percent": percent, "ago": ago, "clock": clock,
            "utc": utc, "sentence": sentence,
        }  # fmt: skip
        self._environment.globals |= {
            "dict": dict, "share_bar": plots.share_bar, "query": urlencode, "title": title, "pages": pages,
            "prefix": prefix, "aside": aside,
        }  # fmt: skip
        self._prefix = prefix
        own = files.packaged(package, "web")
        self._files = files.shared() | {name: file for name, file in own.items() if not name.endswith(".html")}

    def add_filters(self, **filters: Any) -> None:
        self._environment.filters |= filters

    def add_globals(self, **values: Any) -> None:
        self._environment.globals |= values

    def routes(self) -> list[BaseRoute]:
        """The routes of the shared files and of the package's own, such as `icon.svg`."""
        return [Route(f"/{name}", self._file) for name in self._files]

    def page(self, request: Request, template: str, status: int = 200, /, **values: Any) -> Response:
        """A template filled in. `path` is the page's own, below the prefix; `operator` is who looks at it."""
        path = request.url.path.removeprefix(self._prefix) or "/"
        context = {"path": path, "operator": request.scope.get("operator", LOCAL), **values}
        return HTMLResponse(self._environment.get_template(template).render(context), status_code=status)

    async def _file(self, request: Request) -> Response:
        return self._files[request.url.path.removeprefix(self._prefix).removeprefix("/")].response(request)


async def form_of(request: Request) -> dict[str, list[str]]:
    """The fields of a posted form; empty ones are left out."""
    return parse_qs((await request.body()).decode("utf-8", "replace"), keep_blank_values=False, max_num_fields=100)


def first_of(form: Mapping[str, list[str]], name: str) -> str:
    """A field's first value, "" where it was left empty."""
    return form.get(name, [""])[0].strip()


def money(value: Decimal | float) -> str:
    """Dollars, with as many digits as it takes to see that they are not nothing."""
    number = float(value)
    if number and abs(number) < 0.01:
        return f"${number:.6f}".rstrip("0")
    return f"${number:,.2f}"


def whole(value: float) -> str:
    return f"{value:,.0f}"


def seconds(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value * 1000:,.0f} ms" if value < 1 else f"{value:,.2f} s"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{value * 100:.1f}%" if 0 < value < 0.1 else f"{value * 100:.0f}%"


def ago(stamp: float) -> str:
    """How long ago a moment was; `never` for 0."""
    if not stamp:
        return "never"
    passed = max(0.0, datetime.now(UTC).timestamp() - stamp)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if passed >= size:
            return f"{passed / size:.0f} {unit} ago"
    return f"{passed:.0f} s ago"


def clock(stamp: float) -> str:
    return datetime.fromtimestamp(stamp, UTC).strftime("%H:%M:%S")


def utc(moment: datetime) -> str:
    """A moment as every page writes it; the page says once that it is UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def sentence(text: str) -> str:
    """An error's text as a sentence begins; the rest of it, names and commands, stays as it is."""
    return text[:1].upper() + text[1:]
