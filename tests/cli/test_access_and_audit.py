"""`llmops access`, `llmops audit`, `--env` and LLMOPS_KEY as people use them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.support.audit_processes import tamper
from tests.support.registry_processes import CHAT
from tests.support.registry_rows import seed

from llmops.cli import main as entry
from llmops.core.sql import open_sql
from llmops.core.state import StateConfig


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, migrated: Path) -> Path:
    """A working folder whose registry holds a chain in dev and one in prod."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(migrated, StateConfig().root)
    with open_sql(StateConfig()) as sql:
        seed(sql, str(CHAT), 2)
        seed(sql, "prod.docs.chat", 1)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = entry.run(list(arguments))
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    code, out, err = run(capsys, *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def test_a_plan_a_grant_and_a_revocation(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "access", "grant", "execute", "dev", "--to", "group:risk", "--plan")
    assert code == 0
    assert "group:risk would get EXECUTE on dev" in err
    assert "would be enforced" in err
    assert "everybody may do everything" in run(capsys, "access", "show")[2]
    assert said(capsys, "access", "grant", "execute", "dev", "--to", "group:risk") == {
        "what": "grant",
        "privilege": "EXECUTE",
        "securable": "dev",
        "principal": "group:risk",
        "changed": True,
        "enforces": True,
    }
    assert "has EXECUTE on dev already" in run(capsys, "access", "grant", "EXECUTE", "dev", "--to", "group:risk")[2]
    shown = said(capsys, "access", "show")
    assert [(h["principal"], h["privilege"], h["securable"]) for h in shown] == [
        ("local", "OWNER", "*"),
        ("group:risk", "EXECUTE", "dev"),
    ]
    assert said(capsys, "access", "revoke", "execute", "dev", "--from", "group:risk")["changed"]
    code, _, err = run(capsys, "access", "revoke", "execute", "dev", "--from", "group:risk")
    assert code == 1
    assert "was not granted EXECUTE" in err
    assert said(capsys, "access", "grant", "owner", "dev.docs", "--to", "group:docs")["privilege"] == "OWNER"
    found = run(capsys, "access", "show", "dev.docs.chat")[1]
    assert "group:docs\tEXECUTE\tdev.docs.chat\tgroup:docs owns dev.docs" not in found  # a gate is closed to it


def test_a_name_of_two_levels_is_never_taken_for_a_schema_that_is_not_there(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: str) -> str:
        code, _, err = run(capsys, "access", *arguments)
        assert code == 1
        return err

    for act in (("grant", "EXECUTE"), ("revoke", "EXECUTE"), ("grant", "OWNER")):
        err = refused(*act, "docs.chat", "--to", "alice")
        assert "there is no catalog `docs`" in err
        assert "for the asset write all three levels: dev.docs.chat" in err
    assert "for the schema write its catalog too: dev.docs" in refused("grant", "EXECUTE", "docs", "--to", "alice")
    assert "did you mean `prod`" in refused("grant", "EXECUTE", "prd", "--to", "alice")
    assert "for a catalog that is yet to come write ml.fraud.*" in refused(
        "grant", "EXECUTE", "ml.fraud", "--to", "alice"
    )
    assert "for the asset write all three levels: dev.docs.chat" in refused("show", "docs.chat")
    for wrong in ("prod.docs.chat.*", ".*", "a b", "prod..docs", "Prod", "prod.docs.chat/3", "prod.docs.chat@champion"):
        assert "nothing that privileges are held on" in refused("grant", "EXECUTE", wrong, "--to", "alice")
    assert run(capsys, "access", "show", "alice")[1:] == ("", "nothing\n")  # nothing was given on the way here
    assert said(capsys, "access", "grant", "EXECUTE", "ml.*", "--to", "alice")["securable"] == "ml"
    assert said(capsys, "access", "grant", "EXECUTE", "ml", "--to", "bob")["securable"] == "ml"  # it is known by now
    assert said(capsys, "access", "grant", "EXECUTE", "prod.docs", "--to", "alice")["securable"] == "prod.docs"
    assert {h["securable"] for h in said(capsys, "access", "show", "alice")} == {"ml", "prod.docs"}


def test_what_is_a_schema_and_an_asset_has_to_be_told_apart(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_sql(StateConfig()) as sql:
        seed(sql, "dev.prod.docs", 1)
    code, _, err = run(capsys, "access", "grant", "EXECUTE", "prod.docs", "--to", "alice")
    assert code == 1
    assert "is a schema of the catalog prod, and an asset of dev" in err
    assert "write dev.prod.docs for the asset, prod.docs.* for the schema" in err
    for written, meant in (("dev.prod.docs", "dev.prod.docs"), ("prod.docs.*", "prod.docs")):
        assert said(capsys, "access", "grant", "EXECUTE", written, "--to", "alice")["securable"] == meant
    run(capsys, "access", "grant", "MANAGE", "dev", "--to", "group:dev")
    made = said(capsys, "keys", "create", "blind", "--scope", "registry", "--group", "nobody")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMOPS_KEY", made["token"])
        hidden = run(capsys, "access", "grant", "EXECUTE", "docs.chat", "--to", "alice")[2]
    assert "dev.docs.chat" not in hidden  # who may not see it is not told of it


def test_a_key_says_who_acts_and_a_wrong_one_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = said(capsys, "keys", "create", "deployer", "--scope", "registry", "--group", "deploy")
    chat_only = said(capsys, "keys", "create", "chat")
    for privilege in ("BROWSE", "USE CATALOG"):
        run(capsys, "access", "grant", privilege, "prod", "--to", "group:deploy")
    monkeypatch.setenv("LLMOPS_KEY", made["token"])
    assert [asset["name"] for asset in said(capsys, "models", "list")] == ["prod.docs.chat"]
    code, out, err = run(capsys, "models", "show", "dev.docs.chat")
    assert (code, out) == (1, "")
    assert "no asset `dev.docs.chat`" in err
    code, _, err = run(capsys, "access", "grant", "MANAGE", "prod", "--to", f"key:{made['key_id']}")
    assert code == 1
    assert f"key:{made['key_id']} lacks MANAGE on prod" in err
    code, _, err = run(capsys, "keys", "create", "friend", "--group", "admins")
    assert code == 1
    assert "lacks MANAGE on *" in err
    mine = said(capsys, "access", "show")
    assert {(h["privilege"], h["securable"]) for h in mine} == {("BROWSE", "prod"), ("USE CATALOG", "prod")}
    monkeypatch.setenv("LLMOPS_KEY", chat_only["token"])
    assert "may not be used for registry" in run(capsys, "models", "list")[2]
    monkeypatch.setenv("LLMOPS_KEY", "lk_0123")
    assert run(capsys, "models", "list")[0] == 1
    monkeypatch.delenv("LLMOPS_KEY")
    denied = [e for e in said(capsys, "audit", "list") if e["phase"] == "denied"]
    assert [e["action_name"] for e in denied] == ["create", "grant"]
    assert denied[0]["request_params"] == {"groups": ["admins"], "name": "friend", "scopes": ["serving"]}
    assert denied[1]["about"] == "prod"
    assert {e["user_identity"]["subject_name"] for e in denied} == {f"key:{made['key_id']}"}


def test_the_log_is_listed_and_checked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "audit", "verify")["entries"] == 0
    run(capsys, "access", "grant", "EXECUTE", "dev", "--to", "alice")
    run(capsys, "access", "grant", "EXECUTE", "dev.docs", "--to", "alice")
    rows = run(capsys, "audit", "list", "--about", "dev")[1].splitlines()
    assert [row.split("\t")[0] for row in rows] == ["seq", "2", "1"]
    assert len(said(capsys, "audit", "list", "--action", "grant", "--actor", "local", "--limit", "3")) == 3
    assert said(capsys, "audit", "list", "--since", "2100-01-01") == []
    assert "no time" in run(capsys, "audit", "list", "--since", "yesterday")[2]
    code, out, err = run(capsys, "audit", "verify")
    assert (code, out) == (0, "")
    assert "the record is whole: 4 entries" in err
    with open_sql(StateConfig()) as sql:
        tamper(sql, "UPDATE audit_log SET actor = 'mallory' WHERE seq = 3")
    code, out, err = run(capsys, "audit", "verify")
    assert code == 3
    assert "3\tthis row was changed" in out
    assert "first at entry 3" in err
    code, out, _ = run(capsys, "audit", "verify", "--json")
    assert (code, json.loads(out)["first_bad"]) == (3, 3)


def test_looking_makes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said(capsys, "audit", "list") == []
    assert said(capsys, "audit", "verify")["ok"]
    assert run(capsys, "access", "show")[0] == 1
    assert list(tmp_path.iterdir()) == []


def test_an_environment_is_the_catalog_of_two_level_names(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert said(capsys, "models", "show", "docs.chat/1")["name"] == "dev.docs.chat"
    assert said(capsys, "--env", "prod", "models", "show", "docs.chat/1")["name"] == "prod.docs.chat"
    assert said(capsys, "--env", "prod", "models", "show", "dev.docs.chat/1")["name"] == "dev.docs.chat"
    assert said(capsys, "models", "show", "docs.chat/1")["name"] == "dev.docs.chat"  # nothing of it stays
    monkeypatch.setenv("LLMOPS_ENV", "prod")
    assert said(capsys, "models", "show", "docs.chat/1")["name"] == "prod.docs.chat"
    assert "not an environment" in run(capsys, "--env", "Prod!", "models", "list")[2]


def test_a_job_file_serves_every_environment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry.run(["init", str(tmp_path)])
    capsys.readouterr()

    def values(env: str, job: str) -> dict[str, Any]:
        found = said(capsys, "--env", env, "config", "show", str(tmp_path / "configs" / job))["values"]
        return {row["key"]: row["value"] for row in found}

    for env in ("dev", "staging", "prod"):
        rag = values(env, "rag.yaml")
        assert (rag["name"], rag["index.name"]) == (f"{env}.docs.chat", f"{env}.docs.index")
        assert (values(env, "serve.yaml")["catalog"], values(env, "serve.yaml")["endpoints.0.asset"]) == (
            env,
            f"{env}.docs.chat@champion",
        )


def test_doctor_looks_at_the_key_and_the_anchor(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry.run(["init"])
    capsys.readouterr()

    def checks() -> dict[str, str]:
        entry.run(["doctor", "--json"])
        found = json.loads(capsys.readouterr().out)
        return {c["name"]: c["verdict"] for c in found if c["name"].startswith("audit")}

    assert checks() == {}
    run(capsys, "access", "grant", "EXECUTE", "dev", "--to", "alice")
    assert checks() == {"audit key": "ok", "audit anchor": "ok"}
    state = StateConfig()
    key = state.root / "audit.key"
    key.chmod(0o644)
    anchor = state.anchor.read_text()
    state.anchor.unlink()
    assert checks() == {"audit key": "warn", "audit anchor": "warn"}
    state.anchor.write_text(anchor.replace('"seq":2', '"seq":9'))
    assert checks()["audit anchor"] == "fail"
    key.unlink()
    assert checks() == {"audit": "fail"}
