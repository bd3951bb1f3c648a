"""Tables are read by Arrow's own file systems, wherever they lie; what Arrow can't read is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pyarrow.fs import GcsFileSystem, LocalFileSystem, S3FileSystem
from tests.support.records import FEEDBACK, thumb

from llmops.core.deltastore import file_system
from llmops.core.errors import ConfigError
from llmops.core.lake import Lake
from llmops.core.state import StateConfig


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_ENDPOINT_URL", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)


def test_a_bucket_is_read_by_arrow_with_the_settings_that_writing_has(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"REGION": "eu-west-1", "ENDPOINT_URL": "http://127.0.0.1:9", "ACCESS_KEY_ID": "k"}
    for name, value in (settings | {"SECRET_ACCESS_KEY": "s"}).items():
        monkeypatch.setenv(f"AWS_{name}", value)
    found = file_system("s3://bucket/lake/dev/docs/log%20s")
    assert found.base_path == "bucket/lake/dev/docs/log s/"
    assert isinstance(found.base_fs, S3FileSystem)
    assert found.base_fs.region == "eu-west-1"
    assert "127.0.0.1:9" in str(found.base_fs.__reduce__())  # it goes where deltalake writes


def test_googles_store_is_read_by_arrow_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(file_system("gs://bucket/lake").base_fs, GcsFileSystem)
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", "key.json")
    with pytest.raises(ConfigError, match="GOOGLE_SERVICE_ACCOUNT"):
        file_system("gs://bucket/lake")


@pytest.mark.parametrize("uri", ["hdfs://host/lake", "memory://lake", "git://host/lake", "http://host/lake"])
def test_what_arrow_cannot_read_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match="can't be read safely"):
        file_system(uri)


def test_a_container_names_its_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
    assert file_system("abfss://box@team.dfs.core.windows.net/lake").base_path == "box/lake/"
    with pytest.raises(ConfigError, match="account"):
        file_system("az://box/lake")


def test_a_lake_by_url_is_read_without_pythons_file_system_and_its_reader_ends_well(tmp_path: Path) -> None:
    state = StateConfig(dir=tmp_path / "state", lake_url=f"file://{tmp_path}/lake")
    lake = Lake(state)
    assert not lake.is_local
    lake.append(FEEDBACK, [thumb(feedback_id="f")])
    (stored, _) = lake._snapshot(FEEDBACK, None, include_pending=False)
    assert isinstance(stored.filesystem.base_fs, LocalFileSystem)
    program = (
        "from llmops.core.lake import Lake; from llmops.core.state import StateConfig; import sys\n"
        "lake = Lake(StateConfig(dir=sys.argv[1], lake_url=sys.argv[2]))\n"
        "print([row['feedback_id'] for row in lake.rows(sys.argv[3])])"
    )
    arguments = [sys.executable, "-c", program, str(state.root), str(state.lake_url), FEEDBACK]
    for _ in range(3):
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "['f']\n", "")
