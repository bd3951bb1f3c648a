from __future__ import annotations

import asyncio
import os
import resource
import threading
from pathlib import Path
from typing import Any

import orjson
import pytest
from tests.support.records import FEEDBACK, LOG, log_row, thumb

from llmops.core.errors import StorageError, TooLargeError, UnavailableError, UserError
from llmops.core.frames import Frame, scan
from llmops.core.segments import backlog_bytes, open_segments
from llmops.core.spool import Spool, SpoolConfig


def records(folder: Path) -> list[dict[str, Any]]:
    with open_segments(folder) as segments:
        found = [one for segment in segments for one in scan(segment.read(0))]
    assert all(isinstance(one, Frame) or (one.at_end and one.blank) for one in found)
    return [orjson.loads(one.body) for one in found if isinstance(one, Frame)]


def test_what_is_appended_is_in_the_file_at_once(tmp_path: Path) -> None:
    row = thumb()
    with Spool(tmp_path) as spool:
        assert spool.append(FEEDBACK, row)

        assert records(tmp_path) == [row]
        assert (spool.appended, spool.current and spool.current.synced) == (1, 0)


def test_a_durable_append_is_synced_when_it_returns(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        spool.append(LOG, log_row())
        spool.append(FEEDBACK, thumb(), durable=True)

        file = spool.current
        assert file is not None
        assert file.synced == file.size == file.path.stat().st_size
        assert file.named


def test_many_writers_share_an_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, sync = threading.Event(), os.fdatasync

    def slow_sync(descriptor: int) -> None:
        gate.wait()
        sync(descriptor)

    monkeypatch.setattr(os, "fdatasync", slow_sync)
    with Spool(tmp_path) as spool:
        threads = [threading.Thread(target=spool.append, args=(FEEDBACK, thumb(), True)) for _ in range(12)]
        for thread in threads:
            thread.start()
        while spool.appended < 12:
            threading.Event().wait(0.001)
        assert all(thread.is_alive() for thread in threads)
        gate.set()
        for thread in threads:
            thread.join()

        assert spool.commits <= 3
    assert len(records(tmp_path)) == 12


def test_coroutines_share_an_fsync_too(tmp_path: Path) -> None:
    async def main(spool: Spool) -> None:
        await asyncio.gather(*(spool.append_durable(FEEDBACK, thumb()) for _ in range(50)))

    with Spool(tmp_path) as spool:
        asyncio.run(main(spool))

        assert spool.commits < 50
        assert spool.current is not None
        assert spool.current.synced == spool.current.size
    assert len(records(tmp_path)) == 50


def test_a_new_segment_is_begun_at_the_limit(tmp_path: Path) -> None:
    rows = [log_row(request_json="x" * 1000) for _ in range(20)]
    with Spool(tmp_path, SpoolConfig(segment_bytes=4096)) as spool:
        for place, row in enumerate(rows):
            spool.append(LOG, row, durable=place % 3 == 0)

    assert len(list(tmp_path.glob("*.spool"))) == 7
    assert all(path.stat().st_size <= 4096 for path in tmp_path.glob("*.spool"))
    assert records(tmp_path) == rows


def test_only_a_living_writer_holds_its_segment(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append(LOG, log_row())
    with open_segments(tmp_path) as (segment,):
        assert not segment.abandoned()
    spool.close()
    with open_segments(tmp_path) as (segment,):
        assert segment.abandoned()


def test_a_forked_child_writes_a_file_of_its_own(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        spool.append(FEEDBACK, thumb(rationale="parent"), durable=True)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                spool.append(FEEDBACK, thumb(rationale="child"), durable=True)
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        spool.append(FEEDBACK, thumb(rationale="parent again"), durable=True)

    assert len(list(tmp_path.glob("*.spool"))) == 2
    assert sorted(row["rationale"] for row in records(tmp_path)) == ["child", "parent", "parent again"]


def test_a_full_backlog_sheds_and_refuses_and_counts(tmp_path: Path) -> None:
    with Spool(tmp_path, SpoolConfig(backlog_bytes=3000)) as spool:
        kept = sum(spool.append(LOG, log_row(request_json="x" * 500)) for _ in range(10))
        with pytest.raises(UnavailableError, match="takes no more"):
            spool.append(FEEDBACK, thumb(rationale="x" * 2000), durable=True)

        assert 0 < kept < 10
        assert (spool.counters.shed, spool.counters.refused) == (10 - kept, 1)
        assert backlog_bytes(tmp_path) <= 3000

        with open_segments(tmp_path) as (segment,):
            segment.note_drained(segment.size_bytes())
        while not spool.append(FEEDBACK, thumb()):
            threading.Event().wait(0.02)


def test_records_of_one_table_are_kept_together_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = ([log_row(request_json="x" * 800) for _ in range(count)] for count in (3, 40))
    with Spool(tmp_path) as spool:
        for rows in (few, many, few) * 3:
            assert spool.append_all(LOG, rows)
        with monkeypatch.context() as patch:
            write = os.pwrite
            patch.setattr(os, "pwrite", lambda descriptor, data, offset: write(descriptor, data[:-1], offset))
            with pytest.raises(StorageError, match="No space left"):
                spool.append_all(LOG, many * 20)
        with pytest.raises(UserError, match="not JSON"):
            spool.append_all(LOG, [*few, {"request_json": object()}])
        assert spool.append_all(LOG, few)

        assert [row["invocation_id"] for row in records(tmp_path)] == [
            row["invocation_id"] for row in [*(few + many + few) * 3, *few]
        ]
        assert spool.appended == 7 * len(few) + 3 * len(many)


def test_a_record_that_did_not_fit_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [thumb(), thumb()]
    with Spool(tmp_path) as spool:
        spool.append(FEEDBACK, rows[0])
        with monkeypatch.context() as patch:
            write = os.pwrite
            patch.setattr(os, "pwrite", lambda descriptor, data, offset: write(descriptor, data[:99], offset))
            with pytest.raises(StorageError, match="No space left"):
                spool.append(FEEDBACK, thumb(), durable=True)
        spool.append(FEEDBACK, rows[1])

        assert records(tmp_path) == rows
        assert (spool.appended, spool.counters.failed) == (2, 1)


@pytest.mark.parametrize(("room", "body"), [(5_000, 500), (700_000, 50_000)])
def test_a_full_disk_is_said_and_nothing_before_is_lost(tmp_path: Path, room: int, body: int) -> None:
    """The file size limit of a child process stands in for the disk: write(2) first falls short, then fails."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with Spool(tmp_path) as spool:
                resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
                failed = 0
                for place in range(20):
                    try:
                        row = log_row(session_id=str(place), request_json="x" * body)
                        spool.append(LOG, row, durable=True)
                    except StorageError:
                        failed += 1
                code = 0 if 0 < failed < 20 and spool.appended == 20 - failed else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    found = [int(row["session_id"]) for row in records(tmp_path)]
    assert found == list(range(len(found)))
    assert found


def test_a_failed_fsync_is_said_and_its_file_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with Spool(tmp_path) as spool:
        spool.append(FEEDBACK, thumb(), durable=True)
        before = spool.current
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", broken)
            with pytest.raises(StorageError, match="could not be made durable"):
                spool.append(FEEDBACK, thumb(), durable=True)
        spool.append(FEEDBACK, thumb(), durable=True)

        assert spool.current is not None
        assert spool.current is not before
        assert spool.current.synced == spool.current.size


def test_an_unwritable_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with Spool(tmp_path / "file" / "spool") as spool, pytest.raises(StorageError, match="could not be written"):
        spool.append(FEEDBACK, thumb())


def test_long_bodies_are_cut_between_characters_with_a_code(tmp_path: Path) -> None:
    with Spool(tmp_path, SpoolConfig(body_bytes=100)) as spool:
        spool.append(LOG, log_row(request_json="é" * 60, response_json="x" * 100))
        spool.append(LOG, log_row(request_json="x", response_json={"text": "y" * 200}, logging_error_codes=["MINE"]))
        spool.append(LOG, log_row(request_json="a" + "é" * 60))

    first, second, third = records(tmp_path)
    assert (first["request_json"], first["response_json"]) == ("é" * 50, "x" * 100)
    assert first["logging_error_codes"] == ["MAX_REQUEST_SIZE_EXCEEDED"]
    assert len(second["response_json"]) == 100
    assert second["logging_error_codes"] == ["MINE", "MAX_RESPONSE_SIZE_EXCEEDED"]
    assert third["request_json"] == "a" + "é" * 49
    assert spool.counters.cut_bodies == 3


def test_secrets_and_personal_data_never_reach_the_disk(tmp_path: Path) -> None:
    with Spool(tmp_path, SpoolConfig(personal_data={"email": r"\S+@\S+"})) as spool:
        spool.append(LOG, log_row(request_json='{"content": "I am ann@example.org, Bearer abcdefgh12345678"}'))

    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"ann@" not in stored
    assert b"abcdefgh12345678" not in stored
    assert records(tmp_path)[0]["request_json"] == '{"content": "I am [email] Bearer [redacted]"}'


def test_half_an_emoji_is_mended_and_other_nonsense_refused(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        spool.append(FEEDBACK, thumb(rationale="cut \ud83d", source_id="\ud83d\ude00"))
        with pytest.raises(UserError, match="not JSON"):
            spool.append(FEEDBACK, thumb(rationale=object()))
        with pytest.raises(TooLargeError):
            spool.append(FEEDBACK, thumb(rationale="x" * (65 * 1024 * 1024)))

    (row,) = records(tmp_path)
    assert (row["rationale"], row["source_id"]) == ("cut �", "😀")


def test_an_append_after_close_begins_anew(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append(FEEDBACK, thumb(), durable=True)
    spool.close()
    spool.append(FEEDBACK, thumb(), durable=True)
    spool.close()

    assert len(records(tmp_path)) == 2


def test_prepared_room_is_no_record_and_no_damage(tmp_path: Path) -> None:
    rows = [log_row(session_id=str(place), request_json="x" * 1000) for place in range(400)]
    spool = Spool(tmp_path)
    for row in rows:
        spool.append(LOG, row)
    spool.append(FEEDBACK, thumb(), durable=True)
    file = spool.current
    assert file is not None
    assert file.path.stat().st_size > file.size

    assert records(tmp_path)[:-1] == rows
    spool.close()
    assert file.path.stat().st_size == file.size
    assert len(records(tmp_path)) == 401
