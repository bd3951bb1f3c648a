"""Vectors on disk: what was committed stays, what was torn is cut off."""

from __future__ import annotations

import os

import numpy as np
import pytest

from llmops.core.errors import IntegrityError
from llmops.rag.arena import Arena, checksums, map_slots


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 6)).astype(np.float32)


def test_rows_come_back_as_they_were_written(tmp_path):
    arena = Arena(tmp_path / "v.f32", 6, 0)
    assert [arena.append(rows(3)), arena.append(rows(2, 1)), arena.append(rows(0))] == [0, 3, 5]
    assert np.array_equal(arena.read(), np.vstack([rows(3), rows(2, 1)]))
    arena.close()
    assert np.array_equal(map_slots(tmp_path / "v.f32", 6, 3), rows(3))


@pytest.mark.parametrize("torn", [1, 23, 24, 25, 100])
def test_a_torn_end_is_cut_off_at_the_committed_slots(tmp_path, torn):
    path = tmp_path / "v.f32"
    arena = Arena(path, 6, 0)
    arena.append(rows(3))
    arena.close()
    with path.open("ab") as file:
        file.write(b"x" * torn)
    arena = Arena(path, 6, 3)
    assert path.stat().st_size == 3 * 24
    assert arena.append(rows(2, 1)) == 3
    assert np.array_equal(arena.read(), np.vstack([rows(3), rows(2, 1)]))
    arena.close()


def test_a_file_shorter_than_committed_is_refused(tmp_path):
    path = tmp_path / "v.f32"
    arena = Arena(path, 6, 0)
    arena.append(rows(3))
    arena.close()
    os.truncate(path, 50)
    with pytest.raises(IntegrityError, match="gone or too short"):
        Arena(path, 6, 3)
    with pytest.raises(IntegrityError):
        map_slots(path, 6, 3)
    with pytest.raises(IntegrityError):
        map_slots(tmp_path / "none", 6, 3)


def test_another_width_is_refused(tmp_path):
    arena = Arena(tmp_path / "v.f32", 5, 0)
    with pytest.raises(ValueError, match="5 dimensions"):
        arena.append(rows(1))
    arena.close()


def test_checksums_tell_rows_apart():
    values = rows(3)
    sums = checksums(values)
    values[1, 2] = np.nextafter(values[1, 2], np.float32(9))
    assert [a == b for a, b in zip(sums, checksums(values), strict=True)] == [True, False, True]
