"""The other ranks of a trainer whose model is the same on all of them: what they agree on, and save together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llmops.core.errors import StorageError, UnavailableError
from llmops.finetune.checkpoint import Checkpoints
from llmops.finetune.engines.durable import write_randomness, write_state


class Others:
    """How this process stands to the others; with one rank, to none.

    Args:
        ranks: of the plan; more than one have met already.
    """

    def __init__(self, ranks: int) -> None:
        self.rank, self.ranks = 0, ranks
        if ranks > 1:
            import torch.distributed as dist

            self.rank = dist.get_rank()

    @property
    def first(self) -> bool:
        return self.rank == 0

    def require(self, accelerator: Any) -> None:
        """
        Raises:
            UnavailableError: accelerate has made something else of the ranks than copies that learn together.
        """
        kind = str(accelerator.distributed_type.value)
        wanted = ("NO",) if self.ranks == 1 else ("MULTI_CPU", "MULTI_GPU")
        if accelerator.num_processes != self.ranks or kind not in wanted:
            raise UnavailableError(
                f"accelerate runs {accelerator.num_processes} as {kind}, and the plan is {self.ranks} by ddp",
                hint="unset ACCELERATE_* variables",
            )

    def wait(self) -> None:
        """Until all ranks are here."""
        self.any()

    def any(self, *wishes: bool) -> list[bool]:
        """Of each wish, whether some rank has it."""
        if self.ranks == 1:
            return list(wishes)
        import torch
        import torch.distributed as dist

        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        found = torch.tensor([float(one) for one in (True, *wishes)], device=device)
        dist.all_reduce(found)
        return [one > 0 for one in found.tolist()[1:]]

    def saved(self, checkpoints: Checkpoints, step: int, trainer: Any, state: Mapping[str, Any]) -> StorageError | None:
        """Make a checkpoint of all ranks; what went wrong anywhere, everywhere."""
        aside, problem = checkpoints.aside(step), None
        if self.first:
            problem = _tried(lambda: checkpoints.begin(step))
        self.wait()
        if problem is None:
            problem = _tried(lambda: self._written(trainer, aside))
        if self.any(problem is not None)[0]:
            if self.first:
                checkpoints.abandon(step)
            return problem or StorageError("another rank could not save its part of the checkpoint")
        if self.first:
            problem = _tried(lambda: checkpoints.finish(step, state))
        return problem if not self.any(problem is not None)[0] else problem or StorageError("rank 0 could not save")

    def _written(self, trainer: Any, aside: Path) -> None:
        write_randomness(aside, self.rank)
        if self.first:
            write_state(trainer, aside)


def _tried(write: Callable[[], Any]) -> StorageError | None:
    """What the disk said to it."""
    try:
        write()
    except StorageError as error:
        return error
    except OSError as error:
        return StorageError(
            f"the checkpoint cannot be saved: {error.strerror or error}",
            hint="free space on the disk; earlier checkpoints are intact",
            code="checkpoint_not_saved",
        )
    return None
