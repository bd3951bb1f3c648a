"""Keys that a machine makes for itself, to know its own signatures again: one small file each, for its owner alone."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from llmops.core.errors import IntegrityError
from llmops.core.ids import new_id

KEY_BYTES = 32


def signing_key(path: Path, *, lost: str) -> bytes:
    """Read the key of a file, or make it: 0600, whole from the first moment, never overwritten.

    Args:
        lost: what happens if the file is deleted, for whoever has to decide that.

    Raises:
        IntegrityError: the file is there but is no key, or others may read it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _create(path)
    except FileExistsError:
        if path.stat().st_mode & 0o077:
            raise IntegrityError(
                f"other users of this machine may read the {path.stem} key", where=str(path), hint=f"chmod 600 {path}"
            ) from None
    found = path.read_bytes()
    if len(found) != KEY_BYTES:
        raise IntegrityError(f"the {path.stem} key is damaged", where=str(path), hint=lost)
    return found


def _create(path: Path) -> None:
    if path.exists():
        raise FileExistsError(path)
    temporary = path.with_name(f".{path.name}.{new_id()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        path.hardlink_to(temporary)
    finally:
        temporary.unlink()
