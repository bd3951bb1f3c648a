"""MLflow behind its door: silent, offline, a whole store at once, and the process's own MLflow settings left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from tests.support.registry_processes import CHAT, chain, first_use, start

from llmops.core.errors import NotFoundError
from llmops.core.state import StateConfig
from llmops.registry import Registry
from llmops.registry.mlflow_adapter import MlflowStore

PROGRAM = """
import socket, sys, threading
def refuse(*arguments, **options):
    raise AssertionError(f"MLflow wants the network: {arguments}")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from pathlib import Path
from llmops.core.state import StateConfig
from llmops.registry import Registry
assert not {"mlflow", "alembic"} & set(sys.modules), "too early"
from tests.support.registry_processes import chain
with Registry(StateConfig(dir=Path(sys.argv[1]))) as registry:
    version = registry.register(chain("a"))
    registry.load_chain(version)
    assert registry.repair(plan=True).copies.aliases == []
names = [thread.name for thread in threading.enumerate()]
assert names == ["MainThread"], names
from mlflow.telemetry import get_telemetry_client
assert get_telemetry_client() is None
"""


def test_mlflow_is_silent_offline_and_starts_no_thread(tmp_path: Path) -> None:
    dropped = {"PYTEST_CURRENT_TEST", "CI", "MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"}
    environment = {key: value for key, value in os.environ.items() if key not in dropped}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "state")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_store_is_mlflows_own_and_whole(empty_mlflow: Path) -> None:
    from mlflow.store.db import utils

    engine = utils.create_sqlalchemy_engine_with_retry(f"sqlite:///{empty_mlflow}")
    utils._verify_schema(engine)  # raises where the migrations are not MLflow's newest
    assert utils._all_tables_exist(engine)
    engine.dispose()
    assert not empty_mlflow.with_name(".dev.db.making").exists()


def test_a_store_half_made_by_a_killed_process_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow" / ".dev.db.making").write_bytes(b"half a store")
    assert MlflowStore(StateConfig(dir=tmp_path), "dev").aliases() == {}


def test_a_store_being_made_by_several_is_made_once(tmp_path: Path) -> None:
    state = StateConfig(dir=tmp_path / "state")
    processes = [start(first_use, state) for _ in range(2)]
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(path.name for path in (state.root / "mlflow").iterdir()) == [".dev.db.lock", "dev.db"]
    assert MlflowStore(state, "dev").aliases() == {}


def test_the_process_keeps_its_own_mlflow_settings(registry: Registry, tmp_path: Path) -> None:
    mine = f"sqlite:///{tmp_path / 'mine.db'}"
    before = mlflow.get_tracking_uri()
    try:
        mlflow.set_tracking_uri(mine)
        registry.register(chain("a"))
        assert mlflow.get_tracking_uri() == mine
    finally:
        mlflow.set_tracking_uri(before)


def test_an_unknown_model_is_told(registry: Registry, state: StateConfig) -> None:
    with pytest.raises(NotFoundError, match="MLflow"):
        MlflowStore(state, "dev").locate("models:/m-00000000000000000000000000000000")
    with pytest.raises(NotFoundError, match="MLflow"):
        MlflowStore(state, "dev").set_alias(str(CHAT), "champion", 1, prompt=False)
