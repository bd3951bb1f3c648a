"""What is checked of a version without running anything: what is written about it, its text, its place.

Knows prompts as texts with slots, and places as folders. What a kind's content means is told by the part that owns the
kind (entry point group `llmops.kinds`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from llmops.core.errors import IntegrityError, NotFoundError
from llmops.registry.assets import Registry
from llmops.registry.gates.model_checks import failed
from llmops.registry.gates.report import Finding
from llmops.registry.gates.spec import Documentation, PromptConfig
from llmops.registry.mlflow_adapter import local_path
from llmops.registry.records import Kind, Version

_SLOT = re.compile(r"\{\{\s*(\w+)\s*\}\}|\{(\w+)\}")


def check_documentation(version: Version, wanted: Documentation) -> Iterator[Finding]:
    """That somebody wrote down what has to be known before it is used."""
    if wanted.description:
        there = bool(version.description.strip())
        what = "it has a description" if there else "it has no description"
        hint = None if there else "register it with a description: what it is for, and what not"
        yield Finding("documentation:description", "pass" if there else "fail", what, hint=hint)
    for tag in wanted.tags:
        value = str(version.tags.get(tag, "")).strip()
        yield Finding(
            f"documentation:{tag}",
            "pass" if value else "fail",
            f"the tag `{tag}` is set" if value else f"the tag `{tag}` is missing",
            measured=value or None,
            hint=None if value else f"set it on {version.ref}",
        )


def check_content(version: Version, registry: Registry, prompt: PromptConfig) -> Iterator[Finding]:
    """That what was registered is still what it was: a prompt's text, an artefact's files, a place that exists."""
    try:
        if version.kind is Kind.PROMPT:
            text = registry.load_prompt(version)
            yield Finding("files", "pass", "the text is what was registered", measured=version.digest)
            yield from _check_slots(text, prompt)
        elif version.artifact_digest is not None:
            registry.files(version)
            yield Finding("files", "pass", "the files are what was registered", measured=version.artifact_digest)
        else:
            yield from _check_place(version, registry)
    except (IntegrityError, NotFoundError) as error:
        yield failed("files", error)


def _check_slots(text: str, wanted: PromptConfig) -> Iterator[Finding]:
    if not text.strip():
        yield Finding("prompt:text", "fail", "the prompt is empty")
    slots = {first or second for first, second in _SLOT.findall(text)}
    for name in wanted.variables:
        there = name in slots
        what = f"the slot {{{name}}} is there" if there else f"the slot {{{name}}} is missing"
        yield Finding(f"prompt:{name}", "pass" if there else "fail", what, measured=sorted(slots))


def _check_place(version: Version, registry: Registry) -> Iterator[Finding]:
    """A pointer names a folder of this state, with what is behind `#` for the kind's own part; or a place elsewhere."""
    path = local_path(version.source.partition("#")[0])
    if path is None or not version.source:
        yield Finding("place", "pass", "its place is elsewhere, and not looked at", measured=version.source)
        return
    there = (registry.state.root / path).exists()
    what = "its place is there" if there else "its place is gone"
    yield Finding("place", "pass" if there else "fail", what, measured=version.source)
