"""Real servers of the clouds' object stores on loopback: S3 by moto, Google's by its emulator, Azure's by Azurite.

Azurite is a program of npm (`npm install --global --ignore-scripts azurite`); without it its tests skip.
"""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

BUCKET = "team-docs"
_AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Azurite's own, published account, which opens nothing but an emulator."""
SECRETS = {"BUCKET_KEY": "test", "AZURE_KEY": _AZURE_KEY}


@dataclass(frozen=True)
class Store:
    """A running store with one empty bucket, `BUCKET`; `options` are those of a source that reads it."""

    scheme: str
    options: dict[str, Any]
    files: Any

    def put(self, path: str, data: bytes) -> None:
        with self.files.open_output_stream(f"{BUCKET}/{path}") as file:
            file.write(data)

    def remove(self, path: str) -> None:
        self.files.delete_file(f"{BUCKET}/{path}")

    def clear(self) -> None:
        from pyarrow import fs

        if self.scheme != "gs":
            self.files.delete_dir_contents(BUCKET, missing_dir_ok=True)
            return
        for found in self.files.get_file_info(fs.FileSelector(BUCKET, allow_not_found=True, recursive=True)):
            if found.type == fs.FileType.File:
                self.files.delete_file(found.path)


@contextmanager
def s3_store() -> Iterator[Store]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    from moto.server import ThreadedMotoServer
    from pyarrow import fs

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    place = {"endpoint_override": f"{host}:{port}", "scheme": "http", "region": "us-east-1"}
    files = fs.S3FileSystem(**place, access_key="test", secret_key="test", allow_bucket_creation=True)
    files.create_dir(BUCKET)
    store = Store("s3", {**place, "access_key": "env:BUCKET_KEY", "secret_key": "env:BUCKET_KEY"}, files)
    store.clear()  # moto keeps what another of its servers in this process was given
    try:
        yield store
    finally:
        server.stop()


@contextmanager
def google_store() -> Iterator[Store]:
    from http.server import ThreadingHTTPServer

    from gcp_storage_emulator import server as emulator
    from pyarrow import fs

    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    single, emulator.server.HTTPServer = emulator.server.HTTPServer, ThreadingHTTPServer  # a client reads side by side
    try:
        running = emulator.create_server("127.0.0.1", 0, in_memory=True, default_bucket=BUCKET)
        running.start()
    finally:
        emulator.server.HTTPServer = single
    place = {"endpoint_override": f"127.0.0.1:{running._api._httpd.server_address[1]}", "scheme": "http"}
    try:
        yield Store("gs", {**place, "anonymous": True}, fs.GcsFileSystem(**place, anonymous=True))
    finally:
        running.stop()


@contextmanager
def azure_store() -> Iterator[Store]:
    from pyarrow import fs

    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("Azurite is not installed: `npm install --global --ignore-scripts azurite`")
    arguments = ("--blobHost", "127.0.0.1", "--blobPort", "0", "--inMemoryPersistence", "--disableTelemetry")
    command = [program, *arguments, "--skipApiVersionCheck", "--silent"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        listening = (re.search(r"listens on http://(\S+)", line) for line in server.stdout)
        address = next(found[1] for found in listening if found is not None)
        place = {f"{kind}_storage_authority": address for kind in ("blob", "dfs")}
        place |= {f"{kind}_storage_scheme": "http" for kind in ("blob", "dfs")} | {"account_name": "devstoreaccount1"}
        files = fs.AzureFileSystem(**place, account_key=_AZURE_KEY)
        files.create_dir(BUCKET)
        yield Store("abfs", {**place, "account_key": "env:AZURE_KEY"}, files)
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()
