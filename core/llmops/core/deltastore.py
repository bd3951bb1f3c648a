"""Where a table's files lie, as one of Arrow's own file systems: a folder, or a store that Arrow itself can read.

deltalake's file system calls back into Python. An Arrow thread that lets go of its file while the interpreter ends is
killed inside C++, and the whole process with it. No table is read through it; what Arrow can't read is refused.
Settings come from the environment variables by which deltalake writes there, so that both mean the same store.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

from llmops.core.errors import ConfigError


def file_system(uri: str) -> Any:
    """The folder of a table as Arrow reads it; nothing is asked of a store before a file is.

    Raises:
        ConfigError: Arrow knows no such store, or its access is set in a way that Arrow does not know.
    """
    from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

    if "://" not in uri:
        return SubTreeFileSystem(uri, LocalFileSystem())
    parts = urlsplit(uri)
    opened = _STORES.get(parts.scheme)
    if opened is None:
        raise ConfigError(
            f"tables in `{parts.scheme}://` stores can't be read safely",
            where="state.lake_url",
            hint=f"use a folder, or {', '.join(f'{scheme}://' for scheme in _STORES)}",
        )
    place = unquote(parts.path) if parts.scheme == "file" else f"{_container(parts.netloc)}{unquote(parts.path)}"
    return SubTreeFileSystem(place, opened(parts.netloc))


def _local(_: str) -> Any:
    from pyarrow.fs import LocalFileSystem

    return LocalFileSystem()


def _s3(_: str) -> Any:
    from pyarrow.fs import S3FileSystem

    endpoint = _first("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT") or ""
    scheme, colon, host = endpoint.rpartition("://")
    settings = {
        "region": _first("AWS_REGION", "AWS_DEFAULT_REGION"),
        "endpoint_override": host.rstrip("/") or None,
        "scheme": scheme if colon else None,
        "access_key": _first("AWS_ACCESS_KEY_ID"),
        "secret_key": _first("AWS_SECRET_ACCESS_KEY"),
        "session_token": _first("AWS_SESSION_TOKEN"),
    }
    return S3FileSystem(**{key: value for key, value in settings.items() if value is not None})


def _gcs(_: str) -> Any:
    from pyarrow.fs import GcsFileSystem

    for name in ("GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH", "GOOGLE_SERVICE_ACCOUNT_KEY"):
        if os.environ.get(name) and not os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
            raise ConfigError(
                f"tables in Google's store can't be read by {name}",
                where="state.lake_url",
                hint="name the key's file in GOOGLE_APPLICATION_CREDENTIALS",
            )
    return GcsFileSystem()


def _azure(netloc: str) -> Any:
    from pyarrow.fs import AzureFileSystem

    _, at, host = netloc.rpartition("@")
    account = host.partition(".")[0] if at else _first("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT")
    if not account:
        raise ConfigError(
            "the account of Azure's store is not known", where="state.lake_url", hint="set AZURE_STORAGE_ACCOUNT_NAME"
        )
    key = _first("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY")
    return AzureFileSystem(account, account_key=key)


def _container(netloc: str) -> str:
    """The bucket or container: `container@account.host` names it before the account."""
    return netloc.partition("@")[0]


def _first(*names: str) -> str | None:
    return next((value for name in names if (value := os.environ.get(name))), None)


_STORES: dict[str, Callable[[str], Any]] = {
    "file": _local,
    "s3": _s3,
    "s3a": _s3,
    "gs": _gcs,
    "abfs": _azure,
    "abfss": _azure,
    "az": _azure,
}
