"""The on-demand features of `fraud_clf`. This file travels with each version: it imports numpy and nothing of ours."""

from __future__ import annotations

from typing import Any

import numpy as np


def amount_ratio(amount: Any, mean_30d: Any) -> Any:
    """How many times the usual amount; unknown for a customer without a past."""
    return amount / np.where(mean_30d > 0, mean_30d, np.nan)


def hour(event_time: Any) -> Any:
    """Hour of the day, UTC, with its fraction."""
    return (event_time - event_time.astype("datetime64[D]")).astype("timedelta64[s]").astype(float) / 3600


def hours_since_last(event_time: Any, last_seen: Any) -> Any:
    """Hours since the customer's last transaction; unknown where there is none."""
    gap = (event_time - last_seen).astype("timedelta64[s]")
    return np.where(np.isnat(gap), np.nan, gap.astype(float) / 3600)


def abroad(country: Any, home: Any) -> Any:
    """1 where the country is not the customer's own; unknown where that is not known."""
    return np.array([np.nan if own is None else float(here != own) for here, own in zip(country, home, strict=True)])
