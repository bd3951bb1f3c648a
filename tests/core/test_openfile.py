from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmops.core import openfile
from llmops.core.frames import Damage, Frame, Framer, scan
from llmops.core.openfile import FIRST_ROOM_AT, ROOM_BYTES, OpenFile
from llmops.core.segments import create_segment, open_segments

FRAMER = Framer("dev.serving.inference_log")
LIMIT = 16 * 1024 * 1024


@pytest.fixture(params=["mapped", "written"])
def file(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenFile]:
    """A new file on a file system that reserves blocks, and on one that does not."""
    monkeypatch.setattr(openfile, "_filesystem", lambda _: "ext4" if request.param == "mapped" else "btrfs")
    opened = OpenFile(*create_segment(tmp_path), limit=LIMIT)
    yield opened
    opened.close()


def put(file: OpenFile, body: bytes, durable: bool = False) -> None:
    file.append(FRAMER.head(body) + body, durable=durable)


def bodies(file: OpenFile) -> list[bytes]:
    found = list(scan(file.path.read_bytes()))
    assert all(isinstance(one, Frame) or (one.at_end and one.blank) for one in found)
    return [one.body for one in found if isinstance(one, Frame)]


def is_mapped(file: OpenFile) -> bool:
    maps = Path("/proc/self/maps").read_text()
    return str(file.path) in maps


def test_records_of_all_sizes_are_read_as_they_were_appended(file: OpenFile) -> None:
    seed = random.randrange(2**32)
    dice = random.Random(seed)
    written = []
    for _ in range(400):
        written.append(dice.randbytes(dice.choice((0, 10, 2_400, 2_400, 2_400, 40_000, 600_000)) // dice.randint(1, 3)))
        if file.size + len(written[-1]) + 100 > LIMIT:
            written.pop()
            break
        put(file, written[-1], durable=dice.random() < 0.02)
    assert bodies(file) == written, seed
    assert file.path.stat().st_size <= file.size + ROOM_BYTES


def test_room_is_made_for_those_who_write_much_and_cut_off_at_the_end(file: OpenFile) -> None:
    put(file, b"x" * 1000)
    assert file.path.stat().st_size == file.size
    assert not is_mapped(file)

    for _ in range(FIRST_ROOM_AT // 1000):
        put(file, b"x" * 1000)
    reserving = openfile._filesystem(0) == "ext4"
    assert is_mapped(file) == reserving
    assert file.path.stat().st_size == (ROOM_BYTES if reserving else file.size)

    descriptor = os.dup(file.descriptor)
    file.close()
    assert not is_mapped(file)
    assert file.path.stat().st_size == file.size
    file.descriptor = descriptor  # for the fixture


def test_what_is_fsynced_is_written_and_the_next_room_mapped_again(file: OpenFile) -> None:
    reserving = openfile._filesystem(0) == "ext4"
    written = [b"x" * 1000 for _ in range(200)]
    for body in written:
        put(file, body)
    put(file, b"thumb", durable=True)
    assert not is_mapped(file)
    assert file.path.stat().st_size == (ROOM_BYTES if reserving else file.size)
    for body in written:
        put(file, body)
    assert not is_mapped(file)
    while file.size < ROOM_BYTES:
        put(file, b"y" * 1000)
    assert is_mapped(file) == reserving
    assert bodies(file)[:401] == [*written, b"thumb", *written]


def test_a_record_that_did_not_fit_leaves_the_room_usable(file: OpenFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record larger than any room is written; what stood mapped before its piece is cut off goes with it."""
    written = [b"x" * 1000 for _ in range(200)]
    for body in written:
        put(file, body)
    with monkeypatch.context() as patch:
        write = os.pwrite
        patch.setattr(os, "pwrite", lambda descriptor, data, offset: write(descriptor, data[:99], offset))
        with pytest.raises(OSError, match="No space left"):
            put(file, b"y" * 2 * ROOM_BYTES)
    assert any(isinstance(one, Damage) and not one.blank for one in scan(file.path.read_bytes()))

    assert file.take_back()
    for body in written:
        put(file, body)
    assert bodies(file) == written * 2


def test_a_disk_without_room_for_rooms_is_written_to(file: OpenFile, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int, _start: int, _size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    for place in range(400):
        put(file, b"%d" % place * 200)
    assert not is_mapped(file)
    assert len(bodies(file)) == 400


def test_what_is_forked_keeps_no_hold_of_the_mapping(file: OpenFile) -> None:
    for _ in range(2 * FIRST_ROOM_AT // 1000):
        put(file, b"x" * 1000)
    asked, answer = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        file.let_go()
        os.write(answer[1], b".")
        os.read(asked[0], 1)
        os._exit(0)
    os.read(answer[0], 1)
    descriptor = os.open(os.devnull, os.O_RDWR)
    file.close()
    with open_segments(file.path.parent) as (segment,):
        assert segment.abandoned()
    os.write(asked[1], b".")
    assert os.waitpid(child, 0)[1] == 0
    for end in (*asked, *answer):
        os.close(end)
    file.descriptor = descriptor  # for the fixture


def test_a_file_system_is_known_by_its_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
        "31 22 0:27 /sub /data rw,relatime shared:1 - btrfs /dev/vdb rw\n"
    )
    monkeypatch.setattr(openfile, "_MOUNTS", mounts)
    for number, name in ((os.makedev(254, 0), "ext4"), (os.makedev(0, 27), "btrfs"), (os.makedev(9, 9), "")):
        assert openfile._filesystem.__wrapped__(number) == name
    monkeypatch.setattr(openfile, "_MOUNTS", tmp_path / "none")
    assert openfile._filesystem.__wrapped__(0) == ""
