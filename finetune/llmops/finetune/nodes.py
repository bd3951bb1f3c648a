"""A job in a process that a launcher has started: the first one carries it, the others lend their ranks.

Only the first prepares data and base, makes the checks, judges, registers; the others wait for its word, see that they
have the same folder, and read what lies in it. Two ways: a launcher that starts a process on each node leaves the ranks
to us (`launch.together`), and one that starts every rank itself (torchrun, srun) also starts them again.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from llmops.core.errors import UnavailableError
from llmops.core.identity import LOCAL, Principal
from llmops.finetune import worker
from llmops.finetune.config import FinetuneConfig
from llmops.finetune.engines import Listener, Phase, Prepared, Trained
from llmops.finetune.launch.meeting import Meeting, of_ranks
from llmops.finetune.launch.place import Node, Rank
from llmops.finetune.launch.processes import Ranks, values
from llmops.finetune.launch.together import (
    Patience,
    end_likewise,
    ending,
    leading,
    lend,
    marked,
    same_folder,
)
from llmops.finetune.ranks import ranks_of, train_on_ranks
from llmops.finetune.runs import RunFolder, RunRecord
from llmops.finetune.train import run_job


def run_placed(
    place: Node | Rank,
    config: FinetuneConfig,
    *,
    principal: Principal = LOCAL,
    listen: Listener,
    path: Path | None = None,
    only: str | None = None,
) -> RunRecord | None:
    """Do this process' part of a job; None where that was to lend ranks.

    Raises:
        ConfigError: the launcher has started another number of processes than the job says.
        UserError: nodes do not see one folder; or as `train.run_job`.
        UnavailableError: others did not come, or failed too often.
        Stopped: the training was asked to end, and saved.
    """
    place.require(config.launch)
    carry = partial(run_job, config, principal=principal, path=path, only=only)
    if isinstance(place, Rank):
        return _as_rank(place, config, listen, carry)
    if place.leads:
        with told_to_end(), leading(place) as leader:

            def train(job: Prepared, folder: RunFolder, listen: Listener) -> Trained:
                trained = train_on_ranks(job, folder, listen, leader)
                leader.over(ending(None))  # the others need not wait for what only one does
                return trained

            return carry(listen=listen, train=train)

    def ranks_for(folder: Path) -> Ranks:
        return ranks_of(config.launch, folder)

    lend(place, ranks_for, config.launch.restarts, lambda text: listen(Phase(text)))
    return None


def _as_rank(
    place: Rank, config: FinetuneConfig, listen: Listener, carry: Callable[..., RunRecord]
) -> RunRecord | None:
    """This process is a rank: it trains itself."""
    from torch.distributed import PrefixStore

    os.environ |= {
        **values(config.launch.environment),
        "RANK": str(place.rank),
        "WORLD_SIZE": str(place.ranks),
        "LOCAL_RANK": str(place.local),
        "MASTER_ADDR": place.host,
        "MASTER_PORT": str(place.port),
    }
    store = of_ranks(place)
    met = Meeting(PrefixStore("llmops", store))
    if not place.leads:
        listen(Phase(f"{place}: waiting for rank 0"))
        told = met.ask(place.rank)
        if "over" in told:
            end_likewise(told["over"])
            return None
        folder = RunFolder(same_folder(told, str(place), Patience().folder_s))
        worker.run(folder, PrefixStore(told["word"], store))
        return None
    return _first(place, listen, carry, store)


def _first(place: Rank, listen: Listener, carry: Callable[..., RunRecord], store: Any) -> RunRecord:
    """Rank 0 carries the job; it tells the others once: of the run, or that there is nothing to do."""
    from torch.distributed import PrefixStore

    met, others, told = Meeting(PrefixStore("llmops", store)), range(1, place.ranks), False

    def train(job: Prepared, folder: RunFolder, listen: Listener) -> Trained:
        nonlocal told
        run, told = marked(folder.path), True
        missing = met.answer(others, run, within_s=Patience().gather_s)
        if missing:
            raise UnavailableError(f"ranks {', '.join(map(str, missing))} did not come", code="rank_missing")
        return worker.run(folder, PrefixStore(run["word"], store), listen)

    with told_to_end():
        try:
            record = carry(listen=listen, train=train)
        except BaseException as error:
            if not told:
                met.answer(others, {"over": ending(error)}, within_s=Patience().part_s)
            raise
    if not told:
        met.answer(others, {"over": ending(None)}, within_s=Patience().part_s)
    return record


@contextmanager
def told_to_end() -> Iterator[None]:
    """A cluster's USR1 and TERM are a Ctrl-C, where nothing else hears them: while a job is prepared, or judged."""

    def heard(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, heard) for number in (signal.SIGUSR1, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
