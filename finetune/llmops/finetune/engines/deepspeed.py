"""ZeRO-2 and ZeRO-3 through DeepSpeed: optimizer's moments, and with 3 weights too, in shares on all ranks.

DeepSpeed is given our optimizer object, so that it compiles none of its own, and no checkpoint of its own is written
(it would be pickled): each rank saves the flat pieces it holds. The adapter to DeepSpeed, and all that imports it.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from llmops.core.errors import IntegrityError
from llmops.finetune.config import TrainConfig
from llmops.finetune.engines import Plan
from llmops.finetune.engines.loss import Tensors
from llmops.finetune.engines.parallel import MOMENTS, Ddp, adamw


class Zero(Ddp):
    """A learner whose engine shares out what `plan.strategy` says."""

    def learn(self, batch: Tensors, supervised: int, *, last: bool) -> torch.Tensor:
        loss = self._loss(self._engine, batch) / supervised
        self._engine.backward(loss * self.ranks, scale_wrt_gas=False)  # ranks take the mean of gradients
        if not last:
            self._engine.step()  # counts the batch; weights change after the last one
        return loss.detach()

    def update(self, rate: float) -> torch.Tensor:
        for group in self._engine.optimizer.param_groups:
            group["lr"] = rate
        self._engine.step()
        return torch.as_tensor(self._engine.get_global_grad_norm() or 0.0)

    def save(self, folder: Path) -> None:
        found = {}
        for number, piece in enumerate(self._pieces):
            found[f"weight/{number}"] = piece.detach()
            for moment, value in self._base.state[piece].items():
                found[f"{moment}/{number}"] = torch.as_tensor(value)
        save_file({name: value.clone() for name, value in found.items()}, folder / self._file)

    def load(self, folder: Path) -> None:
        if not (folder / self._file).exists():
            raise IntegrityError(
                f"the checkpoint was not made by {self.ranks} ranks with {self.plan.strategy}",
                hint="resume with the ranks and the strategy that it began with",
            )
        self._put(load_file(folder / self._file, device=self.plan.device))

    def weights(self) -> dict[str, torch.Tensor] | None:
        if self.plan.strategy == "zero2":
            return None
        import deepspeed

        found: dict[str, torch.Tensor] = {}
        for name, one in self.model.named_parameters():
            with deepspeed.zero.GatheredParameters([one]):
                if self.rank == 0:
                    found[name] = one.detach().cpu().clone()
        return found if self.rank == 0 else None

    @property
    def writes(self) -> bool:
        return True

    @property
    def _file(self) -> str:
        return f"state-{dist.get_rank():05d}-of-{dist.get_world_size():05d}.safetensors"

    @property
    def _pieces(self) -> list[Any]:
        """The flat pieces of this rank, in full precision: what its optimizer works on."""
        optimizer = self._engine.optimizer
        name = "single_partition_of_fp32_groups" if self.plan.strategy == "zero2" else "fp32_partitioned_groups_flat"
        found: list[Any] = getattr(optimizer, name)
        return found

    @property
    def _base(self) -> Any:
        return self._engine.optimizer.optimizer

    def _wrap(self) -> None:
        for name in ("DeepSpeed", "deepspeed"):
            logging.getLogger(name).setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", message=".*torch.distributed.* is deprecated", category=FutureWarning)
        learning = [one for one in self.model.parameters() if one.requires_grad]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it imports: old decorators, compilers that are not there
            import deepspeed

            if self.plan.device == "cpu":
                _no_shared_memory()
            deepspeed.init_distributed(dist_backend=dist.get_backend(), auto_mpi_discovery=False)
            self._engine, *_ = deepspeed.initialize(
                model=self.model, optimizer=adamw(learning, self._train), config=_settings(self._train, self.plan)
            )
        self._callable = self._engine

    def _computing(self, last: bool) -> AbstractContextManager[Any]:  # type: ignore[override]
        return nullcontext()

    def _put(self, found: Mapping[str, torch.Tensor]) -> None:
        """Put saved pieces back, and make whole weights of them again where ranks hold such."""
        optimizer = self._engine.optimizer
        kept = getattr(optimizer, "persistent_parameters", [])
        if kept:
            kept[0].partition(kept)
        for number, piece in enumerate(self._pieces):
            known = found.get(f"weight/{number}")
            if known is None or known.shape != piece.shape:
                raise IntegrityError("the checkpoint is of another model: its pieces have other sizes")
            with torch.no_grad():
                piece.copy_(known)
            self._base.state[piece] = {
                moment: found[f"{moment}/{number}"] for moment in MOMENTS if f"{moment}/{number}" in found
            }
        if self.plan.strategy == "zero2":
            optimizer.update_lp_params()
            return
        for number in range(len(self._pieces)):
            optimizer._reassign_or_swap_out_partitioned_parameters(number)  # what its own step ends with
        if kept:
            kept[0].all_gather(kept)


def _settings(train: TrainConfig, plan: Plan) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": plan.rows_per_rank,
        "gradient_accumulation_steps": plan.accumulation,
        "train_batch_size": plan.rows_per_step,
        "gradient_clipping": train.clip_norm,
        "zero_optimization": {"stage": 2 if plan.strategy == "zero2" else 3},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }
    if plan.precision == "bf16":
        settings["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    return settings


def _no_shared_memory() -> None:
    """On CPUs DeepSpeed compiles a module for shared memory at first use, which takes minutes; gloo does without."""
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    ShareMemCommBuilder.is_compatible = lambda self, verbose=False: False
