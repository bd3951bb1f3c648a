"""A PostgreSQL server of Debian's packages for one test session: own data folder, unix socket only, no network."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
_QUIET = ["-c", "listen_addresses=", "-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "max_connections=40"]


@contextmanager
def postgresql_server() -> Iterator[str]:
    """Start a server and give the SQLAlchemy URL of an empty database; skips where it is not installed, save in CI."""
    if not BINARIES:
        if os.environ.get("CI"):
            raise RuntimeError("CI needs PostgreSQL: apt-get install postgresql")
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="llmops-pg-"))
    as_user: list[str] = []
    if os.getuid() == 0:  # the server refuses to run as root
        shutil.chown(folder, "postgres", "postgres")
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    data = folder / "data"
    try:
        _run([*as_user, str(BINARIES[0] / "initdb"), "-D", str(data), "-U", "test", "-A", "trust", "-E", "UTF8", "-N"])
        with (folder / "log").open("wb") as log:
            command = [*as_user, str(BINARIES[0] / "postgres"), "-D", str(data), "-k", str(folder), *_QUIET]
            server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        try:
            _run([str(BINARIES[0] / "pg_isready"), "-h", str(folder)], attempts=100)
            yield f"postgresql://test@/postgres?host={folder}"
        finally:
            server.terminate()
            server.wait(timeout=30)
    finally:
        shutil.rmtree(folder)


def _run(command: list[str], attempts: int = 1) -> None:
    for attempt in range(attempts):
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        if attempt + 1 < attempts:
            subprocess.run(["sleep", "0.1"], check=True)
    raise RuntimeError(f"{command[0]} failed: {done.stderr or done.stdout}")
