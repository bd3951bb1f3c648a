"""The key of the chain: 256 random bits in a file beside the database and never in it, or by reference from elsewhere.

Knows where a key comes from. What it seals is `entries`'.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from llmops.core.errors import ConfigError, IntegrityError, StorageError
from llmops.core.files import sync_directory
from llmops.core.secret import resolve_secret
from llmops.core.state import StateConfig

NAME = "audit.key"
_LEAST_CHARS = 32


def key_path(state: StateConfig) -> Path:
    """Where the key lies when the configuration names no other place."""
    return state.root / NAME


def load_key(state: StateConfig, *, make: bool = False) -> bytes:
    """The key, made first where there is none and `make` allows it.

    Raises:
        ConfigError: the reference gives nothing, or something too short to be a key.
        IntegrityError: the file is gone, or is no key.
    """
    if state.audit_key is not None:
        text = resolve_secret(state.audit_key)
        if len(text) < _LEAST_CHARS:
            raise ConfigError(
                f"the key of the audit chain has fewer than {_LEAST_CHARS} characters",
                where=state.audit_key,
                hint="make one with: python -c 'import secrets; print(secrets.token_hex(32))'",
            )
        return text.encode()
    path = key_path(state)
    try:
        return _parse(path.read_text(encoding="ascii"), path)
    except FileNotFoundError:
        if not make:
            raise IntegrityError(
                "the key of the audit chain is gone", where=str(path), hint="restore it from where it is backed up"
            ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise IntegrityError(f"the key of the audit chain cannot be read: {error}", where=str(path)) from error
    _make(path)
    return load_key(state)


def readable_by_others(state: StateConfig) -> bool:
    """Whether the key's file lets other accounts of this machine read it."""
    path = key_path(state)
    return state.audit_key is None and path.exists() and bool(path.stat().st_mode & 0o077)


def _parse(text: str, path: Path) -> bytes:
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        key = b""
    if len(key) != 32:
        raise IntegrityError("this is no key of an audit chain", where=str(path), hint="restore it from a backup")
    return key


def _make(path: Path) -> None:
    """Write a key whole before it has its name; of two who do so at once one is first, and both use that one's."""
    making = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(secrets.token_hex(32) + "\n")
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(making, path)
            except FileExistsError:
                return
            sync_directory(path.parent)
        finally:
            making.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"cannot write the key of the audit chain: {error.strerror}", where=str(path)) from error
