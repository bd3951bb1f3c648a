"""A rank that counts to a number, together with the others, and saves after each step; it goes on from what was saved.

Arguments: folder, steps. `pid-<rank>` holds its process. Told by USR1, it ends in order after the next step. While
`hold` is there, no rank goes beyond the step that it names: whoever wants to kill one has the time.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from pathlib import Path


def main() -> None:
    folder, steps = Path(sys.argv[1]), int(sys.argv[2])
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    asked: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: asked.append(number))
    replaced(folder / f"pid-{rank}", str(os.getpid()))
    port = os.environ["MASTER_PORT"]
    (folder / f"through-{port}-{rank}").unlink(missing_ok=True)  # torchrun's ranks start again at the same port
    saved = folder / "saved"
    if (planned := folder / f"exit-{rank}").exists():
        while len(list(folder.glob("pid-*[0-9]"))) < size:  # the others have begun, and will be ended
            time.sleep(0.01)
        print("error: the loss is not a number\n  --> step 3\nhint: lower train.lr", file=sys.stderr)
        sys.exit(int(planned.read_text()))
    begin = int(saved.read_text()) if saved.exists() else 0
    with (folder / "log").open("a") as log:
        print(f"{rank}/{size} from {begin} to {port}", file=log)
    _meet(folder, f"here-{port}", rank, size)
    for step in range(begin + 1, steps + 1):
        time.sleep(0.02)
        while step > _held_at(folder) and not asked:
            time.sleep(0.01)
        if rank == 0:
            replaced(saved, str(step))
        if asked:
            return
    _meet(folder, f"through-{port}", rank, size)


def _meet(folder: Path, place: str, rank: int, size: int) -> None:
    """Go on when all are there, as in a collective."""
    (folder / f"{place}-{rank}").touch()
    while len(list(folder.glob(f"{place}-*"))) < size:
        time.sleep(0.01)


def _held_at(folder: Path) -> float:
    try:
        return int((folder / "hold").read_text())
    except FileNotFoundError:
        return math.inf


def replaced(path: Path, text: str) -> None:
    """Nobody reads half of it."""
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").replace(path)


if __name__ == "__main__":
    main()
