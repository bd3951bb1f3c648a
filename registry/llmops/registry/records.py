"""What the registry keeps, in plain values: assets, their versions, what a version is made of, who holds an alias.

Knows no database and no MLflow, so every part may import it for its types.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from llmops.core.errors import UserError
from llmops.core.names import Name, Ref
from llmops.core.tables import Column

_DIGEST = re.compile(r"[0-9a-f]{64}")


class Kind(StrEnum):
    """What an asset is. All kinds are registered, aliased and promoted by the same code; some answer questions."""

    MODEL = "model"
    LLM = "llm"
    ADAPTER = "adapter"
    CHAIN = "chain"
    PROMPT = "prompt"
    INDEX = "index"
    JUDGE = "judge"
    ROUTE = "route"

    @property
    def answers(self) -> bool:
        """Whether a version of it answers in a conversation, as `core.chain` has it."""
        return self in (Kind.CHAIN, Kind.LLM, Kind.ADAPTER)

    @property
    def noun(self) -> str:
        """The kind in a sentence."""
        return f"an {self.value}" if self.value[0] in "aeio" else f"a {self.value}"


@dataclass(frozen=True)
class Signature:
    """What a classic model takes and gives, and a few rows that it can predict.

    Args:
        inputs: columns; one that is not `required` may be left out.
        example: JSON values.
    """

    inputs: tuple[Column, ...]
    outputs: tuple[Column, ...]
    example: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class CodeModel:
    """A servable written as one Python file that calls `mlflow.models.set_model`: its text is the artefact, no pickle.

    Args:
        model_config: JSON values, pinned in the artefact. Keys `state`, `catalog` and `folder` are replaced at loading,
            by the loader's own state, the version's own catalog and the place of its verified files, so that a folder
            may move and a version be copied.
        opener: `package.module:function`, for a chain of ours: `function(model_config)` gives the same `Chain` as the
            file, without importing MLflow. The module must lie in `llmops`.
    """

    path: Path
    model_config: dict[str, Any] = field(default_factory=dict)
    code_paths: tuple[Path, ...] = ()
    artifacts: dict[str, str] = field(default_factory=dict)
    requirements: tuple[str, ...] = ()
    opener: str | None = None
    signature: Signature | None = None


@dataclass(frozen=True)
class SavedModel:
    """A model of any flavour that MLflow has saved: a folder with an `MLmodel` file, `runs:/...` or `models:/...`."""

    uri: str


@dataclass(frozen=True)
class PromptText:
    """A prompt: the text is kept in the registry's own row, and mirrored to MLflow's prompt registry."""

    text: str


@dataclass(frozen=True)
class Definition:
    """A configuration that is the whole of a version, such as a route's: JSON, kept in the registry's own row."""

    text: str


@dataclass(frozen=True)
class Pointer:
    """Something that its own part keeps elsewhere, such as a generation of an index: only its place is recorded."""

    uri: str


Artifact = CodeModel | SavedModel | PromptText | Definition | Pointer


@dataclass(frozen=True)
class Candidate:
    """What is offered for registration. The same name and digest always mean the same version.

    Args:
        digest: SHA-256 of what makes this version behave as it does (configuration, prompt, generation, code).
            None: of the prompt's text, or of the saved model's files.
        params: JSON values worth showing and comparing (settings, generation, prompt version).
        run_id: the run of the tracking store that made it.
        files_digest: what the digest of the stored files must come to; registration is refused where it does not.
    """

    kind: Kind
    name: Name
    artifact: Artifact
    digest: str | None = None
    description: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    run_id: str | None = None
    files_digest: str | None = None

    def __post_init__(self) -> None:
        if self.digest is not None and not _DIGEST.fullmatch(self.digest):
            raise UserError("a version's digest is 64 lower-case hex digits (SHA-256)", where=str(self.name))
        if (self.kind is Kind.PROMPT) != isinstance(self.artifact, PromptText):
            raise UserError("a prompt, and nothing else, is registered from a PromptText", where=str(self.name))
        if isinstance(self.artifact, Definition) and self.kind not in (Kind.ROUTE, Kind.JUDGE):
            raise UserError(f"{self.kind.noun} is more than a definition", where=str(self.name))
        if self.digest is None and isinstance(self.artifact, CodeModel | Pointer):
            raise UserError(
                "this version needs a digest of its content",
                where=str(self.name),
                hint="pass digest=llmops.core.ids.digest({...settings, prompt, generation, code...})",
            )


@dataclass(frozen=True)
class Version:
    """One registered version; `version` is also MLflow's number of it.

    `digest` says what it is, `artifact_digest` which files MLflow keeps for it (None: it has none).
    """

    kind: Kind
    name: Name
    version: int
    digest: str
    artifact_digest: str | None
    source: str
    description: str
    tags: dict[str, str]
    params: dict[str, Any]
    created_at: datetime
    created_by: str
    aliases: tuple[str, ...] = ()

    @property
    def ref(self) -> Ref:
        return Ref(self.name, version=self.version)

    def as_json(self) -> dict[str, Any]:
        """The version as `llmops models show --json` prints it."""
        return {
            "kind": self.kind.value,
            "name": str(self.name),
            "version": self.version,
            "aliases": list(self.aliases),
            "digest": self.digest,
            "artifact_digest": self.artifact_digest,
            "source": self.source,
            "description": self.description,
            "tags": self.tags,
            "params": self.params,
            "created_at": self.created_at.isoformat(),
            "created_by": self.created_by,
        }


@dataclass(frozen=True)
class Asset:
    """A name with its versions counted and its aliases."""

    kind: Kind
    name: Name
    versions: int
    latest: int
    aliases: dict[str, int]
    created_at: datetime
    updated_at: datetime

    def as_json(self) -> dict[str, Any]:
        """The asset as `llmops models list --json` prints it."""
        return {
            "kind": self.kind.value,
            "name": str(self.name),
            "versions": self.versions,
            "latest": self.latest,
            "aliases": self.aliases,
            "created_at": self.created_at.isoformat(),
            "updated_at": self.updated_at.isoformat(),
        }


@dataclass(frozen=True)
class Alias:
    """Who holds an alias now. `etag` changes with every move: pass back the one you read, and a lost race is told."""

    name: Name
    alias: str
    version: int
    etag: str
    evidence_id: str
    moved_at: datetime
    moved_by: str
