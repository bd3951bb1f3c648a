"""What is checked of every registered model and adapter of ours when it is validated, beside that it loads and answers.

Found by entry point (`llmops.kinds`), so that registry knows no training. Looks at files and evidence; of weights it
reads the headers only.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from llmops.core.errors import LlmopsError
from llmops.finetune import artefact
from llmops.finetune.artefact import OPENER, PLACE, Pinned
from llmops.finetune.bases import locate
from llmops.finetune.gate import GATE
from llmops.registry.load import describe, opener_of

if TYPE_CHECKING:
    from llmops.registry.gates import Checking, Finding


def check(checking: Checking) -> Iterator[Finding]:
    """Files, base, template and the gate's verdict of a version that a finetune run made; others are not looked at."""
    from llmops.registry.gates import Finding

    folder = checking.registry.files(checking.version)
    described = describe(folder)
    if opener_of(described) != OPENER:
        return
    try:
        pinned = Pinned.of(dict(described["flavors"]["python_function"]["config"]))
        yield _weights(folder / PLACE)
    except LlmopsError as error:
        yield Finding("weights", "fail", error.what, measured=error.error_code, hint=error.hint)
        return
    if artefact.is_adapter(folder / PLACE):
        yield _base(pinned, checking)
    there = pinned.template is not None
    what = "the template it learned with is pinned" if there else "nobody wrote down which template it learned with"
    yield Finding("template", "pass" if there else "inconclusive", what, measured=pinned.template)
    yield _gate(checking)


def _weights(model: Path) -> Finding:
    """That everything that is loaded is safetensors, whole, with tensors in it.

    Raises:
        LlmopsError: it is not.
    """
    from llmops.registry.gates import Finding

    files = [path for path in artefact.model_files(model) if path.suffix == ".safetensors"]
    count = sum(1 for path in files for _ in artefact.tensors(path))
    if artefact.is_adapter(model) and not (model / artefact.ADAPTER_WEIGHTS).is_file():
        return Finding("weights", "fail", "the adapter has no adapter_model.safetensors", hint="register the run again")
    return Finding("weights", "pass" if count else "fail", f"safetensors only, {count} tensors", measured=count)


def _base(pinned: Pinned, checking: Checking) -> Finding:
    """That the model the adapter belongs on is here, and is the one it was trained on."""
    from llmops.registry.gates import Finding

    if pinned.base is None:
        return Finding("base", "fail", "the adapter names no base", hint="register the run again")
    try:
        digest = artefact.model_digest(locate(pinned.base, checking.registry.state))
    except LlmopsError as error:
        return Finding("base", "fail", error.what, measured=error.error_code, hint=error.hint)
    if digest != pinned.base.digest:
        hint = f"bring `{pinned.base.uri}` back as it was, or train a new adapter on it"
        return Finding("base", "fail", "the base is not the model it was trained on", measured=digest, hint=hint)
    return Finding("base", "pass", f"its base is `{pinned.base.version or pinned.base.uri}`", measured=digest)


def _gate(checking: Checking) -> Finding:
    """That the newest verdict of the fine-tuning gate about this very version is a pass."""
    from llmops.registry.gates import Finding

    records = [record for record in checking.registry.evidence(checking.version) if record.gate == GATE]
    if not records:
        hint = "register it by its run: `llmops finetune resume RUN`"
        return Finding(f"gate:{GATE}", "inconclusive", "nobody evaluated what it learned", hint=hint)
    newest = records[-1]
    what = {"pass": "passed", "fail": "was refused by", "inconclusive": "was held by"}[newest.verdict]
    return Finding(f"gate:{GATE}", newest.verdict, f"it {what} the fine-tuning gate", measured=newest.evidence_id)
