"""The control process as the supervisor starts and ends it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.control import config_of

from llmops.gateway.listen import listen
from llmops.gateway.published import publish

TOLD_AT_A_BAD_MOMENT = """
import signal, sys
from llmops.gateway.control import process

class Doomed:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)  # no exception gets out of here

opened = process.open_office

def open_office(folder):
    Doomed()
    return opened(folder)

process.open_office = open_office
sys.exit(process.main(sys.argv[1:]))
"""


def test_it_ends_at_whatever_moment_it_is_told_to(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    publish(config)
    with listen("127.0.0.1", 0, setting="control.port") as listener:
        told = [str(config.folder), str(listener.fileno()), str(os.getpid())]
        process = subprocess.Popen(
            [sys.executable, "-c", TOLD_AT_A_BAD_MOMENT, *told], pass_fds=[listener.fileno()], stderr=subprocess.PIPE
        )
        try:
            _, said = process.communicate(timeout=120)
        finally:
            process.kill()
            process.wait(60)
    assert (process.returncode, said.decode()) == (0, "")
