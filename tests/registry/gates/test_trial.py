"""Versions that misbehave: whatever one does in its process is a finding, and the process that asked lives on."""

from __future__ import annotations

import os
import pickle
import shutil
import socket
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.registry.gates.conftest import Register, found
from tests.support.fraud import Fraud

from llmops.core.names import Name
from llmops.registry import Candidate, Kind, Registry, SavedModel
from llmops.registry.gates import ValidationSpec, validate
from llmops.registry.gates.spec import Limits
from llmops.registry.gates.trial import Trial, TrialError

BARE = ValidationSpec.model_validate({"documentation": {"description": False}, "signature": False, "example": False})


def rows(*deeds: tuple[str, Any]) -> pa.Table:
    return pa.table({"deed": [deed for deed, _ in deeds], "argument": [str(argument) for _, argument in deeds]})


def test_a_model_reaches_nothing_but_its_answer(
    register: Register, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    other = tmp_path / "other"
    with socket.create_server(("127.0.0.1", 0)) as server, Trial.of(register("deeds"), registry, Limits()) as trial:
        trial.load()
        deeds = rows(
            ("connect", server.getsockname()[1]),
            ("write", other),
            ("kill_parent", ""),
            ("fork", ""),
            ("run", "/bin/true"),
            ("noise", "{}\x00\x01"),
            ("secret", "OPENAI_API_KEY"),
            ("write", "/dev/null"),
        )
        (answers,) = trial.predict(deeds, 100).columns
    assert all(answer.startswith("refused") for answer in answers[:5])
    assert answers[5:] == ["done"] * 3
    assert not other.exists()


@pytest.mark.parametrize(
    ("deed", "argument", "code"),
    [
        ("leave", 0, "crashed"),
        ("hang", "", "timeout"),
        ("allocate", 4000, "memory"),
        ("burn", "", "cpu"),
        ("giant", 3, "nonsense"),
        ("fewer", "", "nonsense"),
    ],
)
def test_a_process_that_ends_says_why(
    register: Register, registry: Registry, deed: str, argument: Any, code: str
) -> None:
    cpu_s = {"cpu_s": 2} if deed == "burn" else {}
    limits = Limits(memory_mb=1024, timeout_s=0.5 if deed == "hang" else 120, answer_mb=2, **cpu_s)
    with Trial.of(register("deeds"), registry, limits) as trial:
        trial.load()
        with pytest.raises(TrialError) as caught:
            trial.predict(rows((deed, argument), (deed, argument)), 100)
    assert caught.value.error_code == code
    with pytest.raises(ProcessLookupError):
        os.kill(trial._process.pid, 0)


class Deed:
    """A pickle that does something when it is opened."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize(
    ("deed", "measured"),
    [
        (lambda marker: Deed(Path.touch, marker), "invalid_request"),
        (lambda marker: Deed(os._exit, 0), "crashed"),
        (lambda marker: Deed(exec, "while True: pass"), "timeout"),
    ],
    ids=["file", "exit", "loop"],
)
def test_a_malicious_pickle_harms_nobody(
    registry: Registry, fraud: Fraud, tmp_path: Path, deed: Any, measured: str
) -> None:
    """It was registered as it is, so its digest is right; it is opened in the confined process only."""
    saved, marker = tmp_path / "saved", tmp_path / "marker"
    shutil.copytree(fraud.rows.parent / "good", saved)
    (saved / "model.pkl").write_bytes(pickle.dumps(deed(marker)))
    version = registry.register(Candidate(Kind.MODEL, Name.parse("dev.fraud.evil"), SavedModel(str(saved))))
    asked = BARE.model_copy(update={"limits": Limits(load_timeout_s=3 if measured == "timeout" else 120)})
    report = validate(version, asked, registry)
    load = found(report, "load")
    assert (load.verdict, load.measured) == ("fail", measured)
    assert report.verdict == "fail"
    assert not marker.exists()
