"""A part inherits what was shown of the whole, and only where that speaks of the part's own champion."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.promotions import DEPLOYER, Desk, against, found
from tests.support.registry_rows import seed

from llmops.core.errors import NotFoundError, UserError
from llmops.core.state import StateConfig
from llmops.registry import Kind, Version
from llmops.registry.gates.inherited import inherit_comparison, parts_of
from llmops.registry.lineage import Edge, Relation, dataset
from llmops.registry.promotion import Promoter
from llmops.registry.promotion.states import State


class House:
    """Chain n is made of prompt n; both first versions are champions."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.chains = seed(desk.sql, "dev.docs.chat", 3)
        self.prompts = seed(desk.sql, "dev.docs.chat_prompt", 3, Kind.PROMPT)
        for chain, prompt in zip(self.chains, self.prompts, strict=True):
            desk.link(
                [Edge(str(prompt.ref), Relation.PROMPT, str(chain.ref)), dataset("dev.docs.t", 1, "0", chain.ref)]
            )
        self.crown(self.chains[0])
        self.crown(self.prompts[0])

    def crown(self, version: Version) -> None:
        held = self.desk.alias(version.name, "champion")
        champion = None if held is None else self.desk.resolve(f"{version.name}/{held.version}")
        self.desk.add_evidence(found(version))
        self.desk.add_evidence(against(version, champion))
        assert Promoter(self.desk).promote(version.ref).state is State.PROMOTED

    def compare(self, chain: Version, champion: Version | None, verdict: str = "pass") -> str:
        return self.desk.add_evidence(against(chain, champion, verdict, effect=0.2, ci_low=0.1, ci_high=0.3))


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with Desk(StateConfig(dir=tmp_path / "state"), principal=DEPLOYER) as desk:
        yield House(desk)


def test_the_record_of_a_part_rests_on_that_of_the_whole(house: House) -> None:
    of_chain = house.compare(house.chains[1], house.chains[0])
    assert [part.ref for part in parts_of(house.chains[1], house.desk)] == [house.prompts[1].ref]
    inherit_comparison(house.prompts[1], house.chains[1], house.desk)
    (record,) = house.desk.evidence(house.prompts[1])
    assert (record.parents, record.verdict, record.effect, record.ci_low) == ((of_chain,), "pass", 0.2, 0.1)
    assert record.baseline is not None
    assert record.baseline.version == 1
    house.desk.add_evidence(found(house.prompts[1]))
    assert Promoter(house.desk).promote(house.prompts[1].ref).state is State.PROMOTED


def test_a_refusal_is_inherited_too(house: House) -> None:
    house.compare(house.chains[1], house.chains[0], "fail")
    inherit_comparison(house.prompts[1], house.chains[1], house.desk)
    house.desk.add_evidence(found(house.prompts[1]))
    assert Promoter(house.desk).promote(house.prompts[1].ref).state is State.REJECTED


def test_what_says_nothing_about_the_part_is_refused(house: House) -> None:
    with pytest.raises(NotFoundError, match="never compared"):
        inherit_comparison(house.prompts[1], house.chains[1], house.desk)
    house.compare(house.chains[1], house.chains[0])
    with pytest.raises(UserError, match="was not made of"):
        inherit_comparison(house.prompts[2], house.chains[1], house.desk)
    house.crown(house.prompts[2])  # by itself, so the compared champion is not made of it
    with pytest.raises(UserError, match="does not speak of the champion"):
        inherit_comparison(house.prompts[1], house.chains[1], house.desk)
    house.compare(house.chains[1], None)  # with a heuristic
    with pytest.raises(UserError, match="does not speak of the champion"):
        inherit_comparison(house.prompts[1], house.chains[1], house.desk)
    assert house.desk.evidence(house.prompts[1]) == []
