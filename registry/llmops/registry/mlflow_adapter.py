"""MLflow behind one door: artefacts, runs and versions live there; this module alone of the registry imports it.

Knows MLflow's client and its habits (process-wide URIs, chatter, a store made by some seventy migrations). What a
version means, and which alias is of record, it is told.
"""

from __future__ import annotations

import fcntl
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
from llmops.core.tables import Column
from llmops.registry.records import Candidate, CodeModel, Definition, Pointer, PromptText, SavedModel, Signature

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
_PROMPTS = "tags.`mlflow.prompt.is_prompt` = 'true'"
_PAGE = 1000
_log = logging.getLogger(__name__)
_LOCK = threading.RLock()  # MLflow's URIs and its "model being loaded" are process-wide


@dataclass(frozen=True)
class Stored:
    """What MLflow holds for one version: its number there, and where its files are ("" for a prompt: it has none)."""

    number: int
    source: str
    prompt: bool = False


@dataclass(frozen=True)
class Origin:
    """The run that made a model: the data sets it logged as (name, digest, source), and its code's revision."""

    run_id: str
    datasets: tuple[tuple[str, str, str], ...]
    revision: str | None


@contextmanager
def quiet_mlflow() -> Iterator[Any]:
    """Import MLflow without telemetry, its log handler or its warnings, and keep it so inside the block."""
    for key, value in _QUIET.items():
        os.environ.setdefault(key, value)
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Some of MLflow's own warnings turn a filter of "always" on first.
        warnings.showwarning = _log_warning  # type: ignore[assignment]
        try:
            import mlflow
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
    """The MLflow tracking store and registry that `StateConfig` names for one catalog."""

    def __init__(self, state: StateConfig, catalog: str) -> None:
        self._uri = state.mlflow(catalog)
        self._artifacts = state.mlflow_artifacts(catalog)

    def store(self, candidate: Candidate, *, digest: str | None, registration: str) -> Stored:
        """Make MLflow's version of a candidate; everything made for it carries the registration's id."""
        tags = {**candidate.tags, KIND_TAG: candidate.kind.value, REGISTRATION_TAG: registration}
        if digest:
            tags[DIGEST_TAG] = digest
        with self.client() as (mlflow, client):
            match candidate.artifact:
                case PromptText(text):
                    return _store_prompt(client, candidate, text, tags)
                case Definition():
                    return _store_version(client, candidate, f"definition:{digest}", tags)
                case Pointer(uri):
                    return _store_version(client, candidate, uri, tags)
                case SavedModel(uri):
                    folder = local_path(uri)
                    if folder is None:
                        model_id = mlflow.models.get_model_info(uri).model_id
                        return _store_version(client, candidate, _location(client, uri), tags, model_id)
                    model = self._open_model(client, candidate, tags)
                    client.log_model_artifacts(model.model_id, str(folder))
                    client.finalize_logged_model(model.model_id, "READY")
                    return _store_version(client, candidate, model.artifact_location, tags, model.model_id)
                case CodeModel() as code:
                    model = self._open_model(client, candidate, tags)
                    _log_code(mlflow, code, model)
                    return _store_version(client, candidate, model.artifact_location, tags, model.model_id)

    def locate(self, uri: str) -> str:
        """Where the files of a saved model lie.

        Raises:
            NotFoundError: MLflow knows no such run or model.
        """
        if local_path(uri) is not None:
            return str(Path(uri).resolve())
        with self.client() as (_, client):
            return _location(client, uri)

    def origin(self, uri: str) -> Origin | None:
        """The run that a saved model came from, with what it was given; None for a folder, or a model without a run.

        Raises:
            NotFoundError: MLflow knows no such run or model.
        """
        if urlparse(uri).scheme not in {"models", "runs"}:
            return None
        with self.client() as (_, client):
            run_id = _run_of(client, urlparse(uri))
            return None if run_id is None else _origin(client.get_run(run_id))

    def metrics(self, run_id: str) -> dict[str, float]:
        """The last value of each metric of a run."""
        with self.client() as (_, client):
            return {str(key): float(value) for key, value in client.get_run(run_id).data.metrics.items()}

    def find(self, name: Name, registration: str) -> Stored | None:
        """The version that an interrupted registration had got to."""
        with self.client() as (_, client):
            for prompts in ("", f" and {_PROMPTS}"):
                query = f"name = '{name}' and tags.`{REGISTRATION_TAG}` = '{registration}'{prompts}"
                for found in client.search_model_versions(query, max_results=1):
                    source = "" if prompts else _location(client, found.source)
                    return Stored(int(found.version), source, prompt=bool(prompts))
        return None

    def discard(self, registration: str) -> None:
        """Remove what an interrupted registration left before its version: models logged and not registered."""
        with self.client() as (_, client):
            experiment = client.get_experiment_by_name(EXPERIMENT)
            if experiment is None:
                return
            query = f"tags.`{REGISTRATION_TAG}` = '{registration}'"
            for model in client.search_logged_models([experiment.experiment_id], filter_string=query):
                client.delete_logged_model(model.model_id)
                files = local_path(model.artifact_location)
                if files is not None and files.is_relative_to(self._artifacts):
                    shutil.rmtree(files.parent, ignore_errors=True)  # MLflow only marks a model as deleted

    def delete(self, name: Name, stored: Stored) -> None:
        """Take a version away that the registry does not acknowledge."""
        with self.client() as (_, client):
            if stored.prompt:
                client.delete_prompt_version(str(name), str(stored.number))
            else:
                client.delete_model_version(str(name), str(stored.number))

    def attach(self, name: Name, number: int, folder: Path, place: str) -> bool:
        """Put a folder's files beside a version: among the artefacts of the run that made it. False where none did."""
        with self.client() as (_, client):
            found = client.get_model_version(str(name), str(number))
            run = found.run_id
            if not run and getattr(found, "model_id", None):
                run = client.get_logged_model(found.model_id).source_run_id
            if run:
                client.log_artifacts(run, str(folder), place)
            return bool(run)

    def aliases(self) -> dict[str, dict[str, int]]:
        """Every alias MLflow holds, by model or prompt name; names without one are there too, empty."""
        held: dict[str, dict[str, int]] = {}
        with self.client() as (_, client):
            for query in (None, _PROMPTS):
                for model in _paged(client.search_registered_models, query):
                    held[model.name] = {alias: int(version) for alias, version in model.aliases.items()}
        return held

    def aliases_of(self, name: str, *, prompt: bool) -> dict[str, int]:
        """The aliases MLflow holds of one model or prompt."""
        query = f"name = '{name}'" + (f" and {_PROMPTS}" if prompt else "")
        with self.client() as (_, client):
            found = client.search_registered_models(query, max_results=1)
        return {alias: int(version) for model in found for alias, version in model.aliases.items()}

    def tags(self) -> dict[tuple[str, int], dict[str, str]]:
        """The tags of every version that MLflow holds, by model or prompt name and number."""
        held: dict[tuple[str, int], dict[str, str]] = {}
        with self.client() as (_, client):
            for query in (None, _PROMPTS):
                for found in _paged(client.search_model_versions, query):
                    held[found.name, int(found.version)] = dict(found.tags)
        return held

    def set_tag(self, name: str, version: int, key: str, value: str | None, *, prompt: bool) -> None:
        """Copy a tag of a version to MLflow (None: take MLflow's away)."""
        with self.client() as (_, client):
            if prompt and value is None:
                client.delete_prompt_version_tag(name, version, key)
            elif prompt:
                client.set_prompt_version_tag(name, version, key, value)
            elif value is None:
                client.delete_model_version_tag(name, str(version), key)
            else:
                client.set_model_version_tag(name, str(version), key, value)

    def set_alias(self, name: str, alias: str, version: int | None, *, prompt: bool) -> None:
        """Copy an alias of record to MLflow (None: take MLflow's away); prompts have functions of their own there."""
        with self.client() as (_, client):
            if prompt and version is None:
                client.delete_prompt_alias(name, alias)
            elif prompt:
                client.set_prompt_alias(name, alias, version)
            elif version is None:
                client.delete_registered_model_alias(name, alias)
            else:
                client.set_registered_model_alias(name, alias, str(version))

    def experiment(self, client: Any, name: str = EXPERIMENT) -> str:
        """The id of an experiment of this name, made where it is missing."""
        found = client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        remote = urlparse(self._uri).scheme in {"http", "https"}
        location = None if remote else self._artifacts.as_uri()
        return str(client.create_experiment(name, artifact_location=location))

    @contextmanager
    def client(self) -> Iterator[tuple[Any, Any]]:
        """MLflow and a client of this store; inside the block MLflow's process-wide places are this store's."""
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
        import sqlalchemy
        from mlflow.store.db.utils import _initialize_tables

        path.parent.mkdir(parents=True, exist_ok=True)
        making = path.with_name(f".{path.name}.making")
        with path.with_name(f".{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():
                return  # another process was first, and its store is whole
            making.unlink(missing_ok=True)
            engine = sqlalchemy.create_engine(f"sqlite:///{making}")
            sqlalchemy.event.listen(engine, "connect", lambda raw, _: raw.execute("PRAGMA synchronous = OFF"))
            _initialize_tables(engine)
            engine.dispose()
            with making.open("rb+") as file:
                os.fsync(file.fileno())
            making.rename(path)
            sync_directory(path.parent)

    def _open_model(self, client: Any, candidate: Candidate, tags: dict[str, str]) -> Any:
        return client.create_logged_model(
            self.experiment(client),
            name=str(candidate.name).replace(".", "-"),
            source_run_id=candidate.run_id,
            tags=tags,
            params={key: str(value)[:500] for key, value in candidate.params.items()},
            model_type=candidate.kind.value,
        )


def prepare_to_load() -> None:
    """Import what loading any model needs, before its process is fenced in."""
    with quiet_mlflow():
        import mlflow.pyfunc  # noqa: F401


def load_pyfunc(folder: Path, model_config: dict[str, Any]) -> Any:
    """Load a model from a folder that was verified before; this runs its code.

    Returns:
        An `mlflow.pyfunc.PyFuncModel`.

    Raises:
        UserError: the model's own code, or a package it needs, fails.
    """
    with quiet_mlflow() as mlflow:
        try:
            return mlflow.pyfunc.load_model(str(folder), suppress_warnings=True, model_config=model_config or None)
        except LlmopsError:
            raise
        except Exception as error:  # the boundary to code that is not ours: it may raise anything
            what = f"the model does not load: {type(error).__name__}: {_first_line(error)}"
            raise UserError(what, where=str(folder)) from error


@contextmanager
def downloaded(source: str, into: Path, *, tracking_uri: str) -> Iterator[Path]:
    """Bring a remote artefact's files into a folder; the tracking server knows where its own artefacts lie."""
    with quiet_mlflow() as mlflow, _translated(source):
        download = mlflow.artifacts.download_artifacts
        yield Path(download(artifact_uri=source, dst_path=str(into), tracking_uri=tracking_uri))


def local_path(source: str) -> Path | None:
    """The folder a source names on this machine, None for a remote one."""
    parsed = urlparse(source)
    if parsed.scheme == "file":
        return Path(unquote(parsed.path))
    return Path(source) if not parsed.scheme else None


def _log_code(mlflow: Any, code: CodeModel, model: Any) -> None:
    """Save the code and its configuration as a logged model, which no version names yet; this runs the file once."""
    try:
        mlflow.pyfunc.log_model(
            name=model.name,
            model_id=model.model_id,
            python_model=str(code.path),
            code_paths=[str(path) for path in code.code_paths] or None,
            artifacts=code.artifacts or None,
            model_config=code.model_config or None,
            signature=_signature(code.signature),
            input_example=_example(code.signature),
            metadata={OPENER_KEY: code.opener} if code.opener else None,
            pip_requirements=list(code.requirements) or [f"mlflow=={mlflow.__version__}"],
        )
    except mlflow.MlflowException as error:
        if error.error_code == "INTERNAL_ERROR":  # MLflow's word for whatever the file raised
            raise UserError(f"the model's code does not run: {_first_line(error)}", where=str(code.path)) from error
        raise


def _signature(signature: Signature | None) -> Any:
    """Ours in MLflow's words. Whole numbers, times and booleans are of any type there: where a value is missing, pandas
    holds them as something else, which MLflow would refuse."""
    if signature is None:
        return None
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, ColSpec, Schema

    def schema(columns: tuple[Column, ...]) -> Any:
        kinds = {"string": "string", "double": "double"}
        return Schema([ColSpec(kinds.get(c.type) or AnyType(), c.name, required=c.required) for c in columns])

    return ModelSignature(inputs=schema(signature.inputs), outputs=schema(signature.outputs))


def _example(signature: Signature | None) -> Any:
    if signature is None or not signature.example:
        return None
    import pandas

    return pandas.DataFrame(list(signature.example))


def _store_version(
    client: Any, candidate: Candidate, source: str, tags: dict[str, str], model_id: str | None = None
) -> Stored:
    _ensure_model(client, str(candidate.name))
    made = client.create_model_version(
        str(candidate.name),
        source,
        run_id=candidate.run_id,
        tags=tags,
        description=candidate.description or None,
        model_id=model_id,
    )
    return Stored(int(made.version), source)


def _store_prompt(client: Any, candidate: Candidate, text: str, tags: dict[str, str]) -> Stored:
    made = client.register_prompt(str(candidate.name), text, commit_message=candidate.description or None, tags=tags)
    return Stored(int(made.version), "", prompt=True)


def _ensure_model(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

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
        from mlflow.store.artifact.runs_artifact_repo import RunsArtifactRepository

        return str(RunsArtifactRepository(uri).repo.artifact_uri)
    name, _, version = parsed.path.lstrip("/").partition("/")
    if not version:
        return str(client.get_logged_model(name).artifact_location)
    return _location(client, client.get_model_version_download_uri(name, version))


def _run_of(client: Any, parsed: Any) -> str | None:
    if parsed.scheme == "runs":
        return str(parsed.path.lstrip("/").partition("/")[0])
    name, _, version = parsed.path.lstrip("/").partition("/")
    if version:
        return client.get_model_version(name, version).run_id or None
    return client.get_logged_model(name).source_run_id or None


def _origin(run: Any) -> Origin:
    inputs = [item.dataset for item in run.inputs.dataset_inputs]
    datasets = tuple((str(item.name), str(item.digest), str(item.source)) for item in inputs)
    return Origin(str(run.info.run_id), datasets, run.data.tags.get("mlflow.source.git.commit"))


def _paged(search: Any, query: str | None) -> Iterator[Any]:
    """Everything that a search of MLflow's client finds, page after page."""
    token = None
    while True:
        page = search(query, max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


@contextmanager
def _translated(where: str) -> Iterator[None]:
    """Say MLflow's errors in our words, with theirs as the cause."""
    from mlflow.exceptions import MlflowException

    kinds: dict[str, type[LlmopsError]] = {
        "RESOURCE_DOES_NOT_EXIST": NotFoundError,
        "INVALID_PARAMETER_VALUE": UserError,
        "BAD_REQUEST": UserError,
        "TEMPORARILY_UNAVAILABLE": UnavailableError,
    }
    try:
        yield
    except MlflowException as error:
        kind = kinds.get(error.error_code, LlmopsError)
        raise kind(f"MLflow: {_first_line(error)}", where=_masked(where)) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _masked(where: str) -> str:
    parsed = urlparse(where)
    return (
        where if "@" not in parsed.netloc else where.replace(parsed.netloc, f"***@{parsed.netloc.rpartition('@')[2]}")
    )
