"""Features: tables with keys and a time in the lake, joined to labels as of their moment, looked up when serving.

`FeatureTable` declares one, `FeatureStore` writes and describes it, `FeatureSet` says which features a model takes and
gives the same values in training (`training_set`) and in serving (`resolve`); `publish` takes the newest rows online.
Importing this package loads neither numpy nor pyarrow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmops.core.features.on_demand import OnDemand
    from llmops.core.features.online import OnlineStore, open_online
    from llmops.core.features.publishing import Staleness, publish, staleness
    from llmops.core.features.sets import FeatureSet, TableVersion, TrainingSet
    from llmops.core.features.store import FeatureStore
    from llmops.core.features.table import FeatureTable, Lookup

_HOMES = {
    "FeatureSet": "sets",
    "FeatureStore": "store",
    "FeatureTable": "table",
    "Lookup": "table",
    "OnDemand": "on_demand",
    "OnlineStore": "online",
    "Staleness": "publishing",
    "TableVersion": "sets",
    "TrainingSet": "sets",
    "open_online": "online",
    "publish": "publishing",
    "staleness": "publishing",
}

__all__ = [
    "FeatureSet",
    "FeatureStore",
    "FeatureTable",
    "Lookup",
    "OnDemand",
    "OnlineStore",
    "Staleness",
    "TableVersion",
    "TrainingSet",
    "open_online",
    "publish",
    "staleness",
]


def __getattr__(name: str) -> Any:
    """The public names, from their modules when first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
