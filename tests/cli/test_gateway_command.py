"""`llmops gateway` as people type it: from a file of ten lines, with the real data plane behind it."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.control import config_of, fill, row
from tests.support.gateway import eventually
from tests.support.upstream import Reply, Upstream, running_upstream

from llmops.cli.main import run
from llmops.core.state import StateConfig
from llmops.gateway.config import GatewayConfig
from llmops.gateway.keyring import SNAPSHOT, Ring

ROOT = Path(__file__).parents[2]
TEN_LINES = """job: gateway
providers:
  near: {url: "%s", api_key: "env:NEAR_KEY"}
  far: {url: "%s"}
routes:
  - name: fast
    targets: [{provider: near, model: small}]
  - name: deep
    targets: [{provider: far, model: large}]
unpriced: free
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a gateway job whose providers are nowhere."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "gateway.yaml").write_text(TEN_LINES % ("http://127.0.0.1:9/v1", "http://127.0.0.1:9/v1"))
    return tmp_path


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with running_upstream() as started:
        started.answer = lambda _seen: Reply(stream=False, pieces=("Hello there",))
        yield started


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert run(["gateway", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(["gateway", *arguments]) == 1
    return capsys.readouterr().err


@contextmanager
def opened(folder: Path, *arguments: str) -> Iterator[tuple[str, str, subprocess.Popen[str]]]:
    """A running `llmops gateway`: its URL, its control's, its process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "llmops.cli.main", "gateway", *arguments, "--set", "port=0", "--set", "control.port=0"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "NEAR_KEY": "sk-near-0123456789"},
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: queue.Queue[str] = queue.Queue()
    assert process.stderr is not None
    reader = threading.Thread(target=lambda: [lines.put(line) for line in process.stderr or ()], daemon=True)
    reader.start()
    try:
        heard = ""
        while not (found := re.search(r"gateway at (http://\S+)/v1 \(control at (http://\S+), plain Python,", heard)):
            heard += lines.get(timeout=120)
        yield found[1], found[2], process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(90)
        reader.join(60)
        process.stderr.close()


def ask(url: str, route: str, token: str | None = None) -> httpx.Response:
    body = {"model": route, "messages": [{"role": "user", "content": "Hi"}]}
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=60, trust_env=False)


def test_ten_lines_serve_two_providers_and_every_call_is_in_the_table(folder: Path, upstream: Upstream) -> None:
    (folder / "configs" / "gateway.yaml").write_text(TEN_LINES % (upstream.url, upstream.url))
    with opened(folder) as (url, control, process):
        for route in ("fast", "deep"):
            answer = ask(url, route)
            assert answer.status_code == 200, answer.text
            assert answer.json()["choices"][0]["message"]["content"] == "Hello there"
            assert answer.headers["x-llmops-route"] == route
        models = httpx.get(f"{url}/v1/models", timeout=60, trust_env=False).json()["data"]
        assert {model["id"] for model in models} == {"fast", "deep"}
        assert httpx.get(f"{control}/healthz", timeout=60, trust_env=False).status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(90) == 130
    usage = GatewayConfig.model_validate(
        {
            "state": {"dir": folder / ".llmops"},
            "providers": {"a": {}},
            "routes": [{"name": "a", "targets": [{"provider": "a", "model": "b"}]}],
        }
    )
    from llmops.core.lake import Lake

    rows = Lake(usage.state).rows(usage.inference_log, include_pending=False)
    assert {(one["endpoint"], one["status_code"]) for one in rows} == {("fast", 200), ("deep", 200)}
    assert {seen.body["model"] for seen in upstream.requests} == {"small", "large"}


def test_a_key_made_while_it_runs_works_and_is_refused_once_revoked(
    folder: Path, upstream: Upstream, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "configs" / "gateway.yaml").write_text(TEN_LINES % (upstream.url, upstream.url) + "require_keys: true\n")
    with opened(folder, "run") as (url, _, _process):
        assert ask(url, "fast").status_code == 401
        made = said(capsys, "keys", "create", "app", "--route", "fast")
        token = made["token"]
        eventually(lambda: ask(url, "fast", token).status_code == 200)
        assert ask(url, "deep", token).status_code in (403, 404)
        assert run(["keys", "revoke", made["key_id"]]) == 0  # by core's command: control sees it in the table
        eventually(lambda: ask(url, "fast", token).status_code == 401)


def test_keys_are_made_listed_and_revoked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = said(
        capsys, "keys", "create", "intranet", "--route", "fast", "--budget", "30/month", "--budget", "1/day",
        "--requests-per-minute", "60", "--tag", "app=intranet", "--expires", "90d", "--scope", "gateway:ids",
    )  # fmt: skip
    assert made["token"].startswith(f"lk_{made['key_id']}_")
    assert made["limits"] == {"requests_per_minute": 60}
    assert [one["period"] for one in made["budgets"]] == ["month", "day"]
    snapshot = StateConfig().root / "gateway" / SNAPSHOT
    assert Ring.load(snapshot).find(made["token"]) is not None
    listed = said(capsys, "keys", "list")
    assert [one["key_id"] for one in listed] == [made["key_id"]]
    assert made["token"] not in json.dumps(listed)
    assert said(capsys, "keys", "revoke", made["key_id"])["state"] == "revoked"
    assert Ring.load(snapshot).find(made["token"]) is None
    assert run(["gateway", "keys", "list"]) == 0
    assert "30/month" in capsys.readouterr().out


def test_a_token_alone_goes_to_stdout(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["gateway", "keys", "create", "script"]) == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(r"lk_\S+\n", out)
    assert "cannot be shown again" in err


def test_wrong_wishes_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean `fast`" in refused(capsys, "keys", "create", "x", "--route", "fats")
    assert "30/month" in refused(capsys, "keys", "create", "x", "--budget", "much")
    assert "no such key" in refused(capsys, "keys", "revoke", "0123456789abcdef")
    assert "write 7d" in refused(capsys, "usage", "--since", "yesterday")
    assert "behind the subcommand" in refused(capsys, "--set", "port=1", "routes")


def test_routes_are_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [(one["route"], one["target"]) for one in said(capsys, "routes")] == [
        ("fast", "near/small"),
        ("deep", "far/large"),
    ]


def test_usage_is_added_up(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of(folder, state={"dir": folder / ".llmops"})
    fill(
        config,
        [
            row(),
            row(),
            row(tags={"team": "support"}, requester="key:two"),
            row(at=datetime.now(UTC) - timedelta(days=2)),
        ],
    )
    assert [(one["group"], one["requests"]) for one in said(capsys, "usage")] == [("search", 3), ("support", 1)]
    assert [one["requests"] for one in said(capsys, "usage", "--by", "day", "--since", "9d")] == [1, 3]
    assert [one["group"] for one in said(capsys, "usage", "--key", "two", "--by", "key")] == ["key:two"]
    assert run(["gateway", "usage", "--by", "day", "--since", "3d"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5  # with the empty days, under a heading


def test_a_folder_without_a_job_and_a_missing_secret_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "no configs/gateway.yaml" in refused(capsys)
    (tmp_path / "mine.yaml").write_text(TEN_LINES % ("http://127.0.0.1:9/v1", "http://127.0.0.1:9/v1"))
    monkeypatch.delenv("NEAR_KEY", raising=False)
    assert "`env:NEAR_KEY` is not set" in refused(capsys, "run", "--config", "mine.yaml", "--port", "0")
    assert "spend your money" in refused(capsys, "run", "--config", "mine.yaml", "--host", "0.0.0.0")


def test_the_repository_s_job_is_valid_and_doctor_knows_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789")
    assert run(["config", "validate", "configs/gateway.yaml"]) == 0
    capsys.readouterr()
    run(["doctor", "--json"])
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert checks["configs/gateway.yaml"]["verdict"] == "ok"
    assert checks["gateway code"]["found"] == "plain Python"
    assert "ANTHROPIC_API_KEY" in checks["gateway secrets"]["found"]


def test_compile_says_what_is_missing_and_goes_back_to_plain_python(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from llmops.gateway import compiled

    monkeypatch.setattr(compiled, "HOME", tmp_path / "compiled")
    monkeypatch.setenv("CC", "no-such-compiler")
    assert "there is no C compiler (`no-such-compiler`)" in refused(capsys, "compile")
    (tmp_path / "compiled" / "0123").mkdir(parents=True)
    assert run(["gateway", "compile", "--remove"]) == 0
    assert not (tmp_path / "compiled").exists()


def test_up_opens_the_gateway_only_with_its_secrets(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from llmops.cli.commands.up import _gateway

    monkeypatch.delenv("NEAR_KEY", raising=False)
    with _gateway():
        assert "stays closed: the secret `env:NEAR_KEY` is not set" in capsys.readouterr().err
    monkeypatch.setenv("NEAR_KEY", "sk-0123456789")
    monkeypatch.setenv("LLMOPS_PORT", "0")
    monkeypatch.setenv("LLMOPS_CONTROL__PORT", "0")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *sys.path]))
    status = folder / ".llmops" / "gateway" / "supervisor.json"
    with _gateway():
        pid = eventually(lambda: status.exists() and json.loads(status.read_text())["pid"])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_only_machines_with_a_redis_can_be_forgiven(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "share a Redis" in refused(capsys, "forgive")
    assert "does not answer" in refused(capsys, "forgive", "--set", "store.redis_url=redis://127.0.0.1:9/0")
