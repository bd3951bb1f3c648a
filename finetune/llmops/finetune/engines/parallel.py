"""How the weights of one model learn: on one device, on copies (DDP), or in shares (FSDP2); a learner each.

State is saved as safetensors, never pickled: by rank 0 where all hold the same, by every rank its share otherwise. It
is all that exact resume needs: what learns, in full precision, and the optimizer's moments. The randomness of a step is
keyed by (seed, step, rank), and the rate by the step, so neither has state. `deepspeed` has the learner of ZeRO.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from llmops.core.errors import IntegrityError, UserError
from llmops.finetune.config import TrainConfig
from llmops.finetune.engines import Plan
from llmops.finetune.engines.loss import SupervisedLoss, Tensors

MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class Learner:
    """One process with the whole model; the others refine it.

    Args:
        model: with `requires_grad` on what learns.
    """

    def __init__(self, model: Any, train: TrainConfig, plan: Plan) -> None:
        self.model, self.plan, self._train = model.to(plan.device), plan, train
        self.rank, self.ranks = 0, 1
        self._loss = SupervisedLoss(model)
        self._wrap()
        self.learning = {name: one for name, one in self.model.named_parameters() if one.requires_grad}
        self.optimizer = adamw(list(self.learning.values()), train)

    def begin(self, step: int) -> None:
        """Make the randomness of a step: of dropout, the same whether the run was interrupted or not."""
        torch.manual_seed(hash((self._train.seed, step, self.rank)))

    def learn(self, batch: Tensors, supervised: int, *, last: bool) -> torch.Tensor:
        """Add a batch's gradient; gives its share of the loss.

        Args:
            supervised: tokens of the whole step, over all ranks, that the loss is divided by.
            last: whether it is the step's last batch, after which ranks exchange gradients.
        """
        with self._computing(last):
            loss = self._loss(self._callable, batch) / supervised
            (loss * self.ranks if self.ranks > 1 else loss).backward()  # ranks take the mean of gradients
        return loss.detach()

    def update(self, rate: float) -> torch.Tensor:
        """Change the weights; gives the norm of the gradient before it was clipped."""
        norm = self._clip()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks."""
        return values

    def save(self, folder: Path) -> None:
        """Write what exact resume needs of this rank."""
        save_file(self._state(), folder / "state.safetensors")

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote.

        Raises:
            IntegrityError: it is of another model.
        """
        self._restore(load_file(folder / "state.safetensors", device=self.plan.device))

    def weights(self) -> dict[str, torch.Tensor] | None:
        """All weights together, on rank 0, where one rank does not hold them; else None."""
        return None

    def inner(self) -> Any:
        """The model as it is saved and asked."""
        return self.model

    def wait(self) -> None:
        """Until all ranks are here."""

    @property
    def writes(self) -> bool:
        """Whether this rank has something of its own to save."""
        return self.rank == 0

    def _wrap(self) -> None:
        self._callable = torch.compile(self.model) if self._train.compile else self.model

    @contextmanager
    def _computing(self, last: bool) -> Iterator[None]:
        with self._synced(last), autocast(self.plan):
            yield

    def _synced(self, last: bool) -> AbstractContextManager[Any]:
        return nullcontext()

    def _clip(self) -> torch.Tensor:
        return torch.nn.utils.clip_grad_norm_(list(self.learning.values()), self._train.clip_norm)

    def _state(self) -> dict[str, torch.Tensor]:
        found = {f"weight/{name}": _own(one) for name, one in self.learning.items()}
        for name, one in self.learning.items():
            for moment, value in self.optimizer.state[one].items():
                found[f"{moment}/{name}"] = _own(value)
        return found

    def _restore(self, found: Mapping[str, torch.Tensor]) -> None:
        for name, one in self.learning.items():
            known = found.get(f"weight/{name}")
            if known is None or known.shape != _own(one).shape:
                raise IntegrityError(f"the checkpoint is of another model: `{name}` is missing or of another shape")
            with torch.no_grad():
                _own(one).copy_(known)
            self.optimizer.state[one] = {
                moment: _like(found[f"{moment}/{name}"], one, moment)
                for moment in MOMENTS
                if f"{moment}/{name}" in found
            }


class Ddp(Learner):
    """A copy on every rank; gradients are averaged after the last batch of a step."""

    def __init__(self, model: Any, train: TrainConfig, plan: Plan) -> None:
        super().__init__(model, train, plan)
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()

    def total(self, values: torch.Tensor) -> torch.Tensor:
        dist.all_reduce(values)
        return values

    def wait(self) -> None:
        dist.barrier()

    def _wrap(self) -> None:
        from torch.nn.parallel import DistributedDataParallel

        local = None if self.plan.device == "cpu" else [torch.cuda.current_device()]
        self._callable = DistributedDataParallel(self.model, device_ids=local, gradient_as_bucket_view=True)

    def _synced(self, last: bool) -> AbstractContextManager[Any]:
        return nullcontext() if last else self._callable.no_sync()


class Fsdp2(Ddp):
    """A share of every layer on every rank; layers are gathered while they compute.

    On CPU ranks too: accelerate would silently make DDP of it there.
    """

    def save(self, folder: Path) -> None:
        save_file(self._state(), folder / f"state-{self.rank:05d}-of-{self.ranks:05d}.safetensors")

    def load(self, folder: Path) -> None:
        path = folder / f"state-{self.rank:05d}-of-{self.ranks:05d}.safetensors"
        shares = sorted(folder.glob("state-*-of-*.safetensors"))
        if path.exists():
            self._restore(load_file(path, device=self.plan.device))
        else:
            self._restore(self._divided(shares))

    def weights(self) -> dict[str, torch.Tensor] | None:
        found = {name: _gathered(value) for name, value in self.model.state_dict().items()}
        return found if self.rank == 0 else None

    @property
    def writes(self) -> bool:
        return True

    def _wrap(self) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        mesh = init_device_mesh(self.plan.device, (dist.get_world_size(),))
        low = torch.bfloat16 if self.plan.precision == "bf16" else None
        policy = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32)
        for layer in layers(self.model):
            fully_shard(layer, mesh=mesh, mp_policy=policy)
        fully_shard(self.model, mesh=mesh, mp_policy=policy)
        self._callable = self.model

    def _synced(self, last: bool) -> AbstractContextManager[Any]:
        self.model.set_requires_gradient_sync(last)
        return nullcontext()

    def _clip(self) -> torch.Tensor:
        norm = super()._clip()
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm

    def _divided(self, shares: list[Path]) -> dict[str, torch.Tensor]:
        """This rank's share of a state that another number of ranks saved: shares are cut along the first dimension."""
        from torch.distributed.tensor import distribute_tensor

        if not shares:
            raise IntegrityError("the checkpoint was not made in shares", hint="resume with the strategy it began with")
        parts = [load_file(share) for share in shares]
        found = {}
        for name, one in self.learning.items():
            for kind in ("weight", *MOMENTS):
                key = f"{kind}/{name}"
                if key not in parts[0]:
                    continue
                if kind == "step":
                    found[key] = parts[0][key]
                    continue
                whole = torch.cat([part[key] for part in parts])
                found[key] = distribute_tensor(whole, one.device_mesh, one.placements).to_local()
        return found


def adamw(learning: list[Any], train: TrainConfig) -> torch.optim.Optimizer:
    """One kernel for all weights; the rate is set at each step. Norms and biases do not decay."""
    decaying = [one for one in learning if one.ndim > 1]
    others = [one for one in learning if one.ndim <= 1]
    groups = [
        {"params": decaying, "weight_decay": train.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=train.lr, fused=True)


def autocast(plan: Plan) -> AbstractContextManager[Any]:
    if plan.precision == "fp32":
        return nullcontext()
    low: AbstractContextManager[Any] = torch.autocast(plan.device, torch.bfloat16)
    return low


def layers(model: Any) -> list[Any]:
    """The repeated blocks of a transformer: what is sharded and recomputed by itself."""
    names = set(getattr(model, "_no_split_modules", None) or getattr(_core(model), "_no_split_modules", None) or ())
    found = [module for module in model.modules() if type(module).__name__ in names]
    if not found:
        raise UserError(
            "it is not known which layers of this model repeat",
            hint="train with parallel.strategy: ddp",
        )
    return found


def learner(model: Any, train: TrainConfig, plan: Plan) -> Learner:
    """The learner of a plan's strategy."""
    if plan.strategy in ("zero2", "zero3"):
        from llmops.finetune.engines.deepspeed import Zero

        return Zero(model, train, plan)
    kinds: dict[str, type[Learner]] = {"single": Learner, "ddp": Ddp, "fsdp2": Fsdp2}
    return kinds[plan.strategy](model, train, plan)


def _core(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _own(value: Any) -> torch.Tensor:
    """This rank's part of a tensor."""
    value = value.detach()
    return value.to_local() if hasattr(value, "to_local") else value


def _like(value: torch.Tensor, parameter: Any, moment: str) -> torch.Tensor:
    if moment == "step" or not hasattr(parameter, "device_mesh"):
        return value
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        value, parameter.device_mesh, parameter.placements, shape=parameter.shape, stride=parameter.stride()
    )


def _gathered(value: Any) -> torch.Tensor:
    found = value.full_tensor() if hasattr(value, "full_tensor") else value
    return found.cpu()
