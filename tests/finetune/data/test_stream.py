"""A stream goes on from any position bit by bit; a ledger says which examples were learned from when."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.tokenizers import byte_tokenizer, chat, finetune_job, write_lines

from llmops.core.errors import ConflictError, IntegrityError
from llmops.core.state import StateConfig
from llmops.finetune.data.ledger import Ledger, learned_from, read_ledger
from llmops.finetune.data.order import Feed, Step
from llmops.finetune.data.prepare import prepare
from llmops.finetune.data.stream import open_feed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stream")
    for name, count in (("a", 17), ("b", 9)):
        write_lines(path / f"{name}.jsonl", [chat(f"{name} {n}", f"{n}") for n in range(count)])
    write_lines(path / "c.jsonl", [chat(f"c {n}", f"{n}") for n in range(5)])
    return path


def feed(folder: Path, **data: Any) -> Feed:
    job = finetune_job(**{"sources": [{"uri": str(folder)}], "streaming": True, "shuffle_buffer": 8, **data})
    state, tokenizer = StateConfig(dir=folder / ".llmops"), byte_tokenizer()
    return open_feed(prepare(job, tokenizer, state), job, tokenizer, state, rows_per_step=2)


def flat(step: Step) -> list[Any]:
    return [step.number, step.epoch, [[(one.id, one.ids.tolist()) for one in row] for row in step.rows]]


WEIGHTED = {"sources": [{"uri": "a.jsonl", "weight": 3}, {"uri": "c.jsonl", "weight": 1, "limit": 3}]}


def options(folder: Path, which: str) -> dict[str, Any]:
    if which == "weighted":
        return {"sources": [{**one, "uri": str(folder / str(one["uri"]))} for one in WEIGHTED["sources"]]}
    return {"rows": {"streaming": False}, "packed": {}, "single": {"packing": "none"}}[which]


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 25), st.sampled_from(["packed", "single", "weighted", "rows"]))
def test_it_goes_on_bit_by_bit_from_any_position(folder: Path, taken: int, which: str) -> None:
    more = options(folder, which)
    whole, begun, resumed = (feed(folder, **more) for _ in range(3))
    expected = [flat(whole.take()) for _ in range(taken + 5)]
    assert [flat(begun.take()) for _ in range(taken)] == expected[:taken]
    resumed.go_to(json.loads(json.dumps(begun.position())))
    assert [flat(resumed.take()) for _ in range(5)] == expected[taken:]


def test_an_epoch_sees_each_row_once_and_the_next_another_order(folder: Path) -> None:
    stream = feed(folder, packing="none")
    ids = [one for _ in range(31) for one in stream.take().ids]
    assert len(set(ids[:31])) == 31
    assert set(ids[:31]) == set(ids[31:62])
    assert ids[:31] != ids[31:62]


def test_what_is_held_out_is_never_streamed(folder: Path) -> None:
    job = finetune_job(folder, streaming=True, shuffle_buffer=100, heldout_share=0.3, packing="none")
    state, tokenizer = StateConfig(dir=folder / ".llmops"), byte_tokenizer()
    prepared = prepare(job, tokenizer, state)
    stream = open_feed(prepared, job, tokenizer, state, rows_per_step=2)
    seen = {one for _ in range(40) for one in stream.take().ids}
    kept = {one.id for one in prepared.heldout_examples}
    assert kept
    assert not seen & kept
    assert len(seen | kept) == 31


def test_a_mixture_of_streams_keeps_its_shares(folder: Path) -> None:
    stream = feed(folder, packing="none", dedup="none", **options(folder, "weighted"))
    taken = [one for _ in range(40) for one in stream.take().ids]
    counts = sorted((taken.count(one) for one in set(taken)), reverse=True)
    assert sum(counts[:3]) == 20


def test_a_position_of_other_data_is_refused(folder: Path) -> None:
    position = feed(folder).position()
    with pytest.raises(ConflictError, match="other data"):
        feed(folder, packing="none").go_to({**position, "data": "x"})
    with pytest.raises(ConflictError, match="rows_per_step"):
        feed(folder).go_to({**position, "rows_per_step": 3})


def test_the_ledger_is_cut_to_its_checkpoint_and_tells_who_was_learned_when(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    for step in range(4):
        ledger.add(step, [f"{step}", "both:1"])
    ledger.close()
    with path.open("ab") as file:
        file.write(b'{"step": 4, "ids"')
    again = Ledger(path)
    again.cut(2)
    again.add(2, ["new"])
    again.close()
    assert list(read_ledger(path)) == [(0, ["0", "both:1"]), (1, ["1", "both:1"]), (2, ["new"])]
    assert learned_from(path, ["both", "3"]) == {"both": [0, 1], "3": []}
    short = Ledger(path)
    with pytest.raises(IntegrityError, match="ends with step 2"):
        short.cut(9)
    short.close()
