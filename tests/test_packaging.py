"""The packaging traps that cost a day each: a stray `__init__.py`, a part left out of the wheel, two import names."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from tests.sizes import PARTS, oversized

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def built_parts() -> set[str]:
    return {path.parent.parent.parent.name for path in ROOT.glob("*/llmops/*/__init__.py")}


def test_no_portion_hides_the_others() -> None:
    assert list(ROOT.glob("*/llmops/__init__.py")) == []


def test_every_part_is_packaged_typed_and_linted() -> None:
    hatch = PROJECT["tool"]["hatch"]["build"]
    assert built_parts() == set(PARTS)
    assert set(hatch["dev-mode-dirs"]) == built_parts()
    assert set(hatch["targets"]["wheel"]["packages"]) == {f"{part}/llmops" for part in built_parts()}
    assert set(PROJECT["tool"]["importlinter"]["root_packages"]) == {f"llmops.{part}" for part in built_parts()}
    assert all((ROOT / part / "llmops" / part / "py.typed").exists() for part in built_parts())


def test_sizes_hold() -> None:
    assert oversized(ROOT) == []


def test_sizes_can_fail(tmp_path: Path) -> None:
    module = tmp_path / "core" / "llmops" / "core" / "long.py"
    module.parent.mkdir(parents=True)
    module.write_text("def long():\n" + "    x = 1\n" * 700)
    assert len(oversized(tmp_path)) == 2


def test_constraints_pin_every_requirement_without_local_suffix() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    assert all("==" in line and "+" not in line for line in lines)
    project = PROJECT["project"]
    wanted = [
        *project["dependencies"],
        *(item for extra in project["optional-dependencies"].values() for item in extra),
    ]
    names = {requirement_name(item) for item in wanted} - {"llmops"}
    assert names - pinned == set()


def installed_by(extra: str) -> set[str]:
    """The names of everything that `pip install llmops[extra]` brings, as the installed distributions declare it."""
    project = PROJECT["project"]
    queue = [Requirement(item) for item in (*project["dependencies"], *project["optional-dependencies"][extra])]
    seen: set[tuple[str, frozenset[str]]] = set()
    while queue:
        wanted = queue.pop()
        key = (requirement_name(wanted.name), frozenset(wanted.extras))
        if key in seen:
            continue
        seen.add(key)
        if key[0] == "llmops":
            queue.extend(Requirement(item) for name in wanted.extras for item in project["optional-dependencies"][name])
            continue
        for text in metadata.requires(wanted.name) or ():
            needed = Requirement(text)
            if needed.marker is None or any(needed.marker.evaluate({"extra": name}) for name in (*wanted.extras, "")):
                queue.append(needed)
    return {name for name, _ in seen} - {"llmops"}


def test_a_gateway_container_holds_no_model_library() -> None:
    brought = installed_by("gateway")
    assert {"uvloop", "sqlalchemy", "deltalake"} <= brought
    assert brought & {"torch", "transformers", "mlflow", "mlflow-skinny", "chromadb", "numpy", "pandas"} == set()


def test_the_closure_can_fail() -> None:
    assert {"mlflow", "torch", "chromadb"} <= installed_by("rag")


def requirement_name(requirement: str) -> str:
    name = requirement
    for mark in "[<>=;~! ":
        name = name.split(mark)[0]
    return name.lower().replace("_", "-")


@pytest.mark.parametrize("path", sorted(ROOT.glob("*/llmops/**/*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_say_what_they_are_about(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_the_wheel_holds_every_part_and_its_data(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    assert not any(name == "llmops/__init__.py" for name in names)
    for part in PARTS:
        assert f"llmops/{part}/__init__.py" in names
        assert f"llmops/{part}/py.typed" in names
    tracked = subprocess.run(["git", "ls-files", "*/llmops/*"], cwd=ROOT, check=True, capture_output=True, text=True)
    expected = {line.split("/", 1)[1] for line in tracked.stdout.splitlines() if not line.endswith("README.md")}
    assert expected - set(names) == set()
