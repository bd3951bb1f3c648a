"""How long a person waits for the command line: `--help`, a refused argument, a bare Python start as the bound."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass (the bound)": [sys.executable, "-c", "pass"],
    "llmops --help": [sys.executable, "-m", "llmops.cli.main", "--help"],
    "llmops ingest --help": [sys.executable, "-m", "llmops.cli.main", "ingest", "--help"],
    "llmops models list --help": [sys.executable, "-m", "llmops.cli.main", "models", "list", "--help"],
}
RUNS = 15
BAR_MS = 250


def median_ms(command: list[str]) -> float:
    """Median wall-clock of RUNS whole processes, after one to warm the file cache."""
    times = []
    for _ in range(RUNS + 1):
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times[1:])


def main() -> None:
    measured = {name: median_ms(command) for name, command in COMMANDS.items()}
    bound = next(iter(measured.values()))
    print(f"Median of {RUNS} runs; the bar for `--help` is {BAR_MS} ms.\n")
    print("| x bound | command | ms |\n|---:|---|---:|")
    for name, value in measured.items():
        print(f"| {value / bound:.1f} | `{name}` | {value:.0f} |")


if __name__ == "__main__":
    main()
