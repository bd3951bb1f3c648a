"""From files to a data set: sifted, counted, kept once; what is wrong is named with its place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.tokenizers import byte_tokenizer, chat, finetune_job, write_lines

from llmops.core.errors import ConflictError, GateFailedError, NotFoundError, StorageError, UserError
from llmops.core.state import StateConfig
from llmops.finetune.data import prepare as preparing
from llmops.finetune.data.dataset import Dataset
from llmops.finetune.data.prepare import prepare
from llmops.finetune.data.sources import open_source, read, require_unchanged
from llmops.finetune.data.words import question, questions

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"


@pytest.fixture
def state(tmp_path: Path) -> StateConfig:
    return StateConfig(dir=tmp_path / "state")


def made(path: Path, state: StateConfig, rows: list[dict[str, Any]], **data: Any) -> Dataset:
    file = write_lines(path / "rows.jsonl", rows)
    return prepare(finetune_job(file, **data), byte_tokenizer(), state)


def numbered(count: int) -> list[dict[str, Any]]:
    return [chat(f"number {n}", f"it is {n}") for n in range(count)]


def test_the_same_data_is_prepared_once_and_read_back_equal(
    tmp_path: Path, state: StateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = made(tmp_path, state, numbered(30), heldout_share=0.2)
    monkeypatch.setattr(preparing, "_build", None)
    again = made(tmp_path, state, numbered(30), heldout_share=0.2)
    assert again.as_json() == first.as_json()
    assert list(again.rows) == list(first.rows)
    total = again.statistics.total
    assert total.read == 30 == total.examples + len(again.heldout_examples)
    assert total.tokens == sum(len(row.ids) for row in again.rows)
    assert total.supervised_tokens == sum(sum(row.supervised) for row in again.rows)


def test_no_question_stands_on_both_sides_however_data_grows(tmp_path: Path, state: StateConfig) -> None:
    rows = [chat(f"Number {n // 2}?", f"{n}") for n in range(100)]
    few, many = (made(tmp_path, state, rows[:size], heldout_share=0.3) for size in (60, 100))
    for one in (few, many):
        assert not {question(x) for x in one.examples} & {question(x) for x in one.heldout_examples}
    assert {one.id for one in few.heldout_examples} <= {one.id for one in many.heldout_examples}
    assert 15 <= len(many.heldout_examples) <= 45


def test_a_conversation_that_goes_on_is_on_the_side_of_the_one_that_it_begins_with(
    tmp_path: Path, state: StateConfig
) -> None:
    turns = [chat(f"number {n}", f"it is {n}")["messages"] for n in range(40)]
    rows = [{"messages": [*one, *(chat("and then", "the next")["messages"] if more else [])]}
            for one in turns for more in (False, True)]  # fmt: skip
    found = made(tmp_path, state, rows, heldout_share=0.4)
    learned = {answered for one in found.examples for answered in questions(one)}
    assert found.heldout_examples
    assert not learned & {asked for one in found.heldout_examples for asked in questions(one)}


@pytest.mark.parametrize("spelled", ["WHAT is  asked", "\uff37hat is asked?", "Wh\u200bat is a\u00adsked?"])
@pytest.mark.parametrize("more", [False, True])
@pytest.mark.parametrize("part", ["contamination", "heldout"])
def test_what_is_asked_otherwise_spelled_or_first_of_several_is_the_same(
    tmp_path: Path, state: StateConfig, spelled: str, part: str, *, more: bool
) -> None:
    apart = write_lines(tmp_path / "apart.jsonl", [chat("What is asked?", "this")])
    turns = [*chat(spelled, "this")["messages"], *(chat("thanks", "welcome")["messages"] if more else [])]
    section: dict[str, Any] = {part: [{"uri": str(apart)}], "on_contamination": "drop"}
    found = made(tmp_path, state, [*numbered(5), {"messages": turns}], **section)
    assert found.statistics.total.contaminated == 1


def test_duplicates_and_near_ones_are_left_out_and_named(tmp_path: Path, state: StateConfig) -> None:
    rows = [
        {"text": f"{LONG} {LONG} a"},
        {"text": f"{LONG} {LONG} b"},
        {"text": "quite another"},
        {"text": "quite another"},
    ]
    more = {"dedup": "near", "near_threshold": 0.8, "max_length": 512}
    found = made(tmp_path, state, rows, **more)
    assert (found.statistics.total.duplicates, found.statistics.total.near_duplicates) == (1, 1)
    assert "rows.jsonl:4 equals" in found.statistics.reports["duplicates"][0]
    assert "nearly equals" in found.statistics.reports["near_duplicates"][0]
    assert len(found.examples) == 2
    assert len(made(tmp_path, state, rows, dedup="none", max_length=512).examples) == 4


@pytest.mark.parametrize("learned", [f"so {LONG} it goes", "What is asked?"])
def test_a_row_of_an_evaluation_set_is_refused_and_both_are_named(
    tmp_path: Path, state: StateConfig, learned: str
) -> None:
    asked = write_lines(
        tmp_path / "exam.jsonl", [{"question": "what is asked", "answer": "x"}, {"text": f"If {LONG}."}]
    )
    rows = [{"text": learned}, {"text": "harmless"}]
    more: dict[str, Any] = {"contamination": [{"uri": str(asked)}], "max_length": 256}
    found = made(tmp_path, state, rows, **more)
    with pytest.raises(GateFailedError, match="evaluation set") as caught:
        found.feed(finetune_job("x"), 1)
    assert "exam.jsonl" in caught.value.what
    assert "rows.jsonl:1" in str(caught.value.where)
    dropped = made(tmp_path, state, rows, on_contamination="drop", **more)
    assert [one.where.rpartition(":")[2] for one in dropped.examples] == ["2"]
    assert dropped.problems == ()


def test_long_rows_are_refused_dropped_or_split(tmp_path: Path, state: StateConfig) -> None:
    rows = [{"text": "ab " * 100}, {"text": "short"}]
    refused = made(tmp_path, state, rows)
    with pytest.raises(GateFailedError, match=r"1 examples are longer than data\.max_length") as caught:
        refused.feed(finetune_job("x"), 1)
    assert "drop or split" in str(caught.value.hint)
    dropped = made(tmp_path, state, rows, on_overlong="drop")
    assert (dropped.statistics.total.overlong, len(dropped.rows)) == (1, 1)
    split = made(tmp_path, state, rows, on_overlong="split")
    parts = [row for row in split.rows if ":" in row.id]
    assert [len(row.ids) for row in parts[:-1]] == [64] * (len(parts) - 1)
    assert byte_tokenizer().decode([one for row in parts for one in row.ids]) == "ab " * 100 + "<|im_end|>"


def test_a_bad_row_is_named_or_skipped_and_counted(tmp_path: Path, state: StateConfig) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "a"}\n\n{"text": \n{"txt": "b"}\n["c"]\n{"text": "d"}\n', encoding="utf-8")
    with pytest.raises(UserError, match="no JSON") as caught:
        prepare(finetune_job(file), byte_tokenizer(), state)
    assert caught.value.where == f"{file}:3"
    found = prepare(finetune_job(file, on_bad="skip"), byte_tokenizer(), state)
    assert (found.statistics.total.read, found.statistics.total.bad, len(found.rows)) == (5, 3, 2)


def test_rows_of_which_nothing_is_learned_and_an_empty_file_are_refused(tmp_path: Path, state: StateConfig) -> None:
    silent = made(tmp_path, state, [{"messages": [{"role": "user", "content": "q"}]}, chat("a", "b")])
    with pytest.raises(GateFailedError, match="in 1 of 2 rows no token is learned"):
        silent.feed(finetune_job("x"), 1)
    empty = made(tmp_path, state, [])
    with pytest.raises(GateFailedError, match="no row is left"):
        empty.feed(finetune_job("x"), 1)


def test_a_missing_file_is_named_with_the_nearest(tmp_path: Path, state: StateConfig) -> None:
    write_lines(tmp_path / "train.jsonl", [])
    with pytest.raises(NotFoundError) as caught:
        prepare(finetune_job(tmp_path / "trian.jsonl"), byte_tokenizer(), state)
    assert caught.value.hint == "did you mean `train.jsonl`?"


def test_a_file_that_changed_under_a_run_is_named(tmp_path: Path, state: StateConfig) -> None:
    before = made(tmp_path, state, numbered(3)).sources
    now = made(tmp_path, state, numbered(4)).sources
    require_unchanged(list(before), list(before))
    with pytest.raises(ConflictError, match=r"rows\.jsonl has other contents"):
        require_unchanged(list(before), list(now))


def test_files_of_every_kind_give_the_same_rows(tmp_path: Path, state: StateConfig) -> None:
    import json

    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"prompt": f"p{n}", "completion": f"c {n}"} for n in range(5)]
    write_lines(tmp_path / "a.jsonl", rows)
    (tmp_path / "b.json").write_text(json.dumps({"data": rows}), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet", row_group_size=2)
    (tmp_path / "d.csv").write_text(
        "prompt,completion\n" + "".join(f"p{n},c {n}\n" for n in range(5)), encoding="utf-8"
    )
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    for name in ("a.jsonl", "b.json", "c.parquet", "d.csv", "hf:saved"):
        source = finetune_job(name).data.sources[0]
        assert [row for row, _ in read(source, state, tmp_path)] == rows
        assert [row for row, _ in open_source(source, state, tmp_path).rows(0, 3)] == rows[3:]


def test_a_kill_leaves_nothing_that_looks_like_a_data_set(tmp_path: Path, state: StateConfig) -> None:
    write_lines(tmp_path / "rows.jsonl", numbered(40))
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        "from tests.support.tokenizers import *; from llmops.core.state import StateConfig\n"
        "from llmops.finetune.data import prepare as p\n"
        "p._finish = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
        "p.prepare(finetune_job(sys.argv[1]), byte_tokenizer(), StateConfig(dir=Path(sys.argv[2])))\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "rows.jsonl"), str(state.dir)]
    killed = subprocess.run(command, check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert killed.returncode == -signal.SIGKILL
    assert list((state.cache / "finetune").glob("*.tmp"))
    found = made(tmp_path, state, numbered(40))
    assert len(found.rows) == 40
    assert not list((state.cache / "finetune").glob("*.tmp"))


def test_a_full_disk_is_said_and_nothing_is_left(
    tmp_path: Path, state: StateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("llmops.finetune.data.rows.os.fsync", full)
        with pytest.raises(StorageError, match="No space left"):
            made(tmp_path, state, numbered(3))
    assert [one.suffix for one in (state.cache / "finetune").iterdir()] == [".lock"]
    assert len(made(tmp_path, state, numbered(3)).rows) == 3
