"""Thumbs to champion: given over the API, collected with care, learned from, judged, promoted; none may flood it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.support import preferences
from tests.support.chain import Shelf, SmallChain
from tests.support.serving import running
from tests.support.tiny_lm import tiny_base

from llmops.cli.commands.finetune.loop import command
from llmops.core.chain import ChainContext, Delta, Done, Event, Message, Retrieval, Usage
from llmops.core.config import load_config
from llmops.core.errors import UserError
from llmops.core.ids import new_id
from llmops.core.state import StateConfig
from llmops.finetune import loop as thumbs
from llmops.finetune.config import FinetuneConfig
from llmops.registry import Registry
from llmops.registry.promotion import Promoter, State
from llmops.registry.workflow import WorkflowConfig

PEOPLE = ("lk_one", "lk_board", "lk_trusted")


class Guessing(SmallChain):
    """Answers what it is told to, which is as often wrong as right."""

    def stream(self, messages: Sequence[Message], context: ChainContext) -> Iterator[Event]:
        yield Retrieval((), "", 0)
        yield Delta("alpha" if context.settings.get("temperature") else "beta")
        yield Done(Usage(), refused=False, generation="", index_seq=0)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> StateConfig:
    return StateConfig(dir=tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="module")
def recorded(state: StateConfig) -> int:
    """Both answers to each question, judged rightly by three people in turn, over the real API; gives how many."""
    given = 0
    with running(state.root, Shelf({1: Guessing})) as server, server.client() as client:
        for number, (question, right, _) in enumerate(preferences.questions()[:90]):
            mine = {"authorization": f"Bearer {PEOPLE[number % 3]}"}
            for said, temperature in (("alpha", 1.0), ("beta", 0.0)):
                body = {"messages": [{"role": "user", "content": question}], "temperature": temperature}
                reply = client.post("/v1/chat/completions", json={"model": "chat", **body}, headers=mine).json()
                thumb = {
                    "feedback_id": new_id(),
                    "request_id": reply["llmops"]["request_id"],
                    "value": "up" if said == right else "down",
                }
                assert client.post("/v1/feedback", json=thumb, headers=mine).status_code == 200
                given += 1
    return given


@pytest.fixture(scope="module")
def config(state: StateConfig, tmp_path_factory: pytest.TempPathFactory) -> FinetuneConfig:
    base = tiny_base(tmp_path_factory.mktemp("models") / "base")
    made = preferences.preferring(
        "kto", base, Path("feedback:"), state,
        loop={"min_people": 3, "max_share": 0.4},
        eval={"gate": {"preference_accuracy_min": 0.9}},
        track={"register_as": "dev.support.liked"},
    )  # fmt: skip
    return FinetuneConfig.model_validate(made.model_dump())


def test_recorded_thumbs_become_a_champion(state: StateConfig, recorded: int, config: FinetuneConfig) -> None:
    looped = thumbs.loop(config)
    found = looped.collected
    assert (found.thumbs, found.new, found.people) == (recorded, recorded, 3)
    assert (found.liked, found.disliked, found.capped, found.conflicting) == (recorded // 2, recorded // 2, 0, 0)
    assert looped.run is not None
    with Registry(state) as registry:
        version = registry.resolve(str(looped.run.version))
        assert "challenger" in version.aliases
        assert Promoter(registry).promote(version.ref).state is State.PROMOTED
        chain = registry.load_chain("dev.support.liked@champion")
        asked: list[Message] = [{"role": "user", "content": "old red hat"}]
        events = list(chain.stream(asked, ChainContext(settings={"max_tokens": 4})))
        assert isinstance(events[-1], Done)
    # Nothing came since: a second loop says so, and does nothing.
    again = thumbs.loop(config)
    assert (again.run, again.collected.new) == (None, 0)


def test_the_command_plans_without_training(
    state: StateConfig, recorded: int, config: FinetuneConfig, tmp_path: Path
) -> None:
    job = tmp_path / "job.yaml"
    import yaml

    job.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_defaults=True)))
    done = CliRunner().invoke(command, [str(job), "--plan"], standalone_mode=False)
    assert done.exception is None, done.output
    assert re.search(rf"{recorded} thumbs of 3 people", done.output)
    assert f"{recorded // 2} answers liked" in done.output


def rows(person: str, count: int, *, label: bool = True, start: int = 0) -> list[dict[str, Any]]:
    return [
        {
            "prompt": [{"role": "user", "content": f"question {start + number}"}],
            "completion": "an answer",
            "label": label,
            "feedback_id": f"{person}-{number:05d}",
            "event_time": f"2026-01-01T00:00:{number:09d}",
            "requester": person,
        }
        for number in range(count)
    ]


def test_bulk_thumbs_of_one_person_weigh_no_more_than_a_share() -> None:
    given = rows("flood", 1000, label=False) + rows("a", 10) + rows("b", 10) + rows("c", 10) + rows("d", 10)
    kept = thumbs.capped_by_person(given, 0.2)
    counts = {person: sum(row["requester"] == person for row in kept) for person in ("flood", "a", "b", "c", "d")}
    assert counts == {"flood": 10, "a": 10, "b": 10, "c": 10, "d": 10}
    assert max(row["feedback_id"] for row in kept if row["requester"] == "flood") == "flood-00999"  # the newest
    assert thumbs.capped_by_person([], 0.2) == []
    assert len(thumbs.capped_by_person(rows("only", 7), 0.2)) == 7  # one person is all there are; see min_people


def test_people_who_disagree_are_outvoted_or_left_out() -> None:
    given = rows("a", 2) + rows("b", 2, label=False) + rows("c", 1)
    judged, level = thumbs.agreed(given)
    assert [(row["prompt"][0]["content"], row["label"]) for row in judged] == [("question 0", True)]
    assert level == 1
    assert all(row["requester"] not in ("a", "b", "c") for row in judged)  # a digest, not a name


def test_pairs_are_made_within_a_question() -> None:
    good, bad = rows("a", 1)[0], {**rows("b", 1, label=False)[0], "completion": "nonsense"}
    assert thumbs.pairs([good, bad, *rows("c", 1, start=9)]) == [
        {"prompt": good["prompt"], "chosen": "an answer", "rejected": "nonsense"}
    ]


def test_who_gives_all_thumbs_to_one_question_weighs_no_more_in_pairs() -> None:
    asked = rows("a", 1)[0]["prompt"]
    liked = [{**one, "prompt": asked, "completion": f"good {n}"} for n, one in enumerate(rows("a", 30))]
    bad = [{**one, "prompt": asked, "completion": f"bad {n}"} for n, one in enumerate(rows("b", 20, label=False))]
    found = thumbs.pairs([*liked, *bad])
    assert len(found) == 30
    assert {one["chosen"] for one in found} == {one["completion"] for one in liked}
    assert {one["rejected"] for one in found} == {one["completion"] for one in bad}


def test_too_little_feedback_is_told(tmp_path: Path) -> None:
    empty = preferences.preferring("kto", tmp_path, Path("feedback:"), StateConfig(dir=tmp_path / "state"))
    found = thumbs.collect(empty)
    with pytest.raises(UserError, match=r"too little feedback.*people who gave thumbs: 0 of 3"):
        thumbs.require_enough(found, empty.loop)
    with pytest.raises(UserError, match="does not learn from thumbs"):
        thumbs.collect(empty.model_copy(update={"task": "sft"}))


def test_the_shipped_jobs_are_whole() -> None:
    root = Path(__file__).parents[2] / "configs"
    job = load_config(FinetuneConfig, root / "finetune/thumbs.yaml", environment={}).value
    assert (job.task, job.data.sources[0].uri) == ("kto", "feedback:")
    flow = load_config(WorkflowConfig, root / "workflows/finetune.yaml", environment={}).value
    known = {entry.name for entry in entry_points(group="llmops.tasks")}
    assert {task.run for task in flow.tasks if task.run} <= known | {"deploy"}
