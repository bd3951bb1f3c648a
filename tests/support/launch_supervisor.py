"""Supervises `launch_rank` in a process of its own, which a test can send signals. Arguments: folder, steps, ranks."""

from __future__ import annotations

import sys
from pathlib import Path

from llmops.finetune.launch.local import supervise
from llmops.finetune.launch.processes import Ranks


def main() -> None:
    folder, steps, processes = sys.argv[1:]
    ranks = Ranks("tests.support.launch_rank", (folder, steps), int(processes), Path(folder, "logs"), pause_s=0.01)
    print(supervise(ranks).interrupted)


if __name__ == "__main__":
    main()
