"""Tasks that the workflow's tests run: well-behaved ones, and every kind of bad one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from llmops.core.errors import GateFailedError, UnavailableError, UserError
from llmops.core.names import Name
from llmops.registry.workflow import TaskContext, Waiting


def note(context: TaskContext, text: str = "") -> None:
    """Leave a line that outlives every kill: which attempt of which task really began."""
    place = context.settings.get("notes")
    if isinstance(place, str):
        with Path(place).open("a") as file:
            file.write(f"{context.task} {context.attempt} {text}".rstrip() + "\n")


def echo(context: TaskContext) -> dict[str, Any]:
    """Give back what it was told."""
    note(context)
    return {key: value for key, value in context.settings.items() if key != "notes"}


def whole(context: TaskContext) -> dict[str, Any]:
    """Everything it was handed."""
    names = ("run_id", "workflow", "task", "attempt", "token", "catalog")
    return {
        **{name: getattr(context, name) for name in names},
        "settings": dict(context.settings),
        "values": {name: dict(values) for name, values in context.values.items()},
        "root": str(context.state.root),
        "principal": context.principal.id,
        "groups": sorted(context.principal.groups),
        "session": os.getsid(0) == os.getpid(),
    }


def nothing(context: TaskContext) -> None:
    note(context)


def fail(context: TaskContext) -> None:
    note(context)
    raise ValueError("the data is odd")


def refuse(context: TaskContext) -> None:
    note(context)
    raise GateFailedError("recall fell to 0.41", where="dev.fraud.clf/2", hint="train it on more data")


def misuse(context: TaskContext) -> None:
    note(context)
    raise UserError("no such asset", hint="name another")


def flaky(context: TaskContext) -> dict[str, Any]:
    """Fails until the attempt its settings name."""
    note(context)
    if context.attempt < int(str(context.settings["until"])):
        raise UnavailableError("the store does not answer")
    return {"attempt": context.attempt}


def hang(context: TaskContext) -> None:
    """Ignores being asked to end, and leaves a child behind."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    note(context, str(child.pid))
    time.sleep(600)


def slow(context: TaskContext) -> dict[str, Any]:
    note(context, str(os.getpid()))
    print("slow has begun", flush=True)
    time.sleep(float(str(context.settings.get("s", 600))))
    return {"slept": True}


def hold(context: TaskContext) -> dict[str, Any]:
    """Runs until the file its settings name is there."""
    note(context, str(os.getpid()))
    while not Path(str(context.settings["file"])).exists():
        time.sleep(0.02)
    return {"held": True}


def flood(context: TaskContext) -> dict[str, Any]:
    line = "x" * 99 + "\n"
    for _ in range(120):
        sys.stdout.write(line * 1000)
    print("the last line")
    return {"ok": True}


def killed(context: TaskContext) -> None:
    note(context)
    os.kill(os.getpid(), int(str(context.settings.get("signal", 9))))


def leave(context: TaskContext) -> None:
    os._exit(int(str(context.settings.get("code", 3))))


def exit_(context: TaskContext) -> None:
    sys.exit(3)


def not_json(context: TaskContext) -> dict[str, Any]:
    return {"a": {"b": {1, 2}}}


def not_a_mapping(context: TaskContext) -> Any:
    return [1, 2]


def huge(context: TaskContext) -> dict[str, Any]:
    return {"text": "x" * 2_000_000}


def secret_value(context: TaskContext) -> dict[str, Any]:
    return {"key": "sk-abcdefghij0123456789abcd"}


def leak(context: TaskContext) -> dict[str, Any]:
    print("the key is sk-abcdefghij0123456789abcd and the word is", os.environ["HUSH"])
    raise ValueError(f"refused {os.environ['HUSH']}")


def wait(context: TaskContext) -> Waiting | dict[str, Any]:
    """Waits until the file its settings name is there."""
    note(context)
    if Path(str(context.settings["file"])).exists():
        return {"seen": True}
    soon = datetime.now(UTC) + timedelta(seconds=float(str(context.settings.get("s", 3600))))
    return Waiting("the file is not there yet", until=soon, on="file")


def meet(context: TaskContext) -> dict[str, Any]:
    """Ends only when the other one has begun too."""
    folder = Path(str(context.settings["folder"]))
    (folder / context.task).touch()
    deadline = time.monotonic() + 120
    while len(list(folder.iterdir())) < 2:
        if time.monotonic() > deadline:
            raise ValueError("alone")
        time.sleep(0.01)
    return {"met": True}


def kill_engine(context: TaskContext) -> dict[str, Any]:
    """Its first attempts kill the engine that runs them."""
    note(context)
    if context.attempt <= int(str(context.settings.get("times", 1))):
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)
    return {"attempt": context.attempt}


def odd_text(context: TaskContext) -> None:
    raise UserError("<!channel> click <http://evil.example|here>")


def surroundings(context: TaskContext) -> dict[str, Any]:
    """Where names of two levels lie in a task's process."""
    return {"catalog": context.catalog, "name": str(Name.parse("fraud.clf"))}
