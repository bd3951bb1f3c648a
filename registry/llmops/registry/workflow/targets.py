"""Which function a task runs: `package.module:function`, a built-in name, or an installed entry point.

Knows names and where they lead. Imports a task's module only in the task's own process.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from llmops.core.errors import ConfigError, did_you_mean

GROUP = "llmops.tasks"
_HERE = "llmops.registry.workflow.tasks"
_WORDS = ("validate", "compare", "approval", "deploy", "register", "retrain")
BUILT_IN = {name: f"{_HERE}:{name}" for name in _WORDS}


def installed() -> dict[str, str]:
    """Tasks known by name: the built-in ones, and those that installed packages add under `llmops.tasks`."""
    return {point.name: point.value for point in entry_points(group=GROUP)} | BUILT_IN


def target(name: str, run: str | None) -> str:
    """`module:function` of a task.

    Raises:
        ConfigError: it names nothing that is known.
    """
    if run and ":" in run:
        return run
    word = run or ("approval" if name.startswith("approval") else name)
    known = installed()
    if word not in known:
        what, hint = problem(name, run) or ("", None)
        raise ConfigError(what, hint=hint)
    return known[word]


def problem(name: str, run: str | None) -> tuple[str, str | None] | None:
    """What is wrong with a task's target, and a hint; None where nothing is. Imports nothing."""
    if (run and ":" in run) or (run is None and (name in BUILT_IN or name.startswith("approval"))):
        return None
    known = installed()
    if (run or name) in known:
        return None
    hint = did_you_mean(run or name, known)
    if run is None:
        hint = f"{hint or 'say what it runs'}, or write `run: package.module:function`"
        return f"`{name}` is no built-in task and has no `run`", hint
    return f"no installed task is called `{run}`", hint or "write package.module:function"


def require(target_: str) -> None:
    """Say before a run that a module is missing, not after hours of training. Imports nothing of the task's own.

    Raises:
        ConfigError: there is no such module.
    """
    module = target_.partition(":")[0]
    if not _found(module):
        raise ConfigError(
            f"there is no module `{module}`",
            where=target_,
            hint="is its package installed, or the working folder right?",
        )


def _found(module: str) -> bool:
    """Whether a task's process, which looks into the working folder first, will find the module."""
    places = [str(Path.cwd()), *sys.path]
    for part in module.split("."):  # by its last word alone: a whole name makes the finder ask for imported parents
        spec = PathFinder.find_spec(part, places)
        if spec is None:
            break
        places = list(spec.submodule_search_locations or ())
    else:
        return True
    try:  # packages that are found by hooks of their own
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def load(target_: str) -> Callable[..., Any]:
    """The function itself.

    Raises:
        ConfigError: no such module or function.
    """
    module, _, function = target_.partition(":")
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise ConfigError(f"there is no module `{module}`", where=target_) from error
        raise
    if not callable(getattr(found, function, None)):
        public = [name for name in vars(found) if not name.startswith("_")]
        raise ConfigError(
            f"`{module}` has no function `{function}`", where=target_, hint=did_you_mean(function, public)
        )
    chosen: Callable[..., Any] = getattr(found, function)
    return chosen
