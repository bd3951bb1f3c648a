from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.support.features import CUSTOMERS, row

from llmops.cli.main import run
from llmops.core.features import FeatureStore, open_online, publish
from llmops.core.lake import Lake
from llmops.core.state import StateConfig


@pytest.fixture
def prod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureStore:
    """A feature table of production in this folder's state."""
    monkeypatch.chdir(tmp_path)
    store = FeatureStore(Lake(StateConfig()), "prod")
    store.create(CUSTOMERS)
    store.write(CUSTOMERS, [row(f"c{number}", number, spent=float(number)) for number in range(10)])
    return store


def test_a_part_of_production_comes_to_dev(prod: FeatureStore, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["data", "snapshot", "prod.fraud.customers", "dev.fraud.customers", "--rows", "4", "--where", "spent > 1"]

    assert run([*command, "--plan"]) == 0
    assert "would take 4 of 8 rows of prod.fraud.customers at version 1" in capfd.readouterr().err
    assert run([*command, "--json"]) == 0
    taken = json.loads(capfd.readouterr().out)
    assert (taken["rows"], taken["made"], taken["source_version"]) == (4, True, 1)
    assert run(command) == 0
    assert "there already" in capfd.readouterr().err
    assert FeatureStore(prod.lake, "dev").describe("fraud.customers").lookup() == CUSTOMERS.lookup()
    assert run(["data", "list", "--json", "--catalog", "dev"]) == 0
    (listed,) = json.loads(capfd.readouterr().out)
    assert (listed["table"], listed["rows"]) == ("dev.fraud.customers", 4)
    assert listed["key"] == ["customer_id", "event_time"]


def test_a_table_is_described(prod: FeatureStore, capfd: pytest.CaptureFixture[str]) -> None:
    online = open_online(StateConfig())
    publish(prod, CUSTOMERS, online)
    online.close()

    assert run(["data", "describe", "prod.fraud.customers", "--json"]) == 0
    shown = json.loads(capfd.readouterr().out)
    assert shown["kind"] == "features"
    assert shown["online"]["is_current"] is True
    assert shown["snapshot"] is None
    assert run(["data", "describe", "prod.fraud.customers"]) == 0
    text = capfd.readouterr().out
    assert "customer_id\tstring\tkey\tTrue" in text
    assert "what a customer did so far" in text
    assert run(["data", "list"]) == 0
    assert "prod.fraud.customers\tfeatures\t1\t10\tcustomer_id, event_time" in capfd.readouterr().out
    assert run(["data", "describe", "prod.fraud.customer"]) == 1
    assert "did you mean `prod.fraud.customers`?" in capfd.readouterr().err
