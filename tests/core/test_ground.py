"""Names, ids, assignment, errors and files: the small things everything else counts on."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.core.assign import assign, bucket
from llmops.core.chain import Cancelled, CancelToken
from llmops.core.errors import ConfigError, ConflictError, LlmopsError, NotFoundError, UserError, did_you_mean, render
from llmops.core.files import exclusive_lock, sha256_of, write_atomic
from llmops.core.identity import EVERYONE, LOCAL, Principal
from llmops.core.ids import digest, id_time, new_id
from llmops.core.names import Name, Ref, current_catalog, working_in


def test_names_and_references_round_trip() -> None:
    assert str(Name.parse("dev.docs.chat")) == "dev.docs.chat"
    assert Ref.parse("dev.docs.chat/3") == Ref(Name("dev", "docs", "chat"), version=3)
    assert Ref.parse("dev.docs.chat@challenger").alias == "challenger"
    assert str(Ref.parse("dev.docs.chat")) == "dev.docs.chat@champion"


@pytest.mark.parametrize(
    "text", ["chat", "a.B", "a.b.c.d", "Dev.docs.chat", "a..c", "a.b.c/x", "a.b.c/0", "a.b.c@!", "../a.b.c"]
)
def test_wrong_names_are_refused(text: str) -> None:
    with pytest.raises(UserError):
        Ref.parse(text)


def test_a_two_level_name_lies_in_the_catalog_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLMOPS_ENV", raising=False)
    assert str(Ref.parse("docs.chat/3")) == "dev.docs.chat/3"
    with working_in("prod"):
        assert str(Ref.parse("docs.chat@challenger")) == "prod.docs.chat@challenger"
        assert str(Name.parse("dev.docs.chat")) == "dev.docs.chat"
    assert current_catalog() == "dev"
    monkeypatch.setenv("LLMOPS_ENV", "staging")
    assert str(Name.parse("docs.chat")) == "staging.docs.chat"
    monkeypatch.setenv("LLMOPS_ENV", "Not one")
    with pytest.raises(ConfigError, match="not an environment"):
        Name.parse("docs.chat")
    with pytest.raises(ConfigError), working_in("x.y"):
        pass
    assert os.environ["LLMOPS_ENV"] == "Not one"


def test_ids_sort_by_time_and_tell_it() -> None:
    ids = [new_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert sorted(ids) == ids
    assert abs(id_time(ids[0]) - datetime.now(UTC)) < timedelta(minutes=2)


def test_digest_is_of_the_canonical_value() -> None:
    assert digest({"b": 1, "a": [1, 2]}) == digest({"a": [1, 2], "b": 1})
    assert digest("abc") == digest(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(
    ("unit", "salt", "expected"), [("user-1", "exp-1", 616_764), ("", "", 783_192), ("ü", "s", 255_508)]
)
def test_buckets_have_fixed_vectors(unit: str, salt: str, expected: int) -> None:
    assert bucket(unit, salt) == expected


@given(st.text(), st.text(), st.floats(0.01, 0.5), st.floats(1.0, 2.0))
def test_a_wider_canary_keeps_the_units_of_the_narrow_one(unit: str, salt: str, share: float, factor: float) -> None:
    narrow = assign(unit, salt, [("challenger", share), ("champion", 1 - share)])
    wide = share * factor if share * factor < 1 else 1.0
    wider = assign(unit, salt, [("challenger", wide), ("champion", 1 - wide)])
    if narrow[0] == "challenger":
        assert wider == ("challenger", wide)


def test_shares_are_met_and_checked() -> None:
    arms = [("a", 0.1), ("b", 0.9)]
    hits = sum(assign(str(unit), "salt", arms)[0] == "a" for unit in range(20_000))
    assert 1_800 < hits < 2_200
    for wrong in ([], [("a", 0.5)], [("a", -0.5), ("b", 1.5)]):
        with pytest.raises(UserError):
            assign("u", "s", wrong)


def test_access_lists_name_groups() -> None:
    staff = Principal("p", groups=frozenset({"staff"}))
    assert staff.reads(frozenset({"staff", "board"}))
    assert not staff.reads(frozenset({"board"}))
    assert not staff.reads(frozenset())
    assert LOCAL.reads(frozenset({EVERYONE}))


def test_errors_render_travel_and_survive_processes() -> None:
    error = NotFoundError("no asset `x`", where="registry", hint="list them")
    assert render(error) == "error: no asset `x`\n  --> registry\nhint: list them"
    assert error.as_json()["error"]["code"] == "not_found"
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), render(again)) == (NotFoundError, render(error))
    assert LlmopsError("x").exit_code == 2
    assert ConfigError("x").exit_code == 1
    assert did_you_mean("ingets", ["ingest", "chat"]) == "did you mean `ingest`?"
    assert did_you_mean("zzz", ["ingest"]) is None


def test_cancellation_reaches_callbacks_once_and_late_comers() -> None:
    token = CancelToken()
    calls: list[str] = []
    token.on_cancel(lambda: calls.append("early"))
    token.cancel()
    token.cancel()
    token.on_cancel(lambda: calls.append("late"))
    assert calls == ["early", "late"]
    with pytest.raises(Cancelled):
        token.check()


def test_atomic_writes_replace_whole_files(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_atomic(target, b"one")
    write_atomic(target, b"two", mode=0o600)
    assert target.read_bytes() == b"two"
    assert target.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["file"]
    with pytest.raises(IsADirectoryError):
        (tmp_path / "folder").mkdir()
        write_atomic(tmp_path / "folder", b"x")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_only_what_can_be_read_now_has_a_hash(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"one")
    os.mkfifo(tmp_path / "pipe")  # nobody writes into it: to open it as a file would wait for ever
    assert sha256_of(str(tmp_path), "file") == hashlib.sha256(b"one").hexdigest()
    assert [sha256_of(str(tmp_path), name) for name in ("pipe", "", "none")] == [None, None, None]


def test_a_lock_names_its_holder_and_dies_with_it(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    program = (
        "import sys, time; from pathlib import Path; from llmops.core.files import exclusive_lock\n"
        "with exclusive_lock(Path(sys.argv[1]), what='holding'): print('held', flush=True); time.sleep(600)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    holder = subprocess.Popen([sys.executable, "-c", program, str(lock)], stdout=subprocess.PIPE, env=environment)
    assert holder.stdout is not None
    holder.stdout.readline()
    with (
        pytest.raises(ConflictError, match="another process is already holding") as caught,
        exclusive_lock(lock, what="holding"),
    ):
        pass
    assert caught.value.where == f"process {holder.pid}"
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with exclusive_lock(lock, what="holding"):
        assert lock.read_text() == str(os.getpid())
