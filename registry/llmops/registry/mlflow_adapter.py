"""MLflow behind one door: artefacts, runs and versions live there; this module alone of the registry imports it.

Knows MLflow's client and its habits (process-wide URIs, chatter, a store made by some seventy migrations). What a
version means, and which alias is of record, it is told.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from llmops.core.errors import LlmopsError, NotFoundError, UnavailableError, UserError
from llmops.core.files import sync_directory
from llmops.core.names import Name
from llmops.core.state import StateConfig
from llmops.registry.records import Candidate, CodeModel, Pointer, PromptText, SavedModel

EXPERIMENT = "llmops"
REGISTRATION_TAG = "llmops.registration"
DIGEST_TAG = "llmops.digest"
KIND_TAG = "llmops.kind"
OPENER_KEY = "llmops_opener"

_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_CONFIGURE_LOGGING": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_UV_AUTO_DETECT": "false",
    "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}
_log = logging.getLogger(__name__)
_LOCK = threading.RLock()  # MLflow's URIs and its "model being loaded" are process-wide


@dataclass(frozen=True)
class Stored:
    """What MLflow holds for one version: its number there, and where its files are ("" for none)."""

    number: int
    source: str


@contextmanager
def quiet_mlflow() -> Iterator[Any]:
    """Import MLflow without telemetry, its log handler or its warnings, and keep it so inside the block."""
    for key, value in _QUIET.items():
        os.environ.setdefault(key, value)
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.showwarning = _log_warning  # type: ignore[assignment]  # some of MLflow's own turn a filter of "always" on first
        try:
            import mlflow  # noqa: PLC0415 - seconds
        except ModuleNotFoundError as error:
            raise UserError(
                f"registering and loading need MLflow ({error.name} is missing)", hint="pip install 'llmops[registry]'"
            ) from error
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        yield mlflow


def _log_warning(message: Warning | str, category: type[Warning], *_: Any) -> None:
    _log.debug("%s: %s", category.__name__, message)


class MlflowStore:
    """The MLflow tracking store and registry that `StateConfig` names."""

    def __init__(self, state: StateConfig) -> None:
        self._uri = state.mlflow
        self._artifacts = state.mlflow_artifacts

    def store(self, candidate: Candidate, *, digest: str | None, registration: str) -> Stored:
        """Make MLflow's version of a candidate; everything made for it carries the registration's id."""
        tags = {**candidate.tags, KIND_TAG: candidate.kind.value, REGISTRATION_TAG: registration}
        if digest:
            tags[DIGEST_TAG] = digest
        with self._client() as (mlflow, client):
            match candidate.artifact:
                case PromptText(text):
                    return _store_prompt(client, candidate, text, tags)
                case Pointer(uri):
                    return _store_version(client, candidate, uri, tags)
                case SavedModel(uri):
                    return _store_saved(mlflow, client, candidate, uri, tags)
                case CodeModel() as code:
                    experiment = self._experiment(client)
                    return _store_code(mlflow, client, candidate, code, tags, experiment)

    def find(self, name: Name, registration: str) -> Stored | None:
        """The version that an interrupted registration had got to."""
        with self._client() as (_, client):
            for prompts in ("", " and tags.`mlflow.prompt.is_prompt` = 'true'"):
                query = f"name = '{name}' and tags.`{REGISTRATION_TAG}` = '{registration}'{prompts}"
                for found in client.search_model_versions(query, max_results=1):
                    source = "" if prompts else _location(client, found.source)
                    return Stored(int(found.version), source)
        return None

    def discard(self, registration: str) -> None:
        """Remove what an interrupted registration left before its version: models logged and not registered."""
        with self._client() as (_, client):
            experiment = client.get_experiment_by_name(EXPERIMENT)
            if experiment is None:
                return
            query = f"tags.`{REGISTRATION_TAG}` = '{registration}'"
            for model in client.search_logged_models([experiment.experiment_id], filter_string=query):
                client.delete_logged_model(model.model_id)
                files = local_path(model.artifact_location)
                if files is not None and files.is_relative_to(self._artifacts):
                    shutil.rmtree(files.parent, ignore_errors=True)  # MLflow only marks a model as deleted

    def delete(self, name: Name, number: int) -> None:
        """Take a version away that the registry does not acknowledge."""
        with self._client() as (_, client):
            client.delete_model_version(str(name), str(number))

    def aliases(self) -> dict[str, dict[str, int]]:
        """Every alias MLflow holds, by model or prompt name; names without one are there too, empty."""
        held: dict[str, dict[str, int]] = {}
        with self._client() as (_, client):
            for query in (None, "tags.`mlflow.prompt.is_prompt` = 'true'"):
                token = None
                while True:
                    page = client.search_registered_models(query, max_results=1000, page_token=token)
                    held |= {model.name: {a: int(v) for a, v in model.aliases.items()} for model in page}
                    token = page.token
                    if not token:
                        break
        return held

    def set_alias(self, name: str, alias: str, version: int | None, *, prompt: bool) -> None:
        """Copy an alias of record to MLflow (None: take MLflow's away); prompts have functions of their own there."""
        with self._client() as (_, client):
            if prompt and version is None:
                client.delete_prompt_alias(name, alias)
            elif prompt:
                client.set_prompt_alias(name, alias, version)
            elif version is None:
                client.delete_registered_model_alias(name, alias)
            else:
                client.set_registered_model_alias(name, alias, str(version))

    @contextmanager
    def _client(self) -> Iterator[tuple[Any, Any]]:
        with quiet_mlflow() as mlflow, _translated(self._uri):
            self._prepare()
            before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
            mlflow.set_tracking_uri(self._uri)
            mlflow.set_registry_uri(self._uri)
            try:
                yield mlflow, mlflow.MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)
            finally:
                mlflow.set_tracking_uri(before[0])
                mlflow.set_registry_uri(before[1])

    def _prepare(self) -> None:
        """Make a missing SQLite store beside its place, without a sync per statement, and move it there whole.

        MLflow's own way runs the same migrations with some 300 synchronous commits (5.7 s against 1.4 s where a sync
        takes 10 ms), and leaves half a store behind when it is stopped.
        """
        if not self._uri.startswith("sqlite:///"):
            return
        path = Path(self._uri.removeprefix("sqlite:///"))
        if path.exists():
            return
        import sqlalchemy  # noqa: PLC0415
        from mlflow.store.db.utils import _initialize_tables  # noqa: PLC0415

        path.parent.mkdir(parents=True, exist_ok=True)
        making = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            making.unlink(missing_ok=True)
            engine = sqlalchemy.create_engine(f"sqlite:///{making}")
            sqlalchemy.event.listen(engine, "connect", lambda raw, _: raw.execute("PRAGMA synchronous = OFF"))
            _initialize_tables(engine)
            engine.dispose()
            with making.open("rb+") as file:
                os.fsync(file.fileno())
            try:
                os.link(making, path)
            except FileExistsError:
                return  # another process was first, and its store is whole
            sync_directory(path.parent)
        finally:
            making.unlink(missing_ok=True)

    def _experiment(self, client: Any) -> str:
        found = client.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            return str(found.experiment_id)
        remote = urlparse(self._uri).scheme in {"http", "https"}
        location = None if remote else self._artifacts.as_uri()
        return str(client.create_experiment(EXPERIMENT, artifact_location=location))


def load_pyfunc(folder: Path, model_config: dict[str, Any]) -> Any:
    """Load a model from a folder that was verified before; this runs its code.

    Returns:
        An `mlflow.pyfunc.PyFuncModel`.
    """
    with quiet_mlflow() as mlflow, _translated(str(folder)):
        return mlflow.pyfunc.load_model(str(folder), suppress_warnings=True, model_config=model_config or None)


@contextmanager
def downloaded(source: str, into: Path) -> Iterator[Path]:
    """Bring a remote artefact's files into a folder."""
    with quiet_mlflow() as mlflow, _translated(source):
        yield Path(mlflow.artifacts.download_artifacts(artifact_uri=source, dst_path=str(into)))


def local_path(source: str) -> Path | None:
    """The folder a source names on this machine, None for a remote one."""
    parsed = urlparse(source)
    if parsed.scheme == "file":
        return Path(unquote(parsed.path))
    return Path(source) if not parsed.scheme else None


def _store_code(
    mlflow: Any, client: Any, candidate: Candidate, code: CodeModel, tags: dict[str, str], experiment: str
) -> Stored:
    model = client.create_logged_model(
        experiment,
        name=str(candidate.name).replace(".", "-"),
        tags=tags,
        params={key: str(value)[:500] for key, value in candidate.params.items()},
        model_type=candidate.kind.value,
    )
    mlflow.pyfunc.log_model(
        name=model.name,
        model_id=model.model_id,
        python_model=str(code.path),
        code_paths=[str(path) for path in code.code_paths] or None,
        artifacts=code.artifacts or None,
        model_config=code.model_config or None,
        metadata={OPENER_KEY: code.opener} if code.opener else None,
        pip_requirements=list(code.requirements) or [f"mlflow=={mlflow.__version__}"],
    )
    return _store_version(client, candidate, model.artifact_location, tags, model_id=model.model_id)


def _store_saved(mlflow: Any, client: Any, candidate: Candidate, uri: str, tags: dict[str, str]) -> Stored:
    info = mlflow.models.get_model_info(uri)
    return _store_version(client, candidate, _location(client, uri), tags, model_id=info.model_id)


def _store_version(
    client: Any, candidate: Candidate, source: str, tags: dict[str, str], model_id: str | None = None
) -> Stored:
    _ensure_model(client, str(candidate.name))
    made = client.create_model_version(
        str(candidate.name), source, tags=tags, description=candidate.description or None, model_id=model_id
    )
    return Stored(int(made.version), source)


def _store_prompt(client: Any, candidate: Candidate, text: str, tags: dict[str, str]) -> Stored:
    made = client.register_prompt(str(candidate.name), text, commit_message=candidate.description or None, tags=tags)
    return Stored(int(made.version), "")


def _ensure_model(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _location(client: Any, uri: str) -> str:
    """Where the files behind an MLflow URI lie; the location of a model or run never changes."""
    parsed = urlparse(uri)
    if parsed.scheme not in {"models", "runs"}:
        return uri
    if parsed.scheme == "runs":
        from mlflow.store.artifact.runs_artifact_repo import RunsArtifactRepository  # noqa: PLC0415

        return str(RunsArtifactRepository(uri).repo.artifact_uri)
    name, _, version = parsed.path.lstrip("/").partition("/")
    if not version:
        return str(client.get_logged_model(name).artifact_location)
    return _location(client, client.get_model_version_download_uri(name, version))


@contextmanager
def _translated(where: str) -> Iterator[None]:
    """Say MLflow's errors in our words, with theirs as the cause."""
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    kinds: dict[str, type[LlmopsError]] = {
        "RESOURCE_DOES_NOT_EXIST": NotFoundError,
        "INVALID_PARAMETER_VALUE": UserError,
        "BAD_REQUEST": UserError,
        "TEMPORARILY_UNAVAILABLE": UnavailableError,
    }
    try:
        yield
    except MlflowException as error:
        first_line = str(error).strip().partition("\n")[0]
        raise kinds.get(error.error_code, LlmopsError)(f"MLflow: {first_line}", where=_masked(where)) from error


def _masked(where: str) -> str:
    parsed = urlparse(where)
    return (
        where if "@" not in parsed.netloc else where.replace(parsed.netloc, f"***@{parsed.netloc.rpartition('@')[2]}")
    )
