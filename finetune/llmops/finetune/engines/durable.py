"""TRL's trainers with checkpoints that are whole or not there, verified before they are resumed from, and not pickled.

A mixin in front of a trainer: it takes the place of `Trainer`'s own writing and reading, which happens in the open
folder and trusts whatever has the highest number. Weights and moments are safetensors, the rest JSON. Rows come in
the order in which they were laid out; nothing is sent anywhere.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import SequentialSampler

WEIGHTS, MOMENTS, GROUPS, RANDOM = "weights.safetensors", "moments.safetensors", "optimizer.json", "random-{}.json"
TRAINER = "trainer_state.json"


class Durable:
    """Mixed in before a trainer class.

    `keep` is called where a checkpoint is due, with the trainer and the step; it lets `write_state` fill a folder.
    """

    keep: Callable[[Any, int], None]
    rate: Callable[[int], float]
    """Of a step, counted from 0, the share of the highest rate; that of `schedule`, whose first step learns, too."""

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        learning = self.optimizer if optimizer is None else optimizer  # type: ignore[attr-defined]
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(learning, self.rate)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.keep(self, self.state.global_step)  # type: ignore[attr-defined]

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        learning = _learning(self.model)  # type: ignore[attr-defined]
        for name, kept in load_file(Path(resume_from_checkpoint, WEIGHTS)).items():
            learning[name].data.copy_(kept)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            facts = orjson.loads(Path(checkpoint, GROUPS).read_bytes())
            moments = load_file(Path(checkpoint, MOMENTS))
            self.optimizer.load_state_dict(_optimizer(facts["groups"], moments))  # type: ignore[attr-defined]
            self.lr_scheduler.load_state_dict(facts["schedule"])

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            rank = int(self.args.process_index)  # type: ignore[attr-defined]
            restore_randomness(orjson.loads(Path(checkpoint, RANDOM.format(rank)).read_bytes()))

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Nothing is scaled: precision is fp32 or bf16."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        """The rows are tokens already."""
        return dataset

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """The card is the registry's."""

    def _send_telemetry(self) -> None:
        """Nothing is told to anybody."""


class InOrder(Durable):
    """For trainers that learn from rows as they are: one after the other."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return SequentialSampler(self.train_dataset if train_dataset is None else train_dataset)  # type: ignore[attr-defined]


def write_state(trainer: Any, into: Path) -> None:
    """All that going on exactly needs and all ranks have alike, into a folder that is made durable afterwards."""
    save_file({name: one.data.contiguous() for name, one in _learning(trainer.model).items()}, into / WEIGHTS)
    state = trainer.optimizer.state_dict()
    moments = {
        f"{place}.{name}": value.contiguous() if value.dim() else value.reshape(1)
        for place, values in state["state"].items()
        for name, value in values.items()
    }
    save_file(moments, into / MOMENTS)
    facts = {"groups": state["param_groups"], "schedule": trainer.lr_scheduler.state_dict()}
    (into / GROUPS).write_bytes(orjson.dumps(facts, default=_listed, option=orjson.OPT_SERIALIZE_NUMPY))
    trainer.state.save_to_json(str(into / TRAINER))


def write_randomness(into: Path, rank: int) -> None:
    """Each rank has its own."""
    (into / RANDOM.format(rank)).write_bytes(orjson.dumps(randomness(), option=orjson.OPT_SERIALIZE_NUMPY))


def randomness() -> dict[str, Any]:
    """Where every generator of this process stands, as JSON values."""
    version, words, gauss = random.getstate()
    kind, keys, place, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(words), gauss],
        "numpy": [kind, np.asarray(keys).tolist(), place, has_gauss, cached],
        "cpu": torch.get_rng_state().numpy().tobytes().hex(),
        "cuda": [one.numpy().tobytes().hex() for one in torch.cuda.get_rng_state_all()],
    }


def restore_randomness(found: Mapping[str, Any]) -> None:
    version, words, gauss = found["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, place, has_gauss, cached = found["numpy"]
    np.random.set_state((kind, np.asarray(keys, np.uint32), place, has_gauss, cached))
    torch.set_rng_state(_bytes(found["cpu"]))
    if found["cuda"]:
        torch.cuda.set_rng_state_all([_bytes(one) for one in found["cuda"]])


def _learning(model: Any) -> dict[str, Any]:
    """What learns, by name; tied weights once. What does not is the base's, and is there already."""
    return {name: one for name, one in model.named_parameters() if one.requires_grad}


def _optimizer(groups: list[dict[str, Any]], moments: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in moments.items():
        place, _, name = key.partition(".")
        state.setdefault(int(place), {})[name] = value[0] if name == "step" else value
    for group in groups:
        group["betas"] = tuple(group["betas"])
    return {"state": state, "param_groups": groups}


def _bytes(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | set) else float(value)
