"""A PostgreSQL server of Debian's packages for one test session: own data folder, unix socket only, no network."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from llmops.core.ids import new_id

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
_READY = b"ready to accept connections"
_QUIET = ["-c", "listen_addresses=", "-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "max_connections=40"]
_QUIET += ["-c", "lc_messages=C"]


class PostgresqlProcess:
    """One server over one data folder; its data outlives it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log = folder / "log"
        self.url = f"postgresql://test@/postgres?host={folder}"
        self._as_user: list[str] = []
        if os.getuid() == 0:  # the server refuses to run as root
            shutil.chown(folder, "postgres", "postgres")
            self._as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        about = ["-D", str(folder / "data"), "-U", "test", "-A", "trust", "-E", "UTF8", "-N"]
        _run([*self._as_user, str(BINARIES[0] / "initdb"), *about])

    def start(self) -> None:
        ready = [str(BINARIES[0] / "pg_isready"), "-h", str(self.folder)]
        with self._log.open("ab") as log:
            place = ["-D", str(self.folder / "data"), "-k", str(self.folder)]
            command = [*self._as_user, str(BINARIES[0] / "postgres"), *place, *_QUIET]
            self._server = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)
        self._until(lambda: subprocess.run(ready, capture_output=True, check=False).returncode == 0)

    def stop(self) -> None:
        """End it at once: nobody needs what it holds."""
        self._server.send_signal(signal.SIGQUIT)
        self._server.wait(timeout=120)

    def kill(self) -> None:
        """End the server and its children as a crash of the machine does: none of them tidies up.

        It is stopped first: else it could start one more meanwhile, and the others would end with it by themselves.
        """
        self._server.send_signal(signal.SIGSTOP)
        server = psutil.Process(self._server.pid)
        self._until(lambda: server.status() == psutil.STATUS_STOPPED)
        family = server.children(recursive=True)
        for process in (*family, server):
            process.kill()
        self._server.wait(timeout=120)
        psutil.wait_procs(family, timeout=120)

    @contextmanager
    def recovering(self) -> Iterator[None]:
        """Where a backend is killed: at the end of the block the server has noticed it, and takes connections again."""
        begun = self._log.read_bytes().count(_READY)
        yield
        self._until(lambda: self._log.read_bytes().count(_READY) > begun)

    def _until(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not true():
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(self._log.read_text())
            time.sleep(0.02)


@contextmanager
def postgresql_process() -> Iterator[PostgresqlProcess]:
    """Start a server with an empty database; skips where it is not installed, save in CI."""
    if not BINARIES:
        if os.environ.get("CI"):
            raise RuntimeError("CI needs PostgreSQL: apt-get install postgresql")
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="llmops-pg-"))
    try:
        server = PostgresqlProcess(folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


@contextmanager
def postgresql_server() -> Iterator[str]:
    """The SQLAlchemy URL of an empty database of a server that lives as long as the block."""
    with postgresql_process() as server:
        yield server.url


def database(url: str, name: str, template: str = "template1") -> str:
    """Make a database on a server, as a copy of another; gives its URL."""
    _say(url, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    return make_url(url).set(database=name).render_as_string(hide_password=False)


@contextmanager
def own_database(url: str, template: str = "template1") -> Iterator[str]:
    """The URL of a database that lives as long as the block: a hundred of them would be a gigabyte for the disk."""
    name = f"test_{new_id().replace('-', '')}"
    yield database(url, name, template)
    _say(url, f"DROP DATABASE {name} WITH (FORCE)")


def _say(url: str, statement: str) -> None:
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(statement))
    engine.dispose()


def _run(command: list[str]) -> None:
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr or done.stdout}")
