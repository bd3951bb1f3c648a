"""Machine code is used for exactly the sources that it was made from; plain Python runs wherever it is not there."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llmops.core.errors import StorageError, UnavailableError
from llmops.gateway import compiled, compiling

PACKAGE = Path(compiled.__file__).parent
CORE = Path(compiled.__file__).parents[3] / "core" / "llmops" / "core"
ASK = "import llmops.gateway as g; from llmops.gateway.compiled import running; print(running())"


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    """A folder with the two packages that the machine code is made from, as an installation has them."""
    skip = shutil.ignore_patterns("__pycache__", "__compiled__")
    shutil.copytree(PACKAGE, tmp_path / "llmops" / "gateway", ignore=skip)
    shutil.copytree(CORE, tmp_path / "llmops" / "core", ignore=skip)
    return tmp_path


def ask(copies: Path, question: str = ASK, switch: str = "1") -> str:
    environment = {**os.environ, compiled.SWITCH: switch, "PYTHONPATH": str(copies)}
    done = subprocess.run(
        [sys.executable, "-c", question], env=environment, capture_output=True, text=True, check=True, cwd=copies
    )
    return done.stdout.strip()


def test_without_machine_code_the_sources_run_and_say_so(copies: Path) -> None:
    assert ask(copies) == "plain Python"


def test_what_is_of_other_sources_is_not_loaded_but_told(copies: Path) -> None:
    home = copies / "llmops" / "gateway" / "__compiled__"
    name = ask(copies, "from llmops.gateway.compiled import digest; print(digest())")
    (home / name).mkdir(parents=True)
    assert ask(copies).startswith("plain Python: the compiled files cannot be loaded")  # of these sources, but broken
    assert ask(copies, switch="0") == "plain Python"
    with (copies / "llmops" / "core" / "frames.py").open("a") as source:  # of core, not compiled: only compiled against
        source.write("# changed\n")
    assert ask(copies).startswith("plain Python: what is compiled is of other sources")


def test_a_broken_library_leaves_the_sources_to_be_imported(copies: Path) -> None:
    name = ask(copies, "from llmops.gateway.compiled import digest; print(digest())")
    folder = copies / "llmops" / "gateway" / "__compiled__" / name
    folder.mkdir(parents=True)
    (folder / f"llmops_gateway__mypyc{compiled.EXTENSION_SUFFIXES[0]}").write_bytes(b"no library")
    assert ask(copies, "from llmops.gateway.http import head; print(head.__file__)").endswith("head.py")


def test_a_class_that_is_compiled_has_only_compiled_subclasses() -> None:
    """The interpreter refuses others as soon as one is made, which may be in production."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}
    files = {PACKAGE / f"{name.replace('.', '/')}.py" for name in compiled.MODULES}
    assert files <= trees.keys()
    classes = {
        path: [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)] for path, tree in trees.items()
    }
    known = {node.name for path in files for node in classes[path] if not _protocol(node)}
    others = [
        f"{path.name}: {node.name}"
        for path, found in classes.items()
        for node in found
        if path not in files and not _protocol(node) and known.intersection(_bases(node))
    ]
    assert others == []


def _bases(node: ast.ClassDef) -> set[str]:
    return {ast.unparse(base).rpartition(".")[2] for base in node.bases}


def _protocol(node: ast.ClassDef) -> bool:
    return "Protocol" in _bases(node)


def test_the_copy_that_is_compiled_has_no_slots_in_its_dataclasses_and_is_else_the_same() -> None:
    source = (
        "@dataclass(slots=True)\n@dataclass(slots=True, eq=False)\n@dataclass(eq=False, slots=True)\nx(slots=True)\n"
    )
    assert compiling.without_slots(source) == (
        "@dataclass\n@dataclass(eq=False)\n@dataclass(eq=False)\nx(slots=True)\n"
    )
    for name in compiled.MODULES:
        text = (PACKAGE / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8")
        assert "slots=True" not in compiling.without_slots(text)


def test_without_a_compiler_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setattr(compiled, "HOME", tmp_path / "compiled")
    with pytest.raises(UnavailableError, match="no-such-compiler") as told:
        compiling.compile_modules(print)
    assert "apt-get install gcc" in str(told.value.hint)
    assert not (tmp_path / "compiled").exists()


def test_a_package_that_cannot_be_written_to_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    (tmp_path / "file").write_text("")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(compiled, "HOME", tmp_path / "file" / "compiled")
    with pytest.raises(StorageError, match="cannot be kept"):
        compiling.compile_modules(print)


def test_what_was_made_before_stays_for_a_gateway_that_still_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(compiled, "HOME", tmp_path)
    for age, name in enumerate(("now", "before", "long-ago", ".making-torn")):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    compiling._clear(keep=tmp_path / "now")
    assert {path.name for path in tmp_path.iterdir()} == {"now", "before"}
