"""One training: honest labels up to a moment, held-out days, trees, figures, explanations, a run, a registered version.

Knows the order. The held-out rows go into a table of the lake of their own, with their features as of their moment, so
that every later version can be compared on the very same rows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np

from llmops.core.delta import Transaction
from llmops.core.features import FeatureStore, TableVersion, open_online, publish
from llmops.core.features.table import in_catalog
from llmops.core.ids import digest
from llmops.core.lake import Lake
from llmops.core.names import Name
from llmops.core.tables import Column, TableSpec
from llmops.finetune.classic import package
from llmops.finetune.classic.classifier import Classifier, grow, truths
from llmops.finetune.classic.data import Sample, mature, parse_month, sample
from llmops.finetune.classic.explain import explanation
from llmops.finetune.classic.features import CUSTOMER_ACTIVITY, FEATURES, INPUTS, MERCHANT_RISK
from llmops.finetune.classic.metrics import by_slice, measured
from llmops.finetune.classic.search import best
from llmops.finetune.classic.settings import TrainSettings, described
from llmops.registry import Registry, Version
from llmops.registry.gates.environment import environment
from llmops.registry.lineage import Edge, Relation, dataset, node
from llmops.registry.tracking import Dataset, Run, running

LABEL = "is_fraud"
MONTH = timedelta(days=30)
SLICES = ("channel", "category")


@dataclass(frozen=True)
class Parts:
    """The rows to learn from, and the later ones that nobody learns from."""

    train: Sample
    holdout: Sample


@dataclass(frozen=True)
class Trained:
    """What a training came to."""

    version: Version
    run_id: str
    metrics: Mapping[str, float]
    holdout: TableVersion


def parts(lake: Lake, catalog: str, settings: TrainSettings) -> Parts:
    """Cut the honest labels in two: the newest days are held out, the months before them are learned from.

    Raises:
        UserError: there are no such transactions, or their truth is not known yet.
    """
    today = parse_month(settings.today)
    end = mature(today)
    begin = end - timedelta(days=settings.holdout_days)
    until = min(begin, parse_month(settings.train_until)) if settings.train_until else begin
    return Parts(
        sample(lake, catalog, FEATURES, until - settings.months * MONTH, until, today=today),
        sample(lake, catalog, FEATURES, begin, end, today=today),
    )


def inputs_of(settings: TrainSettings) -> tuple[str, ...]:
    return tuple(name for name in INPUTS if name not in settings.leave_out)


def train(lake: Lake, registry: Registry, name: Name, settings: TrainSettings, *, key: str) -> Trained:
    """Train, track and register. The same settings over the same data come to the same version, also after a crash.

    Args:
        key: names this training among the runs; see `tracking.running`.
    """
    tags = {"kind": "classic", "task": "classification"}
    with running(registry.state, name, key=key, tags=tags) as run:
        found = parts(lake, name.catalog, settings)
        trees = best(Path(settings.study)) if settings.study else settings.trees
        run.log(params=described(settings.model_copy(update={"trees": trees})))
        classifier = grow(found.train.table, LABEL, inputs_of(settings), trees, seed=settings.seed)
        metrics = figures(classifier, found)
        run.log(metrics=metrics, tags=_code_tags())
        run.files(explanation(classifier, found.holdout.table))
        kept = keep_holdout(lake, name.catalog, found.holdout)
        _tell_datasets(run, found, kept)
        version = _registered(registry, name, classifier, found, run)
        run.log(tags={"llmops.version": str(version.ref)})
    _publish(lake, name.catalog, registry)
    return Trained(version, run.run_id, metrics, kept)


def figures(classifier: Classifier, found: Parts) -> dict[str, float]:
    """Every figure of the held-out days, of their slices, and of the rows that were learned from."""
    shown: dict[str, float] = {}
    for prefix, part in (("", found.holdout.table), ("train_", found.train.table)):
        probability, truth = classifier.probabilities(part), truths(part, LABEL)
        whole = measured(truth, probability, classifier.threshold)
        shown |= {prefix + name: value for name, value in whole.items()}
    probability, truth = classifier.probabilities(found.holdout.table), truths(found.holdout.table, LABEL)
    for column in SLICES:
        values = np.asarray(found.holdout.table[column].to_pylist())
        for value, one in by_slice(values, truth, probability, classifier.threshold).items():
            shown |= {f"{column}.{value}.{figure}": one[figure] for figure in ("average_precision", "recall")}
    return {name: value for name, value in shown.items() if np.isfinite(value)}


def keep_holdout(lake: Lake, catalog: str, holdout: Sample) -> TableVersion:
    """Write the held-out rows down, once: the same rows again change nothing."""
    asset = f"holdout_{holdout.end:%Y_%m_%d}_{(holdout.end - holdout.begin).days}d"
    table = in_catalog(f"fraud.{asset}", catalog)
    looked_up = tuple(column for lookup in FEATURES.lookups for column in lookup.columns)
    wanted = (
        Column("transaction_id", required=True),
        *FEATURES.request,
        *looked_up,
        Column(LABEL, "boolean", required=True),
    )
    columns = tuple(Column(c.name, c.type, c.required) for c in wanted)
    spec = TableSpec(
        asset, columns, ("transaction_id",), description="held-out transactions with their features and truth"
    )
    lake.declare(table, spec)
    rows = holdout.table.select([column.name for column in columns]).cast(spec.schema())
    lake.merge_arrow(table, rows, [Transaction(holdout.training.digest, 1)])
    return TableVersion(table, lake.version(table) or 0)


def edges(version: Version, found: Parts, run_id: str) -> list[Edge]:
    """What the version was made of: run, tables at their versions, the functions of its features, the code."""
    features = {in_catalog(table.name, version.name.catalog) for table in (CUSTOMER_ACTIVITY, MERCHANT_RISK)}
    made = [Edge(node(Relation.RUN, run_id), Relation.RUN, str(version.ref))]
    for one in found.train.read:
        if one.table in features:
            detail = {"table": one.table, "version": str(one.version)}
            made.append(
                Edge(node(Relation.FEATURE, one.table, str(one.version)), Relation.FEATURE, str(version.ref), detail)
            )
        else:
            made.append(dataset(one.table, one.version, found.train.training.digest, version.ref))
    assert FEATURES.functions is not None
    functions = digest(FEATURES.functions.read_bytes())
    made.append(
        Edge(node(Relation.CODE, "on_demand", functions[:12]), Relation.CODE, str(version.ref), {"digest": functions})
    )
    if (revision := environment().git) is not None:
        made.append(Edge(node(Relation.CODE, revision), Relation.CODE, str(version.ref), {"git": revision}))
    return made


def _registered(registry: Registry, name: Name, classifier: Classifier, found: Parts, run: Run) -> Version:
    with tempfile.TemporaryDirectory() as folder:
        offered = package.candidate(name, classifier, FEATURES, found.train, Path(folder), run_id=run.run_id)
        version = registry.register(offered, crown_first=False)
    registry.link(edges(version, found, run.run_id))
    return version


def _publish(lake: Lake, catalog: str, registry: Registry) -> None:
    """Bring the features online, so that the version can be asked by keys alone."""
    store, online = FeatureStore(lake, catalog), open_online(registry.state)
    try:
        for table in (CUSTOMER_ACTIVITY, MERCHANT_RISK):
            publish(store, table, online)
    finally:
        online.close()


def _tell_datasets(run: Run, found: Parts, kept: TableVersion) -> None:
    told = [Dataset(one.table, digest(str(one)), version=one.version) for one in found.train.read]
    told.append(Dataset("training_set", found.train.training.digest))
    told.append(Dataset(kept.table, found.holdout.training.digest, "evaluation", kept.version))
    run.datasets(told)
    digests = {"data.training": found.train.training.digest, "data.holdout": found.holdout.training.digest}
    tables = {f"table.{one.table}": str(one.version) for one in found.train.read}
    run.log(tags={**digests, **tables})


def _code_tags() -> dict[str, str]:
    env = environment()
    found = {"mlflow.source.git.commit": env.git, "llmops.packages": env.lock_digest}
    return {name: value for name, value in found.items() if value is not None}
