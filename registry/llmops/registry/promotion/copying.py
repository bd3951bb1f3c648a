"""Bringing a version into another catalog: the same bytes under the same digest, and a note of where they came from.

Knows what each kind is made of. Evidence stays behind: it speaks of the version it was gathered for, and the other
catalog has its own policy.
"""

from __future__ import annotations

from dataclasses import replace

from llmops.core.errors import UserError
from llmops.core.names import Name
from llmops.registry import queries
from llmops.registry.assets import Registry
from llmops.registry.lineage import Edge, Relation
from llmops.registry.records import Artifact, Candidate, Kind, Pointer, PromptText, SavedModel, Version


def target(version: Version, catalog: str) -> Name:
    """The name that a version has in another catalog.

    Raises:
        UserError: it is there already, or the catalog's name is none.
    """
    if catalog == version.name.catalog:
        raise UserError(f"`{version.ref}` is in `{catalog}` already", where=str(version.ref))
    return Name.parse(str(replace(version.name, catalog=catalog)))


def copy(registry: Registry, version: Version, catalog: str) -> Version:
    """Register a version's artefact in another catalog, to go through the gates there; done twice, it is there once.

    Raises:
        IntegrityError: the artefact, or its copy, is not what was registered.
        DeniedError: the principal may not read it here, or not make versions there.
    """
    name = target(version, catalog)
    with registry.sql.read() as connection:
        tags = queries.registered_tags(connection, version)
    candidate = Candidate(
        version.kind,
        name,
        _artifact(registry, version),
        digest=version.digest,
        description=version.description,
        tags=tags,
        params=version.params,
        files_digest=version.artifact_digest,
    )
    made = registry.register(candidate, crown_first=False)
    detail = {"digest": version.digest, "catalog": version.name.catalog}
    registry.link([Edge(str(version.ref), Relation.COPIED_FROM, str(made.ref), detail)])
    return made


def _artifact(registry: Registry, version: Version) -> Artifact:
    if version.kind is Kind.PROMPT:
        return PromptText(registry.load_prompt(version))
    if version.artifact_digest is None:
        return Pointer(version.source)
    return SavedModel(str(registry.files(version)))
