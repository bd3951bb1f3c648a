"""Runs the Python examples of a page of the documentation, one after the other, in one namespace."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.parent.parent / "docs"


def run_python(page: str) -> int:
    """Run every block; gives how many there were."""
    blocks = re.findall(
        r"^```python\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    names: dict[str, Any] = {"__name__": page}
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"docs/{page}, block {number}", "exec"), names)
    return len(blocks)
