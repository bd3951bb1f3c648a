"""The trees: deterministic, kept without pickles, explained exactly."""

from __future__ import annotations

from itertools import combinations
from math import factorial
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest

from llmops.core.errors import UserError
from llmops.core.lake import Lake
from llmops.core.state import StateConfig
from llmops.finetune.classic.classifier import Classifier, Encoding, grow
from llmops.finetune.classic.explain import explanation
from llmops.finetune.classic.features import INPUTS
from llmops.finetune.classic.settings import TrainSettings, Trees
from llmops.finetune.classic.train import parts


@pytest.fixture(scope="module")
def rows(august: StateConfig) -> pa.Table:
    return parts(Lake(august), "dev", TrainSettings()).train.table


@pytest.fixture(scope="module")
def classifier(rows: pa.Table) -> Classifier:
    return grow(rows, "is_fraud", INPUTS, Trees(), seed=7)


def test_the_same_rows_give_the_same_bytes(rows: pa.Table, classifier: Classifier) -> None:
    again = grow(rows, "is_fraud", INPUTS, Trees(), seed=7)
    other = grow(rows, "is_fraud", INPUTS, Trees(), seed=8)

    assert again.kept() == classifier.kept()
    assert other.kept()[0] != classifier.kept()[0]


def test_a_kept_one_is_the_same_one(rows: pa.Table, classifier: Classifier) -> None:
    trees, shape = classifier.kept()

    read = Classifier.load(trees, orjson.loads(orjson.dumps(shape)))

    assert np.array_equal(read.probabilities(rows), classifier.probabilities(rows))
    assert read.threshold == classifier.threshold


def test_words_that_were_never_seen_are_missing(rows: pa.Table) -> None:
    encoding = Encoding.of(rows, ("category", "amount"))
    given = pa.table({"category": ["travel", "piracy", None], "amount": pa.array([1, 2, None], pa.int64())})

    found = encoding.matrix(given)

    assert np.isnan(found[:, 0]).tolist() == [False, True, True]
    assert found[:2, 1].tolist() == [1, 2]
    with pytest.raises(UserError, match="no input `typo`"):
        Encoding.of(rows, ("typo",))


def test_shap_values_are_shapleys() -> None:
    """On small trees, against the definition: a row's expectation under every subset of known inputs, by hand."""
    generator = np.random.default_rng(2)
    columns = {name: generator.integers(0, 4, 400).astype(float) for name in ("a", "b", "c")}
    truth = (columns["a"] + columns["b"] * (columns["c"] > 1) + generator.normal(0, 1, 400)) > 3
    table = pa.table({**columns, "y": truth})
    small = grow(table, "y", ("a", "b", "c"), Trees(rounds=2, depth=3, subsample=1.0, columns=1.0), seed=1)
    trees = small.booster.trees_to_dataframe()
    row = {"a": 3.0, "b": 2.0, "c": 3.0}

    found = small.contributions(pa.table({name: [value] for name, value in row.items()}))[0]

    for place, name in enumerate(row):
        others = [one for one in row if one != name]
        exact = 0.0
        for size in range(len(others) + 1):
            for known in combinations(others, size):
                weight = factorial(size) * factorial(len(others) - size) / factorial(len(row))
                exact += weight * (expected(trees, row, {*known, name}) - expected(trees, row, set(known)))
        assert found[place] == pytest.approx(exact, abs=1e-5)


def expected(trees: Any, row: dict[str, float], known: set[str]) -> float:
    """The sum of the trees where only some inputs are known: at an unknown one both ways count, weighed by rows."""

    def walk(nodes: Any, node: str) -> float:
        one = nodes.loc[node]
        if one["Feature"] == "Leaf":
            return float(one["Gain"])
        if one["Feature"] in known:
            return walk(nodes, one["Yes"] if row[one["Feature"]] < one["Split"] else one["No"])
        left, right = nodes.loc[one["Yes"]]["Cover"], nodes.loc[one["No"]]["Cover"]
        return float((left * walk(nodes, one["Yes"]) + right * walk(nodes, one["No"])) / (left + right))

    return sum(walk(nodes.set_index("ID"), nodes["ID"].iloc[0]) for _, nodes in trees.groupby("Tree"))


def test_explanations_add_up_and_are_drawn(rows: pa.Table, classifier: Classifier) -> None:
    contributions = classifier.contributions(rows)
    odds = np.log(classifier.probabilities(rows) / (1 - classifier.probabilities(rows)))

    assert np.allclose(contributions.sum(axis=1), odds, atol=1e-3)
    files = explanation(classifier, rows)
    values = orjson.loads(files["shap/values.json"])
    assert set(values["importance"]) == set(INPUTS)
    assert [one["probability"] for one in values["local"]] == sorted(
        (one["probability"] for one in values["local"]), reverse=True
    )
    import lxml.etree

    for name, text in files.items():
        if name.endswith(".svg"):
            drawn = lxml.etree.fromstring(text)
            assert drawn.tag.endswith("svg")
            assert not drawn.xpath("//*[local-name()='script']")


def test_too_little_to_learn_from_is_told() -> None:
    table = pa.table({"a": [1.0] * 10, "y": [False] * 10})

    with pytest.raises(UserError, match="too few positive rows"):
        grow(table, "y", ("a",), Trees(), seed=1)
