"""Makes machine code of the gateway's busiest modules with mypyc, for `compiled` to find; a minute and a half of work.

The sources stay as they are, and are the only ones. The copy that is compiled differs in one thing: its dataclasses ask
for no slots, since a compiled class has no dictionary anyway, and cannot be made anew as `slots=True` does it.

    python -m llmops.gateway.compiling     # in a folder of copied sources: what `compile_modules` starts
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path

from llmops.core.errors import LlmopsError, StorageError, UnavailableError
from llmops.gateway import compiled

_SLOTS = re.compile(r"^(@dataclass\(.*?)(?:, slots=True|slots=True(?:, )?)(.*\))$", re.MULTILINE)
_SETTINGS = """[mypy]
strict = true
explicit_package_bases = true
namespace_packages = true
plugins = pydantic.mypy
mypy_path = .
ignore_missing_imports = true
follow_imports = silent
"""
_PATIENCE_S = 1800


def compile_modules(say: Callable[[str], None]) -> Path:
    """Compile, and put what was made where the next process finds it; the folder.

    Raises:
        UnavailableError: no C compiler, no Python headers, or no mypy.
        StorageError: the folder of the package cannot be written to.
        LlmopsError: the compiler refuses; the end of what it says.
    """
    _check_tools()
    place = compiled.HOME / compiled.digest()
    if place.is_dir():
        say("these sources are compiled already")
        return place
    try:
        compiled.HOME.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".making-", dir=compiled.HOME) as made:
            _build(Path(made), say)
            (Path(made) / "out").rename(place)
    except OSError as error:
        raise StorageError(
            f"the compiled files cannot be kept: {error.strerror}",
            where=str(compiled.HOME),
            hint="run it as the user who owns the package, for example when the container is built",
        ) from error
    _clear(keep=place)
    return place


def remove() -> None:
    """Back to plain Python."""
    shutil.rmtree(compiled.HOME, ignore_errors=True)


def without_slots(source: str) -> str:
    return _SLOTS.sub(r"\1\2", source).replace("@dataclass()\n", "@dataclass\n")


def _check_tools() -> None:
    compiler = os.environ.get("CC") or str(sysconfig.get_config_var("CC") or "cc")
    if shutil.which(compiler.split()[0]) is None:
        raise UnavailableError(
            f"there is no C compiler (`{compiler.split()[0]}`)",
            hint="on Debian: apt-get install gcc libc6-dev; without it the gateway runs as plain Python",
        )
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        raise UnavailableError("the headers of this Python are not here", hint="on Debian: apt-get install python3-dev")
    for package in ("mypyc", "setuptools"):
        if find_spec(package) is None:
            raise UnavailableError(
                f"`{package}` is not installed", hint="pip install -c constraints.txt 'llmops[compile]'"
            )


def _build(folder: Path, say: Callable[[str], None]) -> None:
    """Compile in `folder/llmops`, a copy; what is to be kept comes to lie in `folder/out`."""
    for name, path in compiled.sources().items():
        copy = folder / "llmops" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(without_slots(path.read_text(encoding="utf-8")), encoding="utf-8")
    (folder / "mypy.ini").write_text(_SETTINGS, encoding="utf-8")
    say(f"compiling {len(compiled.MODULES)} modules, which takes a minute or two")
    environment = {
        **os.environ, compiled.SWITCH: "0", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-P", "-m", "llmops.gateway.compiling"],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=_PATIENCE_S, check=False,
    )  # fmt: skip
    if done.returncode:
        raise LlmopsError(f"the modules could not be compiled:\n{(done.stdout + done.stderr)[-2000:]}")
    suffix = EXTENSION_SUFFIXES[0]
    out = folder / "out"
    out.mkdir()
    (folder / f"{compiled.GROUP}__mypyc{suffix}").rename(out / f"{compiled.GROUP}__mypyc{suffix}")
    for name in compiled.MODULES:
        (folder / "llmops" / "gateway" / f"{name.replace('.', '/')}{suffix}").rename(out / f"{name}{suffix}")


def _clear(keep: Path) -> None:
    """Remove what is of older sources, but for the last: a gateway that still runs may yet import of it."""
    others = [path for path in compiled.HOME.iterdir() if path != keep]
    made = sorted((path for path in others if not path.name.startswith(".")), key=lambda path: path.stat().st_mtime)
    for path in (*made[:-1], *(path for path in others if path.name.startswith("."))):
        shutil.rmtree(path, ignore_errors=True)


def main() -> None:
    """The compiler's own process, in the folder of the copies."""
    from mypyc.build import mypycify
    from setuptools import setup

    files = [f"llmops/gateway/{name.replace('.', '/')}.py" for name in compiled.MODULES]
    extensions = mypycify(
        ["--config-file", "mypy.ini", *files], opt_level="3", debug_level="0", group_name=compiled.GROUP
    )
    setup(name="llmops-gateway-compiled", ext_modules=extensions, script_args=["build_ext", "--inplace"])


if __name__ == "__main__":
    main()
