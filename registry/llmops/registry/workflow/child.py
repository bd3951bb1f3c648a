"""The process of one attempt: `python -m llmops.registry.workflow.child REQUEST LIFELINE`.

Imports the task, runs it, and leaves its answer in a file, whole and durable, before it ends: an engine that was killed
meanwhile finds it there. Leads a session of its own, and ends it when its engine is gone. Knows nothing of rows.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from datetime import UTC
from pathlib import Path
from typing import Any

import orjson

from llmops.core.errors import ConflictError, GateFailedError, IntegrityError, LlmopsError, UserError
from llmops.core.files import write_atomic
from llmops.core.identity import Principal
from llmops.core.state import StateConfig
from llmops.registry.workflow import targets
from llmops.registry.workflow.context import TaskContext, Waiting
from llmops.registry.workflow.params import json_problem

LARGEST_BYTES = 1_000_000


def main(arguments: list[str]) -> int:
    request_file, lifeline = Path(arguments[0]), int(arguments[1])
    request = orjson.loads(request_file.read_bytes())
    write_atomic(Path(request["identity"]), orjson.dumps(identity(os.getpid())))
    if select.select([lifeline], [], [], 0)[0]:  # the engine ended before it could know of this process
        return 1
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    signal.signal(signal.SIGTERM, _leave)
    write_atomic(Path(request["outcome"]), orjson.dumps(_outcome(request)), mode=0o600)
    sys.stdout.flush()
    return 0


def identity(pid: int) -> dict[str, Any] | None:
    """What tells a running process from a later one with its number (Linux); None where that cannot be told."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    if fields[0] in "ZX":  # it has ended; nobody has asked how yet
        return None
    return {"pid": pid, "started": fields[19], "boot": boot}


def _outcome(request: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return _answer(targets.load(request["target"])(_context(request)))
    except LlmopsError as error:
        if not isinstance(error, UserError | GateFailedError):
            traceback.print_exc()
        return _failed(error, again=_may_pass(error))
    except SystemExit as error:
        return _failed(UserError(f"the task ended its process, exit code {error.code}", code="exit"), again=True)
    except BaseException as error:  # noqa: BLE001 - the process boundary: written down, with its trace in the log
        traceback.print_exc()
        text = str(error).strip().partition("\n")[0]
        name = type(error).__name__
        return _failed(UserError(f"{name}: {text}" if text else name, code="task_failed"), again=True)


def _context(request: Mapping[str, Any]) -> TaskContext:
    principal = request["principal"]
    return TaskContext(
        run_id=request["run_id"],
        workflow=request["workflow"],
        task=request["task"],
        attempt=request["attempt"],
        settings=request["settings"],
        values=request["values"],
        catalog=request["catalog"],
        state=StateConfig.model_validate(request["state"]),
        principal=Principal(principal["id"], principal["kind"], frozenset(principal["groups"])),
    )


def _answer(given: object) -> dict[str, Any]:
    """What a task gave, as JSON.

    Raises:
        UserError: it is not JSON, holds a secret, or is too much for a row.
    """
    if isinstance(given, Waiting):
        until = given.until
        if until is not None and until.tzinfo is None:
            raise UserError("a task that waits must say until when with a time zone", code="bad_answer")
        stamp = until.astimezone(UTC).isoformat() if until else None
        return {"status": "waiting", "reason": given.reason[:1000], "until": stamp, "on": given.on}
    if given is not None and not isinstance(given, Mapping):
        kind = type(given).__name__
        raise UserError(
            f"the task gave a {kind}, not a mapping of names to values", code="bad_answer", hint="return {...}"
        )
    if problem := json_problem(given or {}):
        raise UserError(f"what the task gave {problem}", code="bad_answer")
    values = dict(given or {})
    size = len(orjson.dumps(values, option=orjson.OPT_PASSTHROUGH_DATETIME))
    if size > LARGEST_BYTES:
        raise UserError(
            f"the task gave {size:,} bytes; {LARGEST_BYTES:,} at most",
            code="bad_answer",
            hint="keep it in a file, and give its place",
        )
    return {"status": "succeeded", "values": values}


def _failed(error: LlmopsError, *, again: bool) -> dict[str, Any]:
    fields = {"what": error.what[:2000], "where": error.where, "hint": error.hint, "code": error.error_code}
    return {"status": "failed", "error": {**fields, "exit_code": error.exit_code}, "again": again}


def _may_pass(error: LlmopsError) -> bool:
    """Whether another attempt may end otherwise: not where a gate said no, or a person must mend something."""
    if isinstance(error, GateFailedError | IntegrityError):
        return False
    return isinstance(error, ConflictError) or not isinstance(error, UserError)


def _leave(number: int, _frame: object) -> None:
    """Being ended lets the task's own `finally` blocks run."""
    raise SystemExit(128 + number)


def _end_with(lifeline: int) -> None:
    """Wait for the engine's end of the pipe to close, which nothing but its end does; then end this whole session."""
    os.read(lifeline, 1)
    os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
