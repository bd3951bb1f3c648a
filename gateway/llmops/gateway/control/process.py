"""The control process: `python -m llmops.gateway.control.process FOLDER DESCRIPTOR PARENT`, started by the supervisor.

Serves on the socket it inherits, from the configuration that is in force in the folder, until SIGTERM.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from pathlib import Path

import uvicorn

from llmops.core import logs
from llmops.core.errors import LlmopsError, render
from llmops.gateway.children import die_with_parent
from llmops.gateway.control.app import build_app
from llmops.gateway.control.office import open_office

_log = logging.getLogger(__name__)


class Leaving:
    """Remembers SIGTERM, whenever it comes, and has the server end.

    An exception out of the handler would cut off whatever runs at that moment, or be lost where none gets out (a
    finalizer, a callback), and the process would stay. Uvicorn raises the signal again once it has stopped.
    """

    def __init__(self) -> None:
        self._asked = False
        self._server: uvicorn.Server | None = None

    def __call__(self, _number: int, _frame: object) -> None:
        self._asked = True
        if self._server is not None:
            self._server.should_exit = True

    def told(self, server: uvicorn.Server) -> None:
        """Have this server end, now if it was asked for already."""
        self._server = server
        server.should_exit = self._asked


def serve(folder: Path, listener: socket.socket, leaving: Leaving) -> None:
    """Answer on the socket until SIGTERM; the last rows are in the lake when this returns."""
    with open_office(folder) as office:
        settings = uvicorn.Config(
            build_app(office),
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            limit_concurrency=200,
            timeout_graceful_shutdown=5,
            h11_max_incomplete_event_size=64 * 1024,
        )
        server = uvicorn.Server(settings)
        leaving.told(server)
        server.run(sockets=[listener])


def main(arguments: list[str]) -> int:
    """Run the process; an error that is foreseen is told in three lines."""
    logs.configure(os.environ.get("LLMOPS_LOG_LEVEL", "WARNING"))
    die_with_parent(int(arguments[2]))
    leaving = Leaving()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, leaving)
    try:
        serve(Path(arguments[0]), socket.socket(fileno=int(arguments[1])), leaving)
    except LlmopsError as error:
        sys.stderr.write(f"{render(error)}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
