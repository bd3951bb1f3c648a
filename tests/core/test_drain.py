from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from tests.support.records import FEEDBACK, LOG, log_row, thumb

from llmops.core.drain import DrainConfig, Drainer
from llmops.core.errors import ConflictError, StorageError
from llmops.core.lake import Lake
from llmops.core.segments import backlog_bytes, open_segments
from llmops.core.spool import Spool, SpoolConfig
from llmops.core.state import StateConfig


@pytest.fixture
def state(tmp_path: Path) -> StateConfig:
    return StateConfig(dir=tmp_path / "state")


@pytest.fixture
def spool(state: StateConfig) -> Iterator[Spool]:
    with Spool(state.spool, SpoolConfig(segment_bytes=4096)) as opened:
        yield opened


def segments(state: StateConfig) -> list[Path]:
    return sorted(state.spool.glob("*.spool"))


def test_records_move_and_their_segments_go_once_the_writer_has_left(state: StateConfig, spool: Spool) -> None:
    for _ in range(20):
        spool.append(LOG, log_row(request_json="x" * 500))
    spool.append(FEEDBACK, thumb())
    drainer = Drainer(state)

    assert drainer.drain_once() == 21
    assert len(segments(state)) == 1
    assert backlog_bytes(state.spool) == 0
    assert (len(drainer.lake.rows(LOG)), len(drainer.lake.rows(FEEDBACK))) == (20, 1)
    assert drainer.counters.commits == 2

    spool.append(FEEDBACK, thumb())
    assert drainer.drain_once() == 1
    assert drainer.drain_once() == 0
    spool.close()
    assert drainer.drain_once() == 0
    assert segments(state) == []
    assert list(state.spool.iterdir()) == []
    assert len(drainer.lake.rows(FEEDBACK, include_pending=False)) == 2


def test_a_lost_note_doubles_nothing(state: StateConfig, spool: Spool) -> None:
    spool.append(FEEDBACK, thumb())
    Drainer(state).drain_once()
    for note in state.spool.glob("*.drained"):
        note.write_text("12")
    assert len(Lake(state).rows(FEEDBACK)) == 1
    spool.append(FEEDBACK, thumb())

    assert Drainer(state).drain_once() == 1
    assert Lake(state).query(f"SELECT count(*) AS n FROM {FEEDBACK}") == [{"n": 2}]


def test_what_fits_no_table_is_set_aside_once_and_blocks_nothing(state: StateConfig, spool: Spool) -> None:
    spool.append(FEEDBACK, thumb())
    spool.append(FEEDBACK, thumb(typo=1))
    spool.append("dev.serving.nothing", {"a": 1})
    spool.append("nonsense", {"a": 2})
    spool.append("dev.serving.nothing", {"a": 3})
    spool.append(FEEDBACK, thumb())
    drainer = Drainer(state)

    assert drainer.drain_once() == 2
    assert drainer.counters.dead_letters == 4
    for note in state.spool.glob("*.drained"):
        note.unlink()
    spool.close()
    again = Drainer(state)
    assert again.drain_once() == 0
    assert again.counters.dead_letters == 0

    (letters,) = (state.root / "dead-letters").glob("*.jsonl")
    lines = [orjson.loads(line) for line in letters.read_bytes().splitlines() if line]
    assert sorted(line["table"] for line in lines) == [
        FEEDBACK,
        "dev.serving.nothing",
        "dev.serving.nothing",
        "nonsense",
    ]
    assert {line["reason"] for line in lines} >= {"unknown column `typo`", "no table is described as `nothing`"}
    assert {orjson.loads(line["record"]).get("a") for line in lines} == {None, 1, 2, 3}
    assert segments(state) == []


def test_a_torn_tail_waits_for_its_writer_and_is_skipped_after_its_death(state: StateConfig, spool: Spool) -> None:
    spool.append(FEEDBACK, thumb())
    spool.append(FEEDBACK, thumb())
    (path,) = segments(state)
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    drainer = Drainer(state)

    assert drainer.drain_once() == 1
    assert drainer.counters.torn == 0
    path.write_bytes(whole)
    assert drainer.drain_once() == 1

    path.write_bytes(whole + whole[:50])
    spool.close()
    assert drainer.drain_once() == 0
    assert (drainer.counters.torn, drainer.counters.torn_bytes) == (1, 50)
    assert segments(state) == []
    assert len(drainer.lake.rows(FEEDBACK)) == 2


def test_a_hole_in_a_living_segment_is_waited_for(state: StateConfig, spool: Spool) -> None:
    """A reader that is held up sees a record that was written while it read, and zeros where the one before belongs."""
    rows = [thumb() for _ in range(3)]
    ends = []
    for row in rows:
        spool.append(FEEDBACK, row)
        ends.append(spool.current.size if spool.current else 0)
    (path,) = segments(state)
    whole = path.read_bytes()
    path.write_bytes(whole[: ends[0]] + bytes(ends[1] - ends[0]) + whole[ends[1] :])
    drainer = Drainer(state)

    assert drainer.drain_once() == 1
    path.write_bytes(whole)
    assert drainer.drain_once() == 2
    assert drainer.counters.torn == 0
    stored = drainer.lake.rows(FEEDBACK, include_pending=False)
    assert {row["feedback_id"] for row in stored} == {row["feedback_id"] for row in rows}


def test_records_behind_damage_are_drained(state: StateConfig, spool: Spool) -> None:
    rows = [thumb() for _ in range(3)]
    for row in rows:
        spool.append(FEEDBACK, row)
    (path,) = segments(state)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    spool.close()
    drainer = Drainer(state)

    assert drainer.drain_once() == 2
    assert drainer.counters.torn == 1
    assert {row["feedback_id"] for row in drainer.lake.rows(FEEDBACK)} == {
        rows[0]["feedback_id"],
        rows[2]["feedback_id"],
    }


def test_one_drainer_at_a_time_and_the_next_takes_over(state: StateConfig, spool: Spool) -> None:
    first, second = (Drainer(state, DrainConfig(interval_s=0.02)) for _ in range(2))
    first.start()
    _until(lambda: first.counters.rounds > 0)
    with pytest.raises(ConflictError, match="already draining"):
        second.drain_once()
    second.start()
    spool.append(FEEDBACK, thumb())
    _until(lambda: first.counters.records == 1)
    assert second.counters.rounds == 0

    first.stop()
    spool.append(FEEDBACK, thumb())
    _until(lambda: second.counters.records == 1)
    second.stop()
    assert len(first.lake.rows(FEEDBACK, include_pending=False)) == 2


def test_stopping_drains_what_is_there(state: StateConfig, spool: Spool) -> None:
    drainer = Drainer(state, DrainConfig(interval_s=600))
    drainer.start()
    _until(lambda: drainer.counters.rounds > 0)
    spool.append(FEEDBACK, thumb())
    spool.close()
    drainer.stop()

    assert segments(state) == []
    assert len(drainer.lake.rows(FEEDBACK)) == 1


def test_waking_begins_a_round_at_once(state: StateConfig, spool: Spool) -> None:
    with Drainer(state, DrainConfig(interval_s=600)) as drainer:
        _until(lambda: drainer.counters.rounds > 0)
        spool.append(FEEDBACK, thumb())
        drainer.wake()
        _until(lambda: drainer.counters.records == 1)
    assert len(Lake(state).rows(FEEDBACK)) == 1


def test_a_table_that_fails_keeps_its_records_and_holds_up_no_other(state: StateConfig, spool: Spool) -> None:
    broken = Path(state.lake) / "dev" / "serving" / "feedback"
    broken.parent.mkdir(parents=True)
    broken.write_text("not a folder")
    spool.append(FEEDBACK, thumb())
    for _ in range(20):
        spool.append(LOG, log_row(request_json="x" * 500))
    drainer = Drainer(state, DrainConfig(interval_s=0.02, batch_bytes=4096))

    with pytest.raises(StorageError):
        drainer.drain_once()
    assert len(drainer.lake.rows(LOG)) == 20
    drainer.start()
    _until(lambda: drainer.counters.failures > 0)
    assert "cannot be read or written" in drainer.counters.last_error

    broken.unlink()
    spool.close()
    _until(lambda: drainer.counters.records == 21)
    drainer.stop()
    assert segments(state) == []
    assert len(drainer.lake.rows(FEEDBACK, include_pending=False)) == 1


def test_a_full_disk_loses_nothing(tmp_path: Path, spool: Spool, state: StateConfig) -> None:
    """The lake lies on a tmpfs of 1 MB, too small for the records; a larger one takes them."""
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        full = state.model_copy(update={"lake_url": str(small / "lake")})
        # noise, so that compression does not make it fit
        rows = [log_row(request_json=random.randbytes(20_000).hex()) for _ in range(100)]
        for row in rows:
            spool.append(LOG, row)
        with pytest.raises(StorageError, match="cannot be read or written"):
            Drainer(full).drain_once()
        assert {row["invocation_id"] for row in Lake(full).rows(LOG)} == {row["invocation_id"] for row in rows}
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        assert Drainer(full).drain_once() == 100
        assert Lake(full).query(f"SELECT count(*) AS n, count(DISTINCT invocation_id) AS ids FROM {LOG}") == [
            {"n": 100, "ids": 100}
        ]
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_maintenance_covers_every_table(state: StateConfig, spool: Spool) -> None:
    drainer = Drainer(state)
    for _ in range(3):
        spool.append(FEEDBACK, thumb())
        spool.append(LOG, log_row())
        drainer.drain_once()
    drainer.maintain()

    for table in ("feedback", "inference_log"):
        folder = Path(state.lake) / "dev" / "serving" / table
        assert list(folder.glob("_delta_log/*.checkpoint.parquet"))
    assert drainer.counters.maintenances == 1


def test_the_note_of_a_segment_survives_nonsense(state: StateConfig, spool: Spool) -> None:
    spool.append(FEEDBACK, thumb())
    with open_segments(state.spool) as (segment,):
        for text, offset in (("7 7", 7), ("7 8", 0), ("", 0), ("x x", 0), ("7", 0)):
            segment._note.write_text(text)
            assert segment.drained() == offset


def _until(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)
