"""Configuration: order of the layers, origins, positions of errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from llmops.core.config import load_config
from llmops.core.errors import ConfigError, NotFoundError, render


class Chunking(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    size: int = 800
    overlap: int = 0


class Source(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    path: str


class Job(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = "job"
    chunking: Chunking = Chunking()
    sources: tuple[Source, ...] = ()
    limit: Chunking | None = None


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text("name: from-file\nchunking:\n  size: 400\nsources:\n  - path: docs\n  - path: wiki\n")
    return path


def test_each_layer_overrides_the_one_below(file: Path) -> None:
    loaded = load_config(
        Job,
        file,
        overrides=["chunking.overlap=7", "sources.1.path=handbook"],
        environment={"LLMOPS_CHUNKING__SIZE": "500", "LLMOPS_DATA": "/data", "OTHER": "1"},
    )
    assert loaded.value == Job(
        name="from-file",
        chunking=Chunking(size=500, overlap=7),
        sources=(Source(path="docs"), Source(path="handbook")),
    )
    origins = {key: origin for key, _, origin in loaded.rows()}
    assert origins["name"] == f"{file}:1:1"
    assert origins["chunking.size"] == "environment variable LLMOPS_CHUNKING__SIZE"
    assert origins["chunking.overlap"] == "--set chunking.overlap"
    assert origins["sources.0.path"] == f"{file}:5:5"
    assert origins["sources.1.path"] == "--set sources.1.path"
    assert origins["limit"] == "default"


def test_the_program_s_own_variables_are_no_values_of_a_job_that_has_the_same_key() -> None:
    class Training(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")
        data: Source = Source(path="here")

    def path(environment: dict[str, str]) -> str:
        return load_config(Training, environment=environment).value.data.path

    assert path({"LLMOPS_DATA": "/somewhere"}) == "here"
    assert path({"LLMOPS_DATA": "/somewhere", "LLMOPS_DATA__PATH": "there"}) == "there"


def test_the_hash_follows_the_values_not_their_origin(file: Path) -> None:
    same = load_config(
        Job, None, overrides=["name=from-file", "chunking.size=400", "sources=[{path: docs}, {path: wiki}]"]
    )
    assert same.hash == load_config(Job, file).hash
    assert same.hash != load_config(Job, file, overrides=["chunking.size=401"]).hash


def test_an_unknown_key_is_shown_with_its_place_and_the_nearest_known_one(tmp_path: Path) -> None:
    path = tmp_path / "rag.yaml"
    path.write_text("chunking:\n  size: 3\n  ovrelap: 1\n")
    with pytest.raises(ConfigError) as caught:
        load_config(Job, path)
    assert render(caught.value) == (
        f"error: unknown key `chunking.ovrelap`\n  --> {path}:3:3\nhint: did you mean `overlap`?"
    )


@pytest.mark.parametrize(
    ("text", "what", "where"),
    [
        ("chunking: {size: many}", "`chunking.size`: input should be a valid integer", ":1:12"),
        ("sources:\n  - pth: x", "`sources.0.path`: field required", ":2:5"),
        ("limit:\n  sze: 1", "unknown key `limit.sze`", ":2:3"),
        ("name: a\nname: b", "`name` stands twice", ":2:1"),
        ("a: [1", "not valid YAML", ":1:"),
        ("- a", "a configuration file is a mapping", ":1:1"),
        ("name: !!python/object:os.system {}", "the YAML tag", ":1:7"),
    ],
)
def test_each_problem_points_at_its_line(tmp_path: Path, text: str, what: str, where: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=what.replace("(", r"\(")) as caught:
        load_config(Job, path)
    assert caught.value.where is not None
    assert where in caught.value.where


def test_wrong_overrides_name_themselves(file: Path) -> None:
    for override, where in [
        ("nonsense", "--set"),
        ("sources.9.path=x", "--set sources.9.path"),
        ("name.x=1", "--set name.x"),
    ]:
        with pytest.raises(ConfigError) as caught:
            load_config(Job, file, overrides=[override])
        assert caught.value.where == where
    with pytest.raises(ConfigError) as caught:
        load_config(Job, file, overrides=["chunking.size=x"])
    assert caught.value.where == "--set chunking.size"


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such configuration file") as caught:
        load_config(Job, tmp_path / "none.yaml")
    assert "llmops init" in str(caught.value.hint)
    (tmp_path / "rag.yaml").write_text("job: rag\n")
    for wrong, hint in (("rga.yaml", "did you mean `rag.yaml`?"), ("none.yaml", f"{tmp_path} has rag.yaml")):
        with pytest.raises(NotFoundError) as caught:
            load_config(Job, tmp_path / wrong)
        assert caught.value.hint == hint


def test_a_key_that_a_section_of_the_file_lacks_is_a_default(file: Path) -> None:
    origins = {key: origin for key, _, origin in load_config(Job, file).rows()}
    assert (origins["chunking.size"], origins["chunking.overlap"]) == (f"{file}:3:3", "default")
    whole = load_config(Job, file, overrides=["limit={size: 3}", "sources=[{path: here}]"])
    origins = {key: origin for key, _, origin in whole.rows()}
    assert (origins["limit.size"], origins["limit.overlap"]) == ("--set limit", "default")
    assert origins["sources.0.path"] == "--set sources"
