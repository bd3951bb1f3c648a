"""Addresses and what stands behind them: each page, its JSON twin, and the two forms that change something.

A page is one function that gathers facts and one template that shows them; the twin under `/api` prints the same facts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from llmops.core.errors import LlmopsError, UserError
from llmops.core.web.application import Json, object_of
from llmops.core.web.pages import Templates, form_of
from llmops.core.web.sign_in import KeySessions, SignInPage
from llmops.registry.assets import Registry
from llmops.registry.workflow import Workflows
from llmops.serving.registry_pages import words
from llmops.serving.registry_pages.approvals import approvals_page, speak
from llmops.serving.registry_pages.assets import asset_list, asset_page, rollback_page
from llmops.serving.registry_pages.audit import audit_page, verify_page
from llmops.serving.registry_pages.cards import card_page
from llmops.serving.registry_pages.desk import Asked, Facts, People, asked
from llmops.serving.registry_pages.evidence import evidence_page
from llmops.serving.registry_pages.runs import run_list, run_page
from llmops.serving.registry_pages.versions import version_page

PREFIX: Final = "/registry"
HEAD: Final = (("/", "Assets"), ("/approvals", "Approvals"), ("/runs", "Runs"), ("/audit", "Audit"))


@dataclass(frozen=True)
class Page:
    """One address below the prefix; `marked` is the entry of the head that it belongs to."""

    path: str
    template: str
    gather: Callable[[Asked], Facts]
    marked: str = ""

    @property
    def twin(self) -> str:
        """Where its facts are as JSON."""
        return f"/api{self.path if self.path != '/' else '/assets'}"


PAGES: Final = (
    Page("/", "assets.html", asset_list),
    Page("/assets/{name}", "asset.html", asset_page, "/"),
    Page("/assets/{name}/rollback", "rollback.html", rollback_page, "/"),
    Page("/versions/{name}/{version}", "version.html", version_page, "/"),
    Page("/versions/{name}/{version}/card", "card.html", card_page, "/"),
    Page("/evidence/{evidence_id}", "evidence.html", evidence_page, "/"),
    Page("/approvals", "approvals.html", approvals_page),
    Page("/runs", "runs.html", run_list),
    Page("/runs/{run_id}", "run.html", run_page),
    Page("/audit", "audit.html", audit_page),
    Page("/audit/verify", "verify.html", verify_page),
)


class Pages:
    """All pages over one registry."""

    def __init__(self, registry: Registry, workflows: Workflows, people: People, sessions: KeySessions) -> None:
        self._registry = registry
        self._workflows = workflows
        self._templates = Templates(__package__, "llmops registry", HEAD, PREFIX, aside="aside.html")
        self._templates.add_filters(**words.FILTERS)
        self._templates.add_globals(name_of=people.name_of)
        self._sign_in = SignInPage(self._templates, sessions, home=f"{PREFIX}/")

    def routes(self) -> list[BaseRoute]:
        """Everything below the prefix."""
        return [
            *(Route(page.path, self._shown(page)) for page in PAGES),
            *(Route(page.twin, self._told(page)) for page in PAGES),
            Route("/approvals", self.speak, methods=["POST"]),
            Route("/assets/{name}/rollback", self.roll_back, methods=["POST"]),
            Route("/api/approvals", self.speak_json, methods=["POST"]),
            Route("/api/assets/{name}/rollback", self.roll_back_json, methods=["POST"]),
            *self._sign_in.routes(),
            *self._templates.routes(),
        ]

    def error(self, request: Request, error: LlmopsError) -> Response:
        """An error as a page."""
        return self._templates.page(request, "error.html", error.http_status, error=error)

    async def speak(self, request: Request) -> Response:
        """Approve, deny or take back by the form; what cannot be said is told on the page itself."""
        form = {name: values[0] for name, values in (await form_of(request)).items()}
        by = self._asked(request)
        try:
            promotion = await asyncio.to_thread(speak, by, form)
        except LlmopsError as error:
            if error.http_status >= 500:
                raise
            return await asyncio.to_thread(self._refused, request, by, error, form)
        return RedirectResponse(f"{PREFIX}/approvals?done={promotion.ref}", status_code=303)

    async def roll_back(self, request: Request) -> Response:
        """Roll back by the form of the confirmation page, which names the champion that is meant."""
        form = {name: values[0] for name, values in (await form_of(request)).items()}
        done = await asyncio.to_thread(_roll_back, self._asked(request), form)
        return RedirectResponse(f"{PREFIX}/assets/{done['name']}?done=rollback", status_code=303)

    async def speak_json(self, request: Request) -> Response:
        by, body = self._asked(request), await _body(request)
        return Json((await asyncio.to_thread(speak, by, body)).as_json(), headers=_request_id(request))

    async def roll_back_json(self, request: Request) -> Response:
        by, body = self._asked(request), await _body(request)
        return Json(await asyncio.to_thread(_roll_back, by, body), headers=_request_id(request))

    def _asked(self, request: Request) -> Asked:
        return asked(request, self._registry, self._workflows)

    def _shown(self, page: Page) -> Callable[[Request], Any]:
        def show(request: Request) -> Response:
            facts = page.gather(self._asked(request))
            return self._templates.page(request, page.template, facts=facts, marked=page.marked, form={})

        async def endpoint(request: Request) -> Response:
            return await asyncio.to_thread(show, request)

        return endpoint

    def _told(self, page: Page) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            facts = await asyncio.to_thread(page.gather, self._asked(request))
            return Json(facts.as_json(), headers=_request_id(request))

        return endpoint

    def _refused(self, request: Request, by: Asked, error: LlmopsError, form: dict[str, str]) -> Response:
        facts = approvals_page(by, error)
        return self._templates.page(
            request, "approvals.html", error.http_status, facts=facts, marked="/approvals", form=form
        )


def _roll_back(by: Asked, form: dict[str, str]) -> dict[str, Any]:
    champion = form.get("from_version", "")
    if not champion.isascii() or not champion.isdigit() or len(champion) > 9:
        raise UserError("say which champion is meant", where="from_version", hint="its number, such as 3")
    done = by.promoter.rollback(by.params["name"], form.get("reason", "").strip(), from_version=int(champion))
    return done.as_json()


def _request_id(request: Request) -> dict[str, str]:
    return {"x-request-id": request.scope["request_id"]}


async def _body(request: Request) -> dict[str, str]:
    """What a program sent, as the form of a page would have it."""
    return {name: str(word) for name, word in (await object_of(request)).items() if word is not None}
