"""A refresh killed at one step after another, then edits, then a refresh: the index equals a scratch build."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest
from tests.support.indexes import Workplace, contents
from tests.support.zygote import Zygote

BEFORE = {f"d{n}.md": f"# Title {n}\n\nalpha {n} budget river" for n in range(4)}
MEANWHILE = BEFORE | {"d0.md": "# Title 0\n\nedited committee", "new/d9.md": "# Nine\n\nstone water"}
AFTER = {name: BEFORE[name] for name in ("d0.md", "d3.md")} | {"moved.md": BEFORE["d1.md"], "d2.md": "# Two\n\nagain"}
EVERY = 5


@pytest.fixture
def zygote():
    process = Zygote()
    yield process
    process.close()


def put(place: Workplace, documents: dict[str, str]) -> None:
    """Make the folder hold just these."""
    for path in [path for path in place.docs.rglob("*.md") if str(path.relative_to(place.docs)) not in documents]:
        path.unlink()
    for name, text in documents.items():
        place.write(name, text)


@pytest.mark.kill
def test_a_kill_at_any_step_then_edits_then_a_refresh_equal_a_scratch_build(tmp_path: Path, zygote: Zygote) -> None:
    place = Workplace.at(tmp_path)
    put(place, AFTER)
    scratch = place.scratch(tmp_path / "scratch")
    expected = contents(scratch.state, scratch.refresh().head.generation)
    killed = 0
    for step in count(1, EVERY):
        put(place, BEFORE)
        place.refresh()
        put(place, MEANWHILE)
        if zygote.run(**place.job, kill_at=step)["status"] == 0:
            break
        killed += 1
        put(place, AFTER)
        assert contents(place.state, place.refresh().head.generation) == expected, f"after a kill at step {step}"
    assert killed * EVERY > 30
