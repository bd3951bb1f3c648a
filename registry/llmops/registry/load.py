"""Loading a registered version: first its files are compared with the record, then, and only then, any of it is run.

What runs is a private copy of the verified files, so nothing can change between the check and the run. Knows folders
and the shape of an `MLmodel` file; MLflow itself is imported only for models that need it.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from llmops.core.chain import Chain
from llmops.core.errors import IntegrityError, NotFoundError, UserError
from llmops.core.names import Ref
from llmops.core.state import StateConfig
from llmops.registry import mlflow_adapter
from llmops.registry.adapt import PyfuncChain, is_chain
from llmops.registry.digest import Manifest, require
from llmops.registry.records import Version

_UNFINISHED_S = 3600.0
STATE_KEY, CATALOG_KEY, FOLDER_KEY = "state", "catalog", "folder"
"""Keys of a model's configuration that loading replaces: the loader's own state, the version's own catalog, and the
folder of its verified files."""


@contextmanager
def artefact(source: str, state: StateConfig, catalog: str) -> Iterator[Path]:
    """The folder of an artefact's files; a remote one is downloaded by its catalog's store, and removed afterwards.

    Raises:
        NotFoundError: it is gone.
    """
    local = mlflow_adapter.local_path(source)
    if local is None:
        with (
            tempfile.TemporaryDirectory() as into,
            mlflow_adapter.downloaded(source, Path(into), tracking_uri=state.mlflow(catalog)) as folder,
        ):
            yield folder
        return
    folder = state.root / local
    if not folder.is_dir():
        raise NotFoundError("the artefact is gone", where=str(folder), hint="restore it from a backup")
    yield folder


def verified(version: Version, recorded: Manifest | None, state: StateConfig) -> Path:
    """A private copy of a version's files, equal to the record to the byte. It outlives the process: it is a cache.

    Raises:
        IntegrityError: the stored artefact is not what was registered.
        UserError: the version has no files of its own (a prompt, an index).
    """
    if recorded is None:
        raise UserError(f"{version.kind.noun} has nothing to load", where=str(version.ref))
    copies = state.cache / "models"
    copies.mkdir(parents=True, exist_ok=True)
    _sweep(copies)
    with artefact(version.source, state, version.name.catalog) as source:
        require(source, recorded, where=str(version.ref))
        making = Path(tempfile.mkdtemp(prefix=".", dir=copies))
        try:
            for file in recorded.files:
                target = making / file.path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / file.path, target)
            require(making, recorded, where=str(version.ref))
            return _settle(making, copies / recorded.digest, recorded)
        finally:
            shutil.rmtree(making, ignore_errors=True)


def load_chain(version: Version, recorded: Manifest | None, state: StateConfig) -> Chain:
    """Load a chain version: ours as it is, a foreign pyfunc adapted to the contract.

    Raises:
        IntegrityError: its files are not what was registered; nothing of them was run.
    """
    return chain_in(verified(version, recorded, state), state, version.ref)


def load_model(version: Version, recorded: Manifest | None, state: StateConfig) -> Any:
    """Load a classic model as an `mlflow.pyfunc.PyFuncModel`: `predict(table) -> table`.

    Raises:
        IntegrityError: its files are not what was registered; nothing of them was run.
    """
    return model_in(verified(version, recorded, state), state, version.ref)


def chain_in(folder: Path, state: StateConfig, ref: Ref) -> Chain:
    """The chain of verified files; this runs them."""
    described = describe(folder)
    opener = opener_of(described)
    if opener:
        return open_by(opener, _configuration(described, ref, state, folder), where=str(ref))
    model = mlflow_adapter.load_pyfunc(folder, _overrides(described, ref, state, folder))
    inner = _unwrapped(model)
    return inner if is_chain(inner) else PyfuncChain(model, name=str(ref))


def model_in(folder: Path, state: StateConfig, ref: Ref) -> Any:
    """The model of verified files; this runs them."""
    return mlflow_adapter.load_pyfunc(folder, _overrides(describe(folder), ref, state, folder))


def describe(folder: Path) -> dict[str, Any]:
    """What an artefact's `MLmodel` file says; nothing of the artefact is run.

    Raises:
        UserError: there is none.
    """
    path = folder / "MLmodel"
    if not path.is_file():
        raise UserError("the artefact holds no MLflow model (no MLmodel file)", where=str(folder))
    described = yaml.safe_load(path.read_text(encoding="utf-8"))
    return described if isinstance(described, dict) else {}


def opener_of(described: dict[str, Any]) -> str | None:
    """The function of ours that opens the chain without MLflow, where it is one of ours."""
    opener = (described.get("metadata") or {}).get(mlflow_adapter.OPENER_KEY)
    return str(opener) if opener else None


def _sweep(copies: Path) -> None:
    """Remove what loaders that were killed while copying left behind."""
    for unfinished in copies.glob(".*"):
        with suppress(FileNotFoundError):
            if time.time() - unfinished.stat().st_mtime > _UNFINISHED_S:
                shutil.rmtree(unfinished, ignore_errors=True)


def _settle(made: Path, place: Path, recorded: Manifest) -> Path:
    """Put a checked copy where it belongs; one that is there already, and whole, is as good and stays in use."""
    for _ in range(3):
        try:
            made.rename(place)
        except OSError:
            try:
                _drop_compiled(place)
                require(place, recorded, where=str(place))
                return place
            except IntegrityError:
                spoilt = Path(tempfile.mkdtemp(prefix=".", dir=place.parent))
                place.replace(spoilt)
                shutil.rmtree(spoilt, ignore_errors=True)
        else:
            return place
    raise IntegrityError("the copy of a model keeps changing while it is checked", where=str(place))


def _drop_compiled(folder: Path) -> None:
    """Compiled Python beside verified source would be run in its place; it is made again when wanted."""
    for compiled in folder.rglob("__pycache__"):
        shutil.rmtree(compiled, ignore_errors=True)
    for loose in folder.rglob("*.pyc"):
        loose.unlink(missing_ok=True)


def pinned(described: dict[str, Any]) -> dict[str, Any]:
    flavour = (described.get("flavors") or {}).get("python_function") or {}
    return dict(flavour.get("config") or {})


def _overrides(described: dict[str, Any], ref: Ref, state: StateConfig, folder: Path) -> dict[str, Any]:
    here = {STATE_KEY: state.model_dump(mode="json"), CATALOG_KEY: ref.name.catalog, FOLDER_KEY: str(folder)}
    return {key: value for key, value in here.items() if key in pinned(described)}


def _configuration(described: dict[str, Any], ref: Ref, state: StateConfig, folder: Path) -> dict[str, Any]:
    return pinned(described) | _overrides(described, ref, state, folder)


def open_by(opener: str, configuration: dict[str, Any], *, where: str) -> Chain:
    module, _, function = opener.partition(":")
    if not module.startswith("llmops."):
        raise UserError(f"`{opener}` is no opener of this package", where=where)
    try:
        opened = getattr(import_module(module), function)(configuration)
    except (ModuleNotFoundError, AttributeError) as error:
        raise UserError(
            f"this version was made by another release: `{opener}` is not here",
            where=where,
            hint="install the release it was registered with, or register it again",
        ) from error
    if not is_chain(opened):
        raise UserError(f"`{opener}` gives no chain", where=where)
    chain: Chain = opened
    return chain


def _unwrapped(model: Any) -> Any:
    """The Python object inside a pyfunc; other flavours have none."""
    return getattr(getattr(model, "_model_impl", None), "python_model", None)
