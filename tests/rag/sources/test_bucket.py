"""Objects of the clouds' stores on loopback, and of a plain file system."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem
from tests.support.buckets import BUCKET, SECRETS, Store, azure_store, google_store, s3_store

from llmops.core.errors import ConfigError, NotFoundError, UnavailableError
from llmops.core.state import StateConfig
from llmops.rag.config import BucketSource
from llmops.rag.document import Rejected, SourceItem
from llmops.rag.sources import documents


@pytest.fixture(scope="module", params=[s3_store, google_store, azure_store], ids=["s3", "gs", "abfs"])
def running(request: pytest.FixtureRequest) -> Iterator[Store]:
    with request.param() as store:
        yield store


@pytest.fixture
def store(running: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    yield running
    running.clear()


@pytest.fixture
def state(tmp_path: Path) -> StateConfig:
    return StateConfig(dir=tmp_path / "state")


def source_of(store: Store, bucket: str = f"{BUCKET}/handbook", **changes: Any) -> BucketSource:
    return BucketSource(**{"bucket": f"{store.scheme}://{bucket}", "options": store.options, **changes})


def read(source: BucketSource, state: StateConfig) -> dict[str, tuple[str, tuple[str, ...]]]:
    found = [one for one in documents(source, state) if isinstance(one, SourceItem)]
    return {item.uri: (Path(item.path).read_text(), item.acl) for item in found}


def test_a_bucket_is_followed(store: Store, state: StateConfig) -> None:
    store.put("handbook/a.md", b"alpha")
    store.put("handbook/hr/b.md", b"beta")
    store.put("handbook/ACL.yaml", b"- {path: 'hr/', groups: [hr]}")
    store.put("elsewhere/c.md", b"gamma")
    source = source_of(store, acl_file="ACL.yaml")
    place = f"{store.scheme}://{BUCKET}/handbook"
    assert read(source, state) == {f"{place}/a.md": ("alpha", ("everyone",)), f"{place}/hr/b.md": ("beta", ("hr",))}
    store.put("handbook/a.md", b"aleph")  # as long as before, within the same second
    store.remove("handbook/hr/b.md")
    assert read(source, state) == {f"{place}/a.md": ("aleph", ("everyone",))}


def test_many_objects_are_read_side_by_side(store: Store, state: StateConfig) -> None:
    texts = {f"handbook/{n}.md": f"text {n} " * (n * 100) + "end" for n in range(20)}
    for path, text in texts.items():
        store.put(path, text.encode())
    found = read(source_of(store), state)
    assert {uri.rpartition(f"{BUCKET}/")[2]: text for uri, (text, _) in found.items()} == texts


def test_an_empty_or_unreachable_bucket_removes_nothing(store: Store, state: StateConfig) -> None:
    store.put("handbook/a.md", b"alpha")
    assert len(read(source_of(store), state)) == 1
    store.clear()
    with pytest.raises(NotFoundError, match="nothing lies there"):
        read(source_of(store), state)
    with pytest.raises((UnavailableError, NotFoundError)) as failed:
        read(source_of(store, "nobody-s/handbook"), state)
    assert not any(secret in failed.value.what for secret in SECRETS.values())


def test_a_google_store_that_is_down_is_an_error_within_its_patience(state: StateConfig) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{closed.getsockname()[1]}"
        options = {"endpoint_override": place, "scheme": "http", "anonymous": True, "retry_time_limit": 1}
        with pytest.raises(UnavailableError, match="cannot be listed"):
            read(BucketSource(bucket="gs://team-docs/handbook", options=options), state)


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
