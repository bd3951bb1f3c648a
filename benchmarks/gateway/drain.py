"""Drains a spool beside a gateway under load; told on stdin, it says when nothing is left, and how many rows there are.

python -m benchmarks.gateway.drain STATE
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from llmops.core.drain import DrainConfig, Drainer
from llmops.core.lake import Lake
from llmops.core.spool import Spool
from llmops.core.state import StateConfig

TABLE = "gateway.inference_log"


def main() -> None:
    state = StateConfig(dir=Path(sys.argv[1]))
    with Spool(state.spool):  # makes the folder
        pass
    with Drainer(state, DrainConfig(interval_s=0.2)) as drainer:
        for line in sys.stdin:
            if line.startswith("drained?"):
                await_quiet(drainer)
                print("drained", flush=True)
            else:
                lake = Lake(state)
                tables = [table for table in lake.tables() if table.endswith(TABLE)]
                counts = [lake.query(f"SELECT count(*) AS rows FROM {table}")[0]["rows"] for table in tables]
                print(sum(counts), flush=True)


def await_quiet(drainer: Drainer) -> None:
    """Until three whole rounds found nothing more."""
    quiet, seen = 0, -1
    while quiet < 3:
        drainer.wake()
        rounds = drainer.counters.rounds
        while drainer.counters.rounds == rounds:
            time.sleep(0.02)
        quiet = quiet + 1 if drainer.counters.records == seen else 0
        seen = drainer.counters.records


if __name__ == "__main__":
    main()
