"""Objects of an S3 server on loopback, and of a plain file system."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem

from llmops.core.errors import ConfigError, NotFoundError, UnavailableError
from llmops.core.state import StateConfig
from llmops.rag.config import BucketSource
from llmops.rag.document import Rejected, SourceItem
from llmops.rag.sources import documents


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    import boto3

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "BUCKET_SECRET"):
        monkeypatch.setenv(name, "test")
    store = boto3.resource("s3", endpoint_url=f"http://{server}", region_name="us-east-1")
    made = store.create_bucket(Bucket="team-docs")
    yield made
    made.objects.all().delete()
    made.delete()


@pytest.fixture
def state(tmp_path: Path) -> StateConfig:
    return StateConfig(dir=tmp_path / "state")


def s3(server: str, **changes: Any) -> BucketSource:
    options = {
        "endpoint_override": server,
        "scheme": "http",
        "region": "us-east-1",
        "access_key": "env:BUCKET_SECRET",
        "secret_key": "env:BUCKET_SECRET",
    }
    return BucketSource(**{"bucket": "s3://team-docs/handbook", "options": options, **changes})


def read(source: BucketSource, state: StateConfig) -> dict[str, tuple[str, tuple[str, ...]]]:
    found = [one for one in documents(source, state) if isinstance(one, SourceItem)]
    return {item.uri: (Path(item.path).read_text(), item.acl) for item in found}


def test_a_bucket_is_followed(server: str, bucket: Any, state: StateConfig) -> None:
    bucket.put_object(Key="handbook/a.md", Body=b"alpha")
    bucket.put_object(Key="handbook/hr/b.md", Body=b"beta")
    bucket.put_object(Key="handbook/ACL.yaml", Body=b"- {path: 'hr/', groups: [hr]}")
    bucket.put_object(Key="elsewhere/c.md", Body=b"gamma")
    source = s3(server, acl_file="ACL.yaml")
    assert read(source, state) == {
        "s3://team-docs/handbook/a.md": ("alpha", ("everyone",)),
        "s3://team-docs/handbook/hr/b.md": ("beta", ("hr",)),
    }
    bucket.put_object(Key="handbook/a.md", Body=b"aleph")  # as long as before, within the same second
    bucket.Object("handbook/hr/b.md").delete()
    assert read(source, state) == {"s3://team-docs/handbook/a.md": ("aleph", ("everyone",))}


def test_an_empty_or_unreachable_bucket_removes_nothing(server: str, bucket: Any, state: StateConfig) -> None:
    bucket.put_object(Key="handbook/a.md", Body=b"alpha")
    assert len(read(s3(server), state)) == 1
    bucket.objects.all().delete()
    with pytest.raises(NotFoundError, match="nothing lies there"):
        read(s3(server), state)
    with pytest.raises((UnavailableError, NotFoundError)) as failed:
        read(s3(server, bucket="s3://nobody-s/handbook"), state)
    assert "test" not in failed.value.what


def test_any_file_system_of_fsspec(tmp_path: Path, state: StateConfig) -> None:
    (tmp_path / "shared/sub").mkdir(parents=True)
    (tmp_path / "shared/a.md").write_text("alpha")
    (tmp_path / "shared/sub/.hidden.md").write_text("x")
    source = BucketSource(bucket=f"file://{tmp_path}/shared")
    assert read(source, state) == {f"file://{tmp_path}/shared/a.md": ("alpha", ("everyone",))}
    with pytest.raises(ConfigError, match="cannot be opened"):
        read(BucketSource(bucket="nowhere://a/b"), state)


def test_an_object_that_is_larger_than_allowed_is_refused_not_cut(
    tmp_path: Path, state: StateConfig, monkeypatch
) -> None:
    monkeypatch.setattr("llmops.rag.sources.bucket._MOST_BYTES", 10)
    (tmp_path / "a.md").write_text("0123456789")
    (tmp_path / "b.md").write_text("0123456789a")
    real = LocalFileSystem.find

    def sizeless(self: LocalFileSystem, *where: Any, **how: Any) -> dict[str, Any]:
        return {path: {**about, "size": None} for path, about in real(self, *where, **how).items()}

    monkeypatch.setattr(LocalFileSystem, "find", sizeless)
    found = {one.uri[-4:]: one for one in documents(BucketSource(bucket=f"file://{tmp_path}"), state)}
    assert isinstance(found["a.md"], SourceItem)
    assert isinstance(found["b.md"], Rejected)
    assert found["b.md"].code == "too_large"


def test_links_and_names_of_a_mounted_bucket(tmp_path: Path, state: StateConfig) -> None:
    (tmp_path / "secret.md").write_text("secret")
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "a.md").write_text("alpha")
    (shared / "link.md").symlink_to(tmp_path / "secret.md")
    Path(os.fsdecode(os.fsencode(shared) + b"/\xff.md")).write_text("bad name")
    found = {one.uri: one for one in documents(BucketSource(bucket=f"file://{shared}"), state)}
    assert [uri for uri, one in found.items() if isinstance(one, SourceItem)] == [f"file://{shared}/a.md"]
