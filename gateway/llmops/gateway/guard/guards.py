"""Applies a route's checks to requests and whole replies, and opens the guard of a stream.

Knows the configuration, the order (what blocks, blocks before anything is masked) and the findings' names. Findings
name checks and never hold what was found: they go to logs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from llmops.core.errors import ConfigError
from llmops.gateway.calls import Fault, Json, Operation
from llmops.gateway.config import GuardConfig
from llmops.gateway.guard.addresses import RESOLVE_S, RefusedUrlError, Resolver, check_url
from llmops.gateway.guard.credentials import Credentials
from llmops.gateway.guard.detectors import Detector, Span, masked, merged
from llmops.gateway.guard.fetched import MAX_URLS, fetched_urls
from llmops.gateway.guard.injection import Injection
from llmops.gateway.guard.patterns import Patterns
from llmops.gateway.guard.personal import PersonalData
from llmops.gateway.guard.stream import StreamGuard
from llmops.gateway.guard.texts import Place, places, reply_places
from llmops.gateway.guard.topics import Topics

Action = Literal["block", "mask", "log"]
_DETECTORS: dict[str, Callable[[GuardConfig], Detector]] = {
    "pii": lambda config: PersonalData(config.kinds),
    "secrets": lambda config: Credentials(),
    "topics": lambda config: Topics(config.topics),
    "pattern": lambda config: Patterns(config.patterns),
}


@dataclass(frozen=True, slots=True)
class Check:
    """One configured check of text."""

    name: str
    action: Action
    detector: Detector

    def finding(self, span: Span) -> str:
        return f"{self.name}:{span.name}" if self.name in ("pii", "pattern") else self.name


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to become of a request or a reply.

    Args:
        body: what to go on with; the very object that was checked unless it was masked.
        findings: for the log's tags: names of checks and kinds, never what was found.
        reason: for the caller, of a body that was blocked.
        unresolved: host names that must be looked up before the request goes on: await `Guards.resolve`.
    """

    action: Literal["pass", "masked", "blocked"]
    body: Json
    findings: tuple[str, ...] = ()
    reason: str = ""
    unresolved: tuple[str, ...] = ()

    def fault(self) -> Fault:
        """What to tell the caller of a blocked body."""
        return Fault("content_filtered", self.reason, status=400, code="content_filter")


@dataclass(slots=True)
class _Side:
    """The checks of one direction."""

    checks: list[Check] = field(default_factory=list)
    max_chars: list[tuple[int, Action]] = field(default_factory=list)
    injection: list[Action] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.checks or self.max_chars or self.injection)


def open_guards(configs: Iterable[GuardConfig] = ()) -> Guards:
    """The guards of a route. Where URLs to be fetched point is checked on every route, whatever is configured.

    Raises:
        ConfigError: a pattern, kind or combination that cannot be.
    """
    return Guards(tuple(configs))


class Guards:
    """The checks of one route; one instance serves all its requests."""

    def __init__(self, configs: Sequence[GuardConfig]) -> None:
        self._input, self._output = _Side(), _Side()
        self._urls: Action = "block"
        self._injection = Injection() if any(config.check == "injection" for config in configs) else None
        self._resolver = Resolver()
        for config in configs:
            self._add(config)
        self.checks_input = bool(self._input)
        """Whether requests are looked at beyond where their URLs point."""
        self.checks_output = bool(self._output)
        """Whether replies must be looked at; a stream that is, travels as chat chunks through `open_stream`."""

    def _add(self, config: GuardConfig) -> None:
        check, action = config.check, config.action
        if check not in _DETECTORS and action == "mask":
            raise ConfigError(f"the guard `{check}` cannot mask", hint="its action is `block` or `log`")
        if check in ("injection", "image_urls") and config.on != "input":
            raise ConfigError(f"the guard `{check}` looks at what goes in", hint="leave out `on`")
        if check == "image_urls":
            self._urls = action
        elif check == "injection":
            self._input.injection.append(action)
        else:
            detector = _DETECTORS[check](config) if check in _DETECTORS else None
            for side, name in ((self._input, "input"), (self._output, "output")):
                if config.on not in (name, "both"):
                    continue
                if detector is not None:
                    side.checks.append(Check(check, action, detector))
                else:
                    side.max_chars.append((config.max_chars, action))

    def check_input(self, operation: Operation, body: Json) -> Verdict:
        """Judge a request, masking within `body` itself: it belongs to the request."""
        unresolved: list[str] = []
        findings: list[str] = []
        reason = self._check_urls(operation, body, unresolved)
        if reason:
            findings.append("image_urls")
            if self._urls == "block":
                return Verdict("blocked", body, ("image_urls",), reason)
        if not self._input:
            return Verdict("pass", body, tuple(findings), unresolved=tuple(unresolved))
        verdict = _judge(self._input, list(places(operation, body)), body, self._injection)
        return replace(verdict, findings=(*findings, *verdict.findings), unresolved=tuple(unresolved))

    def check_output(self, operation: Operation, reply: Json) -> Verdict:
        """Judge a whole reply, masking within `reply` itself."""
        if not self._output:
            return Verdict("pass", reply)
        verdict = _judge(self._output, list(reply_places(operation, reply)), reply, None)
        if verdict.action == "masked":
            _forget_tokens(reply)
        return verdict

    def open_stream(self) -> StreamGuard:
        """The guard of one streamed reply."""
        return StreamGuard(
            [check for check in self._output.checks if check.action != "log"],
            [check for check in self._output.checks if check.action == "log"],
            self._output.max_chars,
        )

    async def resolve(self, verdict: Verdict) -> Verdict:
        """Look up the names a request wants fetched; blocked where one points inside, or nowhere."""
        try:
            async with asyncio.timeout(RESOLVE_S):
                for name in verdict.unresolved:
                    await self._resolver.check(name)
        except (RefusedUrlError, TimeoutError) as error:
            findings = (*verdict.findings, "image_urls")
            if self._urls != "block":
                return replace(verdict, findings=findings, unresolved=())
            slow = RefusedUrlError("its host cannot be resolved here in time")
            reason = _url_reason(error if isinstance(error, RefusedUrlError) else slow)
            return replace(verdict, action="blocked", findings=findings, reason=reason, unresolved=())
        return replace(verdict, unresolved=())

    def _check_urls(self, operation: Operation, body: Json, unresolved: list[str]) -> str:
        """Why a URL must not be followed, or nothing; adds the names still to be looked up."""
        for number, url in enumerate(fetched_urls(operation, body)):
            if number >= MAX_URLS:
                return f"the request names more than {MAX_URLS} URLs to fetch"
            try:
                name = check_url(url)
            except RefusedUrlError as error:
                return _url_reason(error)
            if name is not None and name not in unresolved:
                unresolved.append(name)
        return ""


def _url_reason(error: RefusedUrlError) -> str:
    return f"a URL in the request must not be followed: {error}"


def _judge(side: _Side, found: list[Place], body: Json, injection: Injection | None) -> Verdict:
    findings: list[str] = []
    for limit, action in side.max_chars:
        if sum(len(place.text) for place in found) > limit:
            if action == "block":
                return Verdict("blocked", body, ("max_chars",), f"the text is longer than {limit} characters")
            findings.append("max_chars")
    if injection is not None and side.injection:
        names = [f"injection:{name}" for name in _injections(found, injection)]
        if names and "block" in side.injection:
            reason = "the request was refused: it looks like a prompt injection"
            return Verdict("blocked", body, (*findings, *names), reason)
        findings += names
    masks: list[tuple[Place, Span]] = []
    whole = "\n".join(place.text for place in found)
    for check in side.checks:
        if not check.detector.suspects(whole):
            continue
        spans = [(place, span) for place in found for span in check.detector.spans(place.text)]
        findings += dict.fromkeys(check.finding(span) for _, span in spans)
        if spans and check.action == "block":
            return Verdict("blocked", body, tuple(dict.fromkeys(findings)), f"refused by the guard `{check.name}`")
        if check.action == "mask":
            masks += spans
    _mask(masks)
    return Verdict("masked" if masks else "pass", body, tuple(dict.fromkeys(findings)))


def _injections(found: Iterable[Place], injection: Injection) -> Iterator[str]:
    texts = [place.text for place in found if place.role in ("user", "tool")]
    return iter(dict.fromkeys(name for text in texts for name in injection.find(text)))


def _mask(masks: Iterable[tuple[Place, Span]]) -> None:
    """Write each place once, with everything that was found in it."""
    of_place: dict[int, tuple[Place, list[Span]]] = {}
    for place, span in masks:
        of_place.setdefault(id(place), (place, []))[1].append(span)
    for place, spans in of_place.values():
        place.holder[place.key] = masked(place.text, merged(spans))


def _forget_tokens(reply: Json) -> None:
    """Log probabilities spell out the text that was masked."""
    choices = reply.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and choice.get("logprobs"):
            choice["logprobs"] = None
