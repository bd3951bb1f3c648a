"""`llmops promote`, `approve`, `rollback`, `rollout` and the story, as people type them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.support.promotions import Desk, MemoryStore, against, found
from tests.support.registry_processes import CHAT
from tests.support.registry_rows import seed

from llmops.cli import main as entry
from llmops.core.keys import Keys
from llmops.core.sql import open_sql
from llmops.core.state import StateConfig
from llmops.registry import Registry, Version

STORE = MemoryStore()


@pytest.fixture
def versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, migrated: Path) -> list[Version]:
    """A working folder whose registry holds three versions; MLflow's side is kept in memory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(migrated, StateConfig().root)
    monkeypatch.setattr(Registry, "_store", lambda self, catalog: STORE)
    with open_sql(StateConfig()) as sql:
        return seed(sql, str(CHAT), 3)


class Shell:
    """Types commands, and reads what they print."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        code = entry.run(list(arguments))
        shown = self._capsys.readouterr()
        return code, shown.out, shown.err


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


def file(version: Version, *records: object) -> None:
    with Desk(StateConfig()) as desk:
        for record in records:
            desk.add_evidence(record)  # type: ignore[arg-type]


def test_promote_says_what_is_missing_then_goes_on(versions: list[Version], shell: Shell) -> None:
    one = versions[0]
    code, out, _ = shell("promote", str(one.ref), "--plan")
    assert code == 3
    assert "validation: missing" in out
    assert "next: validating" in out
    code, out, _ = shell("promote", str(one.ref))
    assert (code, out.splitlines()[0]) == (3, "dev.docs.chat/1 is validating")
    assert "needs validation: no evidence yet" in out
    file(one, found(one), against(one, None))
    code, out, _ = shell("promote", str(one.ref), "--plan", "--json")
    assert (code, json.loads(out)["missing"]) == (0, [])
    code, out, _ = shell("promote", str(one.ref))
    assert (code, out) == (0, "dev.docs.chat/1 is promoted\n")
    code, out, _ = shell("promote", str(one.ref), "--json")
    assert (code, json.loads(out)["state"]) == (0, "promoted")
    code, out, _ = shell("models", "show", str(one.ref))
    assert "promotion\tpromoted" in out
    assert "tag validation_status\tPASSED" in out


def test_the_whole_story(versions: list[Version], shell: Shell) -> None:
    one, two, three = versions
    file(one, found(one), against(one, None))
    shell("promote", str(one.ref))
    file(three, found(three), against(three, one, "fail", effect=-0.04, ci_low=-0.06, ci_high=-0.02))
    code, out, _ = shell("promote", str(three.ref))
    assert (code, out) == (3, "dev.docs.chat/3 is rejected (comparison: fail)\n")
    file(two, found(two), against(two, one, effect=0.03, ci_low=0.01, ci_high=0.05))
    shell("promote", str(two.ref))
    code, out, _ = shell("rollback", str(CHAT), "--plan")
    assert (code, out) == (0, "would make dev.docs.chat/1 champion in place of dev.docs.chat/2\n")
    assert shell("rollback", str(CHAT))[0] == 1
    code, out, _ = shell("rollback", str(CHAT), "--reason", "chargebacks doubled")
    assert (code, out) == (0, "dev.docs.chat/1 is champion in place of dev.docs.chat/2\n")
    assert "already" in shell("rollback", str(CHAT), "--reason", "chargebacks doubled")[1]
    code, out, err = shell("rollback", str(CHAT), "--reason", "further")
    assert (code, out) == (1, "")
    assert "no champion before version 1" in err
    story = shell("models", "history", str(CHAT))[1]
    lines = [line[21:] for line in story.splitlines()]
    assert "chat/1  champion (was 2), by local" in lines
    assert "because: chargebacks doubled" in lines
    assert "chat/3  rejected, by local" in lines
    assert any(line.startswith("on: comparison fail -0.04 [-0.06, -0.02] against dev.docs.chat/1") for line in lines)
    assert lines[-1] == "chat/1  registered, by seed"
    told = json.loads(shell("models", "history", str(CHAT), "--json")[1])
    assert {entry["kind"] for entry in told} == {"registered", "evidence", "state", "alias"}
    rolled = next(entry for entry in told if entry["what"] == "champion (was 2)")
    assert rolled["evidence"][0]["reason"] == "chargebacks doubled"
    assert json.loads(shell("models", "history", str(CHAT), "--alias", "previous_champion", "--json")[1])
    assert "chat/1 was champion, from" in shell("models", "history", str(CHAT), "--at", "2999-01-01")[1]
    assert json.loads(shell("models", "history", str(CHAT), "--at", "2001-01-01", "--json")[1]) is None
    assert "is no time" in shell("models", "history", str(CHAT), "--at", "noon")[2]
    rows = [line.split("\t")[:3] for line in shell("rollout", "status")[1].splitlines()]
    assert rows[0] == ["version", "state", "waits for, or why"]
    assert ["dev.docs.chat/2", "rolled back", "chargebacks doubled"] in rows


def test_approval_by_key_holders(
    versions: list[Version], shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("approvals: [risk]\n")
    assert shell("models", "policy", "dev", "--set", str(policy))[0] == 0
    shown = json.loads(shell("models", "policy", "docs.chat", "--json")[1])
    assert (shown["scope"], shown["from"], shown["policy"]["approvals"]) == ("dev.docs.chat", "dev", ["risk"])
    assert "dev.docs.* for the schema" in shell("models", "policy", "dev.docs", "--set", str(policy))[2]
    one = versions[0]
    file(one, found(one), against(one, None))
    code, out, err = shell("promote", str(one.ref))
    assert (code, out.splitlines()[0]) == (0, "dev.docs.chat/1 is awaiting approval")
    assert "--group risk" in err
    assert "is not in the group" in shell("approve", str(one.ref), "--group", "risk")[2]
    with open_sql(StateConfig()) as sql:
        token, _ = Keys(sql).create("ann", scopes=["registry"], groups=["risk"])
    monkeypatch.setenv("LLMOPS_KEY", token)
    assert shell("approve", str(one.ref), "--group", "risk", "--plan") == (
        0,
        "you may speak for risk; waiting for: risk\n",
        "",
    )
    code, out, _ = shell("approve", str(one.ref), "--group", "risk", "--comment", "fine")
    assert (code, out) == (0, "dev.docs.chat/1 is approved\n")
    monkeypatch.delenv("LLMOPS_KEY")
    assert shell("promote", str(one.ref))[1] == "dev.docs.chat/1 is promoted\n"
    assert "approved for risk, by key:" in shell("models", "history", str(CHAT))[1]


def test_a_wrong_policy_is_refused_with_its_place(versions: list[Version], shell: Shell, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("aprovals: [risk]\n")
    code, _, err = shell("models", "policy", "dev", "--set", str(policy))
    assert code == 1
    assert "did you mean `approvals`?" in err
    assert "policy.yaml:1:1" in err


def test_withdrawing_and_retiring(versions: list[Version], shell: Shell) -> None:
    one, two, _ = versions
    file(one, found(one), against(one, None))
    shell("promote", str(one.ref))
    shell("promote", str(two.ref))
    withdraw = ("promote", str(two.ref), "--withdraw")
    assert shell(*withdraw, "--plan")[:2] == (0, "would withdraw dev.docs.chat/2, which is validating\n")
    assert "needs a reason" in shell(*withdraw)[2]
    assert "--reason goes with --withdraw" in shell("promote", str(two.ref), "--reason", "x")[2]
    assert "neither --to nor --again" in shell(*withdraw, "--reason", "x", "--again")[2]
    code, out, err = shell(*withdraw, "--reason", "wrong data")
    assert (code, out) == (0, "dev.docs.chat/2 is withdrawn (wrong data)\n")
    assert "--again` begins anew" in err
    code, out, _ = shell(*withdraw, "--reason", "wrong data", "--json")
    assert (code, json.loads(out)["state"]) == (0, "withdrawn")
    assert shell("promote", str(two.ref))[:2] == (3, "dev.docs.chat/2 is withdrawn (wrong data)\n")
    retire = ("rollback", str(CHAT), "--retire")
    assert shell(*retire, "--plan")[1] == "would retire dev.docs.chat/1; dev.docs.chat would have no champion\n"
    assert json.loads(shell(*retire, "--plan", "--json")[1])["to_version"] is None
    assert "version 2 is not champion" in shell(*retire, "--from", "2", "--reason", "x")[2]
    code, out, _ = shell(*retire, "--reason", "the product ended")
    assert (code, out) == (0, "dev.docs.chat has no champion in place of dev.docs.chat/1\n")
    told = json.loads(shell(*retire, "--reason", "the product ended", "--json")[1])
    assert (told["from_version"], told["to_version"], told["again"]) == (1, None, True)
    code, _, err = shell("models", "show", f"{CHAT}@champion")
    assert (code, "`dev.docs.chat` has no champion" in err, "llmops models history" in err) == (1, True, True)


def test_diff_shows_both_sides(versions: list[Version], shell: Shell) -> None:
    one, two, _ = versions
    file(one, found(one, effect=0.9))
    out = shell("models", "diff", str(one.ref), str(two.ref))[1]
    assert "param number\t1\t2" in out
    assert "evidence validation\tpass +0.9" in out
    shown = json.loads(shell("models", "diff", str(one.ref), str(two.ref), "--json")[1])
    assert shown["params"] == [{"key": "number", "left": 1, "right": 2}]


def test_nothing_registered_nothing_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: Shell) -> None:
    monkeypatch.chdir(tmp_path)
    assert shell("rollout", "status", "--json") == (0, "[]\n", "")
    for command in (["promote", "dev.a.b/1"], ["rollback", "dev.a.b"], ["approve", "dev.a.b/1", "--group", "x"]):
        assert shell(*command)[0] == 1
    assert list(tmp_path.iterdir()) == []
