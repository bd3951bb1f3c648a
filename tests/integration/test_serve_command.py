"""The whole way with nothing replaced: a registered chain, `llmops serve`, question, thumb, Ctrl-C, feedback."""

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
from pathlib import Path

import httpx
from tests.support.serving import ask

from llmops.core.ids import digest, new_id
from llmops.core.names import Name
from llmops.core.state import StateConfig
from llmops.registry.assets import Registry
from llmops.registry.records import Candidate, CodeModel, Kind

ROOT = Path(__file__).parents[2]
MODEL = Path(__file__).parent / "models" / "small_chain.py"


def register(folder: Path) -> None:
    candidate = Candidate(Kind.CHAIN, Name.parse("dev.docs.chat"), CodeModel(MODEL), digest=digest("small"))
    with Registry(StateConfig(dir=folder / ".llmops")) as registry:
        registry.register(candidate)


def llmops(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "llmops.cli.main", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "NO_COLOR": "1"}


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A running `llmops serve` and its address."""
    process = subprocess.Popen(
        llmops("serve", "--port", "0"), cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True
    )
    lines: queue.Queue[str] = queue.Queue()
    assert process.stderr is not None
    reader = threading.Thread(target=lambda: [lines.put(line) for line in process.stderr or ()], daemon=True)
    reader.start()
    try:
        said = ""
        while not (found := re.search(r"chat at (http://\S+)", said)):
            said += lines.get(timeout=60)
        yield found[1], process
    finally:
        process.kill()
        process.wait(20)
        reader.join(20)
        process.stderr.close()


def test_a_question_and_its_thumb_go_the_whole_way(tmp_path: Path) -> None:
    register(tmp_path)
    with serving(tmp_path) as (url, process):
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
            completion = ask(client)
            about = completion["llmops"]
            assert (about["asset"], about["version"], about["alias"]) == ("dev.docs.chat", 1, "champion")
            judged = {"request_id": about["request_id"], "value": "down", "reason": "incomplete"}
            assert client.post("/v1/feedback", json={"feedback_id": new_id(), **judged}).status_code == 200
            listed = feedback(tmp_path)  # before anything was drained
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    after = feedback(tmp_path)
    assert listed == after
    assert [(row["value"], row["reason"], row["request_id"]) for row in after] == [
        ("down", "incomplete", about["request_id"])
    ]
    assert after[0]["question"] == "What happens to deleted documents?"
    assert after[0]["answer"] == completion["choices"][0]["message"]["content"]
    assert after[0]["version"] == "1"


def feedback(folder: Path) -> list[dict[str, object]]:
    done = subprocess.run(
        llmops("feedback", "list", "--json"),
        cwd=folder, env=environment(), capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    rows: list[dict[str, object]] = json.loads(done.stdout)
    return rows
