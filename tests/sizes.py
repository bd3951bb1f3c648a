"""Fails where a source file or function has outgrown what a reader can hold: 600 lines a file, 80 a function."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PARTS = ("cli", "serving", "finetune", "gateway", "rag", "registry", "core")
FILE_LINES = 600
FUNCTION_LINES = 80


def oversized(root: Path) -> list[str]:
    """`path:line: what is too long` of everything beyond the limits."""
    found = []
    for part in PARTS:
        for path in sorted((root / part / "llmops").rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            lines = text.count("\n")
            if lines > FILE_LINES:
                found.append(f"{path.relative_to(root)}:1: {lines} lines, {FILE_LINES} at most")
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    length = (node.end_lineno or node.lineno) - node.lineno + 1
                    if length > FUNCTION_LINES:
                        where = f"{path.relative_to(root)}:{node.lineno}"
                        found.append(f"{where}: {node.name} has {length} lines, {FUNCTION_LINES} at most")
    return found


if __name__ == "__main__":
    problems = oversized(ROOT)
    print("\n".join(problems) or "sizes: all files and functions within their limits")
    sys.exit(bool(problems))
