"""What the page of one version shows: its facts, where it stands, its evidence, how it differs from the champion, and
what it was made of."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llmops.core.errors import IntegrityError
from llmops.core.ids import canonical_json
from llmops.core.names import Ref
from llmops.registry.access import Privilege
from llmops.registry.evidence import Filed
from llmops.registry.lineage import Found
from llmops.registry.promotion.planning import Plan
from llmops.registry.promotion.records import Approval, Promotion
from llmops.registry.records import Kind, Version
from llmops.serving.registry_pages.desk import Asked

_MOST_TEXT_LINES = 2000
_MOST_NODES = 200


@dataclass(frozen=True)
class Difference:
    """One fact in which two versions differ; None: that one does not have it."""

    what: str
    champion: str | None
    version: str | None


@dataclass(frozen=True)
class VersionPage:
    """One version. `text_diff` holds a prompt's lines, each with ` `, `+` or `-` before it."""

    version: Version
    latest: int
    champion: Version | None
    promotion: Promotion | None
    words: list[Approval]
    plan: Plan | None
    plan_problem: IntegrityError | None
    evidence: list[Filed]
    differences: list[Difference]
    text: str | None
    text_diff: list[tuple[str, str]]
    sources: list[Found]
    impact: list[Found]

    @property
    def is_champion(self) -> bool:
        return self.champion is not None and self.champion.version == self.version.version

    def as_json(self) -> dict[str, Any]:
        return {
            **self.version.as_json(),
            "champion": self.champion.version if self.champion else None,
            "promotion": self.promotion.as_json() if self.promotion else None,
            "approvals": [word_json(word) for word in self.words],
            "plan": self.plan.as_json() if self.plan else None,
            "evidence": [filed.as_json() for filed in self.evidence],
            "differences": [vars(difference) for difference in self.differences],
            "text": self.text,
            "made_from": [found.as_json() for found in self.sources],
            "used_by": [found.as_json() for found in self.impact],
        }


def version_page(asked: Asked) -> VersionPage:
    """Everything about one version.

    Raises:
        NotFoundError: there is none that may be known of.
    """
    registry, promoter = asked.registry, asked.promoter
    version = registry.resolve(Ref.parse(f"{asked.params['name']}/{asked.params['version']}"))
    asset = registry.show(version.name)
    number = asset.aliases.get("champion")
    champion = registry.resolve(Ref(version.name, version=number)) if number else None
    promotion = next((p for p in promoter.states(version.name) if p.version == version.version), None)
    plan, problem = _plan(asked, version)
    text = _text(asked, version)
    other = champion if champion is not None and champion.version != version.version else None
    return VersionPage(
        version=version,
        latest=asset.latest,
        champion=champion,
        promotion=promotion,
        words=promoter.words(promotion) if promotion else [],
        plan=plan,
        plan_problem=problem,
        evidence=registry.filed_about(version),
        differences=list(_differences(other, version)) if other else [],
        text=text,
        text_diff=_text_diff(_text(asked, other), text) if other and text is not None else [],
        sources=registry.lineage(version.ref)[:_MOST_NODES],
        impact=registry.lineage(version.ref, impact=True)[:_MOST_NODES],
    )


def word_json(word: Approval) -> dict[str, Any]:
    """What somebody said for a group, as JSON."""
    return {
        "group": word.group, "decision": word.decision, "by": word.by, "at": word.at.isoformat(),
        "comment": word.comment,
    }  # fmt: skip


def _plan(asked: Asked, version: Version) -> tuple[Plan | None, IntegrityError | None]:
    try:
        return asked.promoter.plan(version.ref), None
    except IntegrityError as error:
        return None, error


def _text(asked: Asked, version: Version | None) -> str | None:
    """A prompt's text, for those who may use it; a look at a page is no attempt that belongs on record."""
    if version is None or version.kind is not Kind.PROMPT:
        return None
    with asked.registry.sql.read() as connection:
        if not asked.registry.authority.allows(connection, Privilege.EXECUTE, version.name):
            return None
    return asked.registry.load_prompt(version)


def _text_diff(before: str | None, after: str) -> list[tuple[str, str]]:
    if before is None or before == after:
        return []
    there, here = (text.splitlines()[:_MOST_TEXT_LINES] for text in (before, after))
    return [(line[0], line[2:]) for line in difflib.ndiff(there, here) if line[0] in " +-"]


def _differences(champion: Version, version: Version) -> Iterator[Difference]:
    """Fact by fact, settings down to their leaves."""
    there, here = _facts(champion), _facts(version)
    for what in sorted(there.keys() | here.keys()):
        if there.get(what) != here.get(what):
            yield Difference(what, there.get(what), here.get(what))


def _facts(version: Version) -> dict[str, str]:
    facts = {"description": version.description, "digest": version.digest, "files": version.artifact_digest or ""}
    facts |= {f"tag {key}": value for key, value in version.tags.items()}
    facts |= dict(_leaves("param", version.params))
    return {what: value for what, value in facts.items() if value}


def _leaves(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(f"{path} {key}" if path == "param" else f"{path}.{key}", inner)
    elif value != {}:
        yield path, value if isinstance(value, str) else canonical_json(value).decode()
