from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmops.core.frames import HEADER, MAGIC, Damage, Frame, Framer, scan

bodies = st.lists(st.binary(max_size=60), max_size=12)


def frames(data: bytes) -> list[bytes]:
    return [found.body for found in scan(data) if isinstance(found, Frame)]


def written(contents: list[bytes]) -> list[bytes]:
    framer = Framer("dev.serving.feedback")
    return [framer.head(body) + body for body in contents]


@given(bodies)
def test_what_is_written_is_read(contents: list[bytes]) -> None:
    data = b"".join(written(contents))

    found = list(scan(data, base=1000))

    assert [one.body for one in found if isinstance(one, Frame)] == contents
    assert len(found) == len(contents)
    assert all(isinstance(one, Frame) and one.table == "dev.serving.feedback" for one in found)
    if found:
        assert (found[0].start, found[-1].end) == (1000, 1000 + len(data))


@given(bodies, st.integers(min_value=0))
def test_a_cut_leaves_the_records_before_it(contents: list[bytes], cut: int) -> None:
    pieces = written(contents)
    data = b"".join(pieces)
    cut %= len(data) + 1

    found = list(scan(data[:cut]))

    whole, end = 0, 0
    while whole < len(pieces) and end + len(pieces[whole]) <= cut:
        end += len(pieces[whole])
        whole += 1
    assert frames(data[:cut]) == contents[:whole]
    damage = [one for one in found if isinstance(one, Damage)]
    assert damage == ([Damage(end, cut, at_end=True, blank=False)] if end < cut else [])


@given(bodies, st.data())
def test_damage_costs_the_records_it_touches_and_no_other(contents: list[bytes], data: st.DataObject) -> None:
    pieces = written(contents)
    whole = bytearray(b"".join(pieces))
    starts = [sum(map(len, pieces[:place])) for place in range(len(pieces) + 1)]
    flips = data.draw(st.sets(st.integers(0, len(whole) - 1), max_size=4)) if whole else set()
    for flip in flips:
        whole[flip] ^= data.draw(st.integers(1, 255))

    untouched = [
        body for place, body in enumerate(contents) if not any(starts[place] <= f < starts[place + 1] for f in flips)
    ]

    assert frames(bytes(whole)) == untouched


@given(st.binary(max_size=300))
def test_any_bytes_can_be_scanned(garbage: bytes) -> None:
    covered = sum(one.end - one.start for one in scan(garbage))

    assert covered == len(garbage)


@given(st.binary(max_size=40), bodies)
def test_reading_goes_on_behind_a_torn_record(garbage: bytes, contents: list[bytes]) -> None:
    torn = written([b"x" * 50])[0][:30]

    assert frames(torn + garbage + b"".join(written(contents))) == contents


def test_a_hole_of_zeros_is_skipped() -> None:
    first, second = written([b"1", b"2"])

    found = list(scan(first + bytes(4096) + second + bytes(100)))

    assert [type(one) for one in found] == [Frame, Damage, Frame, Damage]
    assert [(one.at_end, one.blank) for one in found if isinstance(one, Damage)] == [(False, True), (True, True)]


def test_an_absurd_length_is_no_reason_to_read_on() -> None:
    header = HEADER.pack(MAGIC, 0xFFFFFFFF, 0)

    assert frames(header + written([b"good"])[0]) == [b"good"]
