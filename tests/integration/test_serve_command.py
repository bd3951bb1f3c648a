"""The whole way with nothing replaced: a registered chain, `llmops serve` over https, a thumb, Ctrl-C, feedback."""

from __future__ import annotations

import signal
import ssl
from pathlib import Path

import httpx
from tests.support.commands import printed, running
from tests.support.serving import ask
from tests.support.wire import certificate

from llmops.core.ids import digest, new_id
from llmops.core.names import Name
from llmops.core.state import StateConfig
from llmops.registry.assets import Registry
from llmops.registry.records import Candidate, CodeModel, Kind

MODEL = Path(__file__).parent / "models" / "small_chain.py"


def register(folder: Path) -> None:
    candidate = Candidate(Kind.CHAIN, Name.parse("dev.docs.chat"), CodeModel(MODEL), digest=digest("small"))
    with Registry(StateConfig(dir=folder / ".llmops")) as registry:
        registry.register(candidate)


def test_a_question_and_its_thumb_go_the_whole_way(tmp_path: Path) -> None:
    register(tmp_path)
    cert, key = certificate(tmp_path)
    shown = ("--set", f"tls_cert={cert}", "--set", f"tls_key={key}")
    with running(tmp_path, "serve", "--port", "0", *shown, opened="chat at") as (url, process):
        known = ssl.create_default_context(cafile=str(cert))
        with httpx.Client(base_url=url, timeout=60, trust_env=False, verify=known) as client:
            completion = ask(client)
            about = completion["llmops"]
            assert (about["asset"], about["version"], about["alias"]) == ("dev.docs.chat", 1, "champion")
            judged = {"request_id": about["request_id"], "value": "down", "reason": "incomplete"}
            assert client.post("/v1/feedback", json={"feedback_id": new_id(), **judged}).status_code == 200
            assert "there is no index" in client.get("/v1/indexes/dev.docs.index/documents").text
            listed = printed(tmp_path, "feedback", "list")  # before anything was drained
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    after = printed(tmp_path, "feedback", "list")
    assert listed == after
    assert [(row["value"], row["reason"], row["request_id"]) for row in after] == [
        ("down", "incomplete", about["request_id"])
    ]
    assert after[0]["question"] == "What happens to deleted documents?"
    assert after[0]["answer"] == completion["choices"][0]["message"]["content"]
    assert after[0]["version"] == "1"
