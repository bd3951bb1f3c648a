"""Functions of the user's own that a job names, `module:function`: installed, or in the working folder.

A rank is started with the working folder among the places that modules are found in; the command itself is not, so it
is added here, last: nothing installed is hidden by it.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any


def named(name: str) -> Any:
    """What `module:function` stands for.

    Raises:
        ImportError, AttributeError: there is no such module, or function of it.
    """
    module, colon, function = name.partition(":")
    if not colon:
        raise ImportError(f"`{name}` is not of the form module:function")
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    return getattr(import_module(module), function)
