"""The files of a branch: of a folder, and over the network from git's own server."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import ValidationError
from tests.support.git_repository import GitRepository
from tests.support.ports import free_port
from tests.support.serving import eventually

from llmops.core.errors import ConfigError, DeniedError, NotFoundError, UnavailableError
from llmops.core.state import StateConfig
from llmops.rag.config import GitSource
from llmops.rag.document import SourceItem
from llmops.rag.sources import documents


@pytest.fixture
def state(tmp_path: Path) -> StateConfig:
    return StateConfig(dir=tmp_path / "state")


@pytest.fixture
def repository(tmp_path: Path) -> GitRepository:
    made = GitRepository(tmp_path / "handbook")
    made.write(docs__a="alpha", docs__sub__b="beta", other="gamma")
    return made


def read(source: GitSource, state: StateConfig) -> dict[str, tuple[str, tuple[str, ...]]]:
    found = [one for one in documents(source, state) if isinstance(one, SourceItem)]
    return {item.uri.partition("#")[2]: (Path(item.path).read_text(), item.acl) for item in found}


def texts(source: GitSource, state: StateConfig) -> dict[str, str]:
    return {path: text for path, (text, _) in read(source, state).items()}


def test_a_branch_is_followed(repository: GitRepository, state: StateConfig) -> None:
    source = GitSource(git=str(repository.folder), path="docs")
    assert texts(source, state) == {"docs/a.md": "alpha", "docs/sub/b.md": "beta"}
    before = {item.uri: item for item in documents(source, state) if isinstance(item, SourceItem)}
    repository.write(docs__a="alpha two", docs__c="new")
    (repository.folder / "docs/sub/b.md").unlink()
    repository.commit()
    assert texts(source, state) == {"docs/a.md": "alpha two", "docs/c.md": "new"}
    repository.run("checkout", "--quiet", "-b", "draft")
    repository.write(docs__d="draft only")
    repository.run("checkout", "--quiet", "main")
    assert "docs/d.md" not in texts(source, state)
    assert "docs/d.md" in texts(GitSource(git=str(repository.folder), path="docs", branch="draft"), state)
    assert set(before) == {f"{repository.folder}#docs/a.md", f"{repository.folder}#docs/sub/b.md"}


def test_only_changed_blobs_are_written(repository: GitRepository, state: StateConfig) -> None:
    source = GitSource(git=str(repository.folder), path="docs")
    first = {item.uri: item for item in documents(source, state) if isinstance(item, SourceItem)}
    repository.write(docs__a="alpha two")
    second = {item.uri: item for item in documents(source, state) if isinstance(item, SourceItem)}
    changed = {uri.partition("#")[2] for uri in first if first[uri] != second[uri]}
    assert changed == {"docs/a.md"}


def test_links_hidden_files_and_submodules_are_no_documents(repository: GitRepository, state: StateConfig) -> None:
    (repository.folder / "docs/link.md").symlink_to("/etc/passwd")
    (repository.folder / "docs/.hidden.md").write_text("x")
    repository.commit()
    assert set(texts(GitSource(git=str(repository.folder)), state)) == {"docs/a.md", "docs/sub/b.md", "other.md"}


def test_the_repository_s_own_file_says_who_reads_what(repository: GitRepository, state: StateConfig) -> None:
    source = GitSource(git=str(repository.folder), path="docs", acl=("staff",), acl_file="ACL.yaml")
    with pytest.raises(NotFoundError, match=r"no ACL\.yaml"):
        read(source, state)
    repository.write(**{"docs__ACL.yaml": "- {path: 'sub/**', groups: [hr, board]}\n"})
    assert {path: acl for path, (_, acl) in read(source, state).items()} == {
        "docs/a.md": ("staff",),
        "docs/sub/b.md": ("hr", "board"),
    }
    repository.write(**{"docs__ACL.yaml": "- {path: 'sub/**', groups: []}\n"})
    with pytest.raises(ConfigError, match="access file"):
        read(source, state)
    repository.write(**{"docs__ACL.yaml": "- {path: 'sub/**', groups: [board]}\n"})
    assert read(source, state)["docs/sub/b.md"] == ("beta", ("board",))


def test_what_is_not_there_is_an_error_and_removes_nothing(repository: GitRepository, state: StateConfig) -> None:
    source = GitSource(git=str(repository.folder), path="docs")
    assert len(texts(source, state)) == 2
    with pytest.raises(NotFoundError):
        read(GitSource(git=str(repository.folder), path="nowhere"), state)
    with pytest.raises(NotFoundError):
        read(GitSource(git=str(repository.folder), branch="nowhere"), state)
    shutil.move(repository.folder, repository.folder.with_name("moved"))
    with pytest.raises(UnavailableError, match="git: "):
        read(source, state)
    shutil.move(repository.folder.with_name("moved"), repository.folder)
    assert len(texts(source, state)) == 2


@contextmanager
def git_daemon(folder: Path) -> Iterator[int]:
    port = free_port()
    where = ["--listen=127.0.0.1", f"--port={port}", "--reuseaddr"]
    command = ["git", "daemon", "--export-all", f"--base-path={folder}", *where]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        eventually(lambda: answers(port))
        yield port
    finally:
        os.killpg(running.pid, 15)
        running.wait()


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_over_the_network_private_hosts_only_where_allowed(repository: GitRepository, state: StateConfig) -> None:
    with git_daemon(repository.folder.parent) as port:
        url = f"git://127.0.0.1:{port}/handbook"
        assert texts(GitSource(git=url, path="docs", private=True), state)["docs/a.md"] == "alpha"
        repository.write(docs__a="alpha two")
        assert texts(GitSource(git=url, path="docs", private=True), state)["docs/a.md"] == "alpha two"
        with pytest.raises(DeniedError, match="not of the internet"):
            read(GitSource(git=url, path="docs"), state)
    url = f"git://127.0.0.1:{free_port()}/handbook"
    with pytest.raises(UnavailableError):
        read(GitSource(git=url, path="docs", private=True), state)


@pytest.mark.parametrize("url", ["ext::sh -c touch% /tmp/x", "--upload-pack=touch", "ftp://a/b", "fd::7"])
def test_transports_that_run_programs_are_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="transports"):
        GitSource(git=url)


def test_a_token_goes_over_https_only_and_never_into_an_error(state: StateConfig, monkeypatch) -> None:
    monkeypatch.setenv("GIT_TOKEN", "s3cret-token")
    with pytest.raises(ConfigError, match="https only"):
        read(GitSource(git="http://127.0.0.1:9/a.git", token="env:GIT_TOKEN", private=True), state)
    with pytest.raises(UnavailableError) as failed:
        read(GitSource(git="https://user:pass@127.0.0.1:9/a.git", token="env:GIT_TOKEN", private=True), state)
    shown = f"{failed.value.what} {failed.value.where} {failed.value.hint}"
    assert "s3cret" not in shown
    assert "pass@" not in shown


@pytest.mark.parametrize("place", ["git@127.0.0.1:team/handbook.git", "git@localhost:~/handbook"])
def test_the_short_form_of_ssh_is_guarded_like_the_long_one(place: str, state: StateConfig) -> None:
    with pytest.raises(DeniedError, match="not of the internet"):
        read(GitSource(git=place), state)
