"""A document's words as Markdown that shows just them: none becomes a link, an image, HTML, a heading or a marker.

Knows the marks of plain Markdown (CommonMark 0.31, section 2.4: ASCII punctuation may be escaped). It renders nothing.
"""

from __future__ import annotations

import re

_LEADING = re.compile(r"^\s*(?:>+|#{1,6})\s+")
_ITEM = re.compile(r"^\s*(?:[-*+]|\d{1,3}[.)])\s+")
_FENCE = re.compile(r"^\s*(`{3,}|~{3,})")
_INDENTED = re.compile(r" {4,}\S")
_SPECIAL = re.compile(r"[\\*_\[\]<>|~#&!]|`")


def inline(text: str) -> str:
    """One line of plain words; balanced `code` stays code, a table row becomes its cells."""
    line = " ".join(_ITEM.sub("", _LEADING.sub("", text)).split())
    if line.startswith("|") or line.endswith("|"):
        line = " — ".join(cell.strip() for cell in line.strip("|").split("|") if cell.strip())
    parts = line.split("`")
    if len(parts) % 2 == 0 or "``" in line:
        return _SPECIAL.sub(r"\\\g<0>", line)
    return "`".join(part if place % 2 else _SPECIAL.sub(r"\\\g<0>", part) for place, part in enumerate(parts))


def block_quote(text: str, marker: str) -> str:
    """A block quote with `marker` at its end; list items keep their lines, fenced code stays code."""
    out: list[str] = []
    run: list[str] = []
    fence, indented = "", False
    for line in text.expandtabs(4).splitlines():
        mark = _FENCE.match(line)
        if fence:
            closes = mark is not None and mark[1].startswith(fence)
            out.append("```" if closes else line.replace("`" * 3, "'''"))
            fence = "" if closes else fence
        elif mark is not None or _ITEM.match(line):
            _flush(run, out)
            fence = mark[1] if mark else ""
            out.append("```" if mark else f"- {inline(line)}")
        elif _INDENTED.match(line) and not run and not (out and out[-1].startswith("- ")):
            if indented:
                out[-1:] = []
            out += [*([] if indented else ["```"]), line[4:].rstrip().replace("`" * 3, "'''"), "```"]
            indented = True
            continue
        elif line.strip() and (not out or out[-1] == "```" or run or not out[-1].startswith("- ")):
            run.append(line)
        elif line.strip():
            out[-1] += f" {inline(line)}"  # the second line of a list item
        else:
            _flush(run, out)
            continue
        indented = False
    _flush(run, out)
    if fence:
        out.append("```")
    if out and out[-1] != "```":
        out[-1] += f" {marker}"
    else:
        out.append(marker)
    return "\n".join(f"> {line}".rstrip() for line in out)


def _flush(run: list[str], out: list[str]) -> None:
    if run:
        out.append(inline(" ".join(run)))
        run.clear()
