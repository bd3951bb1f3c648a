"""Money: what a training will cost by its operations, and what it did cost by its time.

A forecast stands on a share of the peak that is assumed, and says so. A price that is not given is not guessed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from llmops.core.errors import GateFailedError
from llmops.finetune.config import FinetuneConfig

ASSUMED_MFU = 0.35
"""Share of the peak that a forecast counts with; published runs lie at 0.3 to 0.5."""


@dataclass(frozen=True)
class Spending:
    """Hours and money; `usd` is None where `launch.price_per_gpu_h` is not named."""

    hours: float
    device_hours: float
    usd: float | None
    usd_per_million_supervised: float | None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def require(self, config: FinetuneConfig) -> None:
        """Refuse what lies beyond the job's `limits`.

        Raises:
            GateFailedError: names the limit and what is expected.
        """
        limits = config.limits
        if limits.hours is not None and self.hours > limits.hours:
            raise GateFailedError(
                f"the training is expected to take {self.hours:.3g} h, limits.hours is {limits.hours:g}",
                hint="raise the limit, shorten train.budget, or use more devices",
                code="over_limit",
            )
        if limits.usd is not None and self.usd is not None and self.usd > limits.usd:
            raise GateFailedError(
                f"the training is expected to cost ${self.usd:.2f}, limits.usd is {limits.usd:g}",
                hint="raise the limit, or shorten train.budget",
                code="over_limit",
            )


def forecast(
    config: FinetuneConfig,
    *,
    tokens: int,
    supervised: int,
    flops_per_token: float,
    peak: float,
    mfu: float = ASSUMED_MFU,
) -> Spending:
    """Before: operations over what the devices will do in an hour."""
    seconds = tokens * flops_per_token / (peak * mfu * devices(config))
    return spent(config, seconds=seconds, supervised=supervised)


def spent(config: FinetuneConfig, *, seconds: float, supervised: int) -> Spending:
    """After: the time that devices were held."""
    hours = seconds / 3600
    held = hours * devices(config)
    price = config.launch.price_per_gpu_h
    usd = None if price is None else held * price
    each = None if usd is None or supervised == 0 else usd / supervised * 1e6
    return Spending(hours, held, usd, each)


def devices(config: FinetuneConfig) -> int:
    return config.launch.nodes * max(config.launch.gpus, 1)
