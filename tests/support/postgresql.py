"""A PostgreSQL server of Debian's packages for one test session: own data folder, unix socket only, no network."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
_QUIET = ["-c", "listen_addresses=", "-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "max_connections=40"]


class PostgresqlProcess:
    """One server over one data folder; its data outlives it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"postgresql://test@/postgres?host={folder}"
        self._as_user: list[str] = []
        if os.getuid() == 0:  # the server refuses to run as root
            shutil.chown(folder, "postgres", "postgres")
            self._as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        about = ["-D", str(folder / "data"), "-U", "test", "-A", "trust", "-E", "UTF8", "-N"]
        _run([*self._as_user, str(BINARIES[0] / "initdb"), *about])

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            place = ["-D", str(self.folder / "data"), "-k", str(self.folder)]
            command = [*self._as_user, str(BINARIES[0] / "postgres"), *place, *_QUIET]
            self._server = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)
        _run([str(BINARIES[0] / "pg_isready"), "-h", str(self.folder)], attempts=1200)

    def stop(self) -> None:
        """End it in order, without waiting for whoever is connected."""
        self._server.send_signal(signal.SIGINT)
        self._server.wait(timeout=120)

    def kill(self) -> None:
        """End the server and its children as a crash of the machine does: none of them tidies up."""
        family = psutil.Process(self._server.pid).children(recursive=True)
        for process in (self._server, *family):
            process.kill()
        self._server.wait(timeout=120)
        psutil.wait_procs(family, timeout=120)


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
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy"))
    engine.dispose()
    return make_url(url).set(database=name).render_as_string(hide_password=False)


def _run(command: list[str], attempts: int = 1) -> None:
    for attempt in range(attempts):
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        if attempt + 1 < attempts:
            subprocess.run(["sleep", "0.1"], check=True)
    raise RuntimeError(f"{command[0]} failed: {done.stderr or done.stdout}")
