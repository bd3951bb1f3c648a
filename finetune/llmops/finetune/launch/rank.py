"""The first thing that a rank's process does: tie its life to the process that started it, then run what it is for.

A supervisor that is killed takes its ranks along: none goes on writing into a run that another attempt has taken over.
"""

from __future__ import annotations

import os
import runpy
import sys

from llmops.core.fences import die_with_parent

PARENT = "LLMOPS_RANK_PARENT"


def main() -> None:
    """`python -m llmops.finetune.launch.rank MODULE ARGUMENT...`"""
    parent = os.environ.pop(PARENT, None)
    die_with_parent()
    if parent is not None and os.getppid() != int(parent):
        os._exit(1)  # the supervisor ended before the kernel was asked
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
