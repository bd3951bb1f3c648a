"""`make bench`: runs the benchmark programs one after the other and writes their tables to docs/benchmarks.md.

`python -m benchmarks NAME ...` runs only those and replaces only their sections. Each program prints Markdown on stdout
and its progress on stderr; one that cannot run here (no data set, no network for a peer) says so in its section.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
PROGRAMS = {
    "startup": "Start of the command line",
    "parsing": "Parsing and chunking",
    "lexical": "Lexical search",
    "embedding": "Embedding",
    "ingest": "Ingest",
    "retrieval": "Retrieval and citation quality",
    "hops": "Several searches for one question",
    "scale": "Large indexes",
    "chat": "Chat",
    "serving": "The door",
    "spool": "The spool",
    "registry": "The registry",
    "sequential": "Sequential tests",
    "features": "Features",
    "audit": "The audit chain",
    "gateway": "The gateway",
    "finetune": "Fine-tuning",
}
HEADER = """# Benchmarks

Measured by the programs in `benchmarks/`, each side by side with its peer or bound in one run, the ratio first.
`make bench` runs them all; `python -m benchmarks NAME` one of them. Peers are installed by the programs in environments
of their own. Public data sets with answer keys are read from the folder that `LLMOPS_DATA` names; the mock
upstream and load generator of the gateway stand in the one that `LLMOPS_BENCH` names.
"""


def machine() -> str:
    """Processor, cores and memory, without names of hosts or users."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*:\s*(.+)", info)
    bf16 = ", AVX-512 bf16" if "avx512_bf16" in info else ""
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    name = model.group(1).strip() if model else platform.processor() or platform.machine()
    return f"{name}{bf16}, {os.cpu_count()} cores, {memory_gb:.0f} GiB, Python {platform.python_version()}"


def sections(page: Path) -> dict[str, str]:
    """The page's sections by title."""
    if not page.exists():
        return {}
    parts = re.split(r"^## (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {title: body.strip() for title, body in zip(parts[::2], parts[1::2], strict=True)}


def run(name: str) -> str | None:
    """One program's Markdown, or None where it failed."""
    print(f"== {name}", file=sys.stderr, flush=True)
    # As on most machines, Python keeps what it compiled, ours and the peers': else a start compiles all it imports.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-m", f"benchmarks.{name}"]
    process = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    return process.stdout.strip() if process.returncode == 0 else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PROGRAMS))
    chosen = parser.parse_args().names or list(PROGRAMS)
    if unknown := set(chosen) - set(PROGRAMS):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(PROGRAMS)}")
    measured = sections(PAGE)
    failed = []
    for name in chosen:
        text = run(name)
        if text is None:
            failed.append(name)
            continue
        if text.startswith("Skipped:") and PROGRAMS[name] in measured:
            print(f"{name}: {text}; its figures stay as they were", file=sys.stderr)
            continue
        stamp = f"{datetime.now(UTC):%Y-%m-%d}, {machine()}."
        measured[PROGRAMS[name]] = f"`python -m benchmarks {name}` on {stamp}\n\n{text}"
        ordered = [title for title in PROGRAMS.values() if title in measured]
        PAGE.write_text(HEADER + "".join(f"\n## {title}\n\n{measured[title]}\n" for title in ordered), encoding="utf-8")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
