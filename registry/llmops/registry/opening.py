"""Opening a version: its files, text, model or chain, verified against the record before any of it is read or run.

Knows what may be opened how, and by whom. How files are verified and loaded is `load`'s matter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmops.core.chain import Chain
from llmops.core.errors import IntegrityError, UserError
from llmops.core.ids import digest
from llmops.core.names import Ref
from llmops.registry import load as loading
from llmops.registry import queries
from llmops.registry.access import Privilege
from llmops.registry.catalogue import Catalogue
from llmops.registry.records import Kind, Version


class Opening(Catalogue):
    """Everything that one can open."""

    def load_chain(self, ref: Ref | str | Version) -> Chain:
        """Load a chain. Its files are verified before any of it runs; `close` it afterwards.

        Raises:
            NotFoundError: as `resolve`.
            DeniedError: the principal lacks EXECUTE.
            UserError: it is of a kind that does not answer.
            IntegrityError: its files are not what was registered; nothing of them was run.
        """
        version = ref if isinstance(ref, Version) else self.resolve(ref)
        if not version.kind.answers and version.kind is not Kind.MODEL:
            raise UserError(f"`{version.ref}` is {version.kind.noun}: it does not answer", where=str(version.ref))
        self._require_execute(version)
        with self._sql.read() as connection:
            recorded = queries.recorded(connection, version)
        return loading.load_chain(version, recorded, self._state)

    def load_model(self, ref: Ref | str | Version) -> Any:
        """Load a classic model as an `mlflow.pyfunc.PyFuncModel`, verified before any of it runs.

        Raises:
            NotFoundError: as `resolve`.
            DeniedError: the principal lacks EXECUTE.
            IntegrityError: its files are not what was registered; nothing of them was run.
        """
        version = ref if isinstance(ref, Version) else self.resolve(ref)
        self._require_execute(version)
        with self._sql.read() as connection:
            recorded = queries.recorded(connection, version)
        return loading.load_model(version, recorded, self._state)

    def files(self, ref: Ref | str | Version) -> Path:
        """A private copy of a version's files, equal to the record to the byte; nothing of them is run.

        Raises:
            NotFoundError: as `resolve`, or the artefact is gone.
            DeniedError: the principal lacks EXECUTE.
            IntegrityError: its files are not what was registered.
            UserError: it has no files of its own (a prompt, an index).
        """
        version = ref if isinstance(ref, Version) else self.resolve(ref)
        self._require_execute(version)
        with self._sql.read() as connection:
            recorded = queries.recorded(connection, version)
        return loading.verified(version, recorded, self._state)

    def load_prompt(self, ref: Ref | str | Version) -> str:
        """A prompt's text, without MLflow.

        Raises:
            DeniedError: the principal lacks EXECUTE.
            IntegrityError: the text is not what was registered.
        """
        return self._text(ref, Kind.PROMPT)

    def load_definition(self, ref: Ref | str | Version, kind: Kind) -> str:
        """The JSON that a route or a judge is, without MLflow.

        Raises:
            DeniedError: the principal lacks EXECUTE.
            UserError: it is of another kind.
            IntegrityError: the text is not what was registered.
        """
        return self._text(ref, kind)

    def _text(self, ref: Ref | str | Version, kind: Kind) -> str:
        version = ref if isinstance(ref, Version) else self.resolve(ref)
        self._require_execute(version)
        with self._sql.read() as connection:
            text = queries.content(connection, version)
        if text is None or version.kind is not kind:
            raise UserError(f"`{version.ref}` is {version.kind.noun}, not {kind.noun}", where=str(version.ref))
        if digest(text) != version.digest:
            raise IntegrityError(f"the {kind.value}'s text is not what was registered", where=str(version.ref))
        return text

    def _require_execute(self, version: Version) -> None:
        self.authority.require_to_read(self._sql, Privilege.EXECUTE, "load", version.ref, version.name)
