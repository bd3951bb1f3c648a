"""Makes a candidate for the registry of a grown classifier: its files, what it takes and gives, what it was made of.

Knows the registry's values. Equal classifiers over equal features have an equal digest, so a training that is repeated
after a crash comes to the version there is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import orjson

from llmops.core.features import FeatureSet
from llmops.core.ids import digest
from llmops.core.names import Name
from llmops.core.state import StateConfig
from llmops.core.tables import Column
from llmops.finetune.classic.classifier import Classifier
from llmops.finetune.classic.data import Sample
from llmops.registry.records import Candidate, CodeModel, Kind, Signature

FORMAT = 1
"""Rises when the same files would answer otherwise: it is part of a version's digest."""
OUTPUTS = (
    Column("fraud_probability", "double", required=True),
    Column("is_fraud", "boolean", required=True),
)
DESCRIPTION = """Probability that a card transaction is fraud, and whether it is to be looked at.

Learned from generated transactions (docs/classic-models.md). Takes the transaction; what it needs of customer and
merchant it looks up by their ids, unless the caller gives it. Intended for ranking transactions for review by people;
not for refusing a payment without one. It knows the kinds of fraud that happened while it learned, and no others."""
_EXAMPLE_ROWS = 5


def candidate(
    name: Name, classifier: Classifier, features: FeatureSet, sample: Sample, into: Path, *, run_id: str
) -> Candidate:
    """Write a classifier's files into a folder, and describe them for the registry.

    Args:
        sample: what it learned from; a few rows of it become the input example.
        into: the folder has to stay until the candidate is registered.
    """
    assert features.functions is not None
    trees, shape = classifier.kept()
    shape = {**shape, "features": features.as_json(), "format": FORMAT}
    files = {"trees": trees, "shape": orjson.dumps(shape, option=orjson.OPT_SORT_KEYS)}
    (into / "trees.ubj").write_bytes(files["trees"])
    (into / "shape.json").write_bytes(files["shape"])
    code = Path(__file__).with_name("model.py")
    functions = features.functions.read_bytes()
    parts = {**files, "functions": functions, "code": code.read_bytes()}
    return Candidate(
        Kind.MODEL,
        name,
        CodeModel(
            code,
            model_config={"state": StateConfig().model_dump(mode="json"), "catalog": name.catalog},
            artifacts={
                "trees": str(into / "trees.ubj"),
                "shape": str(into / "shape.json"),
                "functions": str(features.functions),
            },
            requirements=_requirements(),
            signature=signature(features, sample),
        ),
        digest=digest({key: hashlib.sha256(part).hexdigest() for key, part in parts.items()}),
        description=DESCRIPTION,
        tags={"owner": "risk", "intended_use": "review of card transactions", "data": "generated"},
        params=_shown(classifier, sample),
        run_id=run_id,
    )


def signature(features: FeatureSet, sample: Sample) -> Signature:
    """The request's columns, needed; the looked-up ones, as they please."""
    needed = tuple(Column(c.name, c.type, required=True) for c in features.request)
    looked_up = tuple(column for lookup in features.lookups for column in lookup.columns)
    rows = sample.table.slice(0, _EXAMPLE_ROWS).select([column.name for column in (*needed, *looked_up)]).to_pylist()
    return Signature((*needed, *looked_up), OUTPUTS, tuple(_json(row) for row in rows))


def _json(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value.isoformat() if hasattr(value, "isoformat") else value for key, value in row.items()}


def _shown(classifier: Classifier, sample: Sample) -> dict[str, Any]:
    return {
        "inputs": list(classifier.encoding.inputs),
        "threshold": classifier.threshold,
        "trees": classifier.booster.num_boosted_rounds(),
        "learned_from": f"{sample.begin:%F}",
        "learned_until": f"{sample.end:%F}",
        "rows": len(sample.table),
        "data": {one.table: one.version for one in sample.read},
        "data_digest": sample.training.digest,
    }


def _requirements() -> tuple[str, ...]:
    return tuple(f"{name}=={package_version(name)}" for name in ("llmops", "mlflow", "xgboost-cpu", "pandas"))
