"""Secrets by reference: configuration and registry rows hold `env:NAME` or `file:PATH`, never the secret itself.

Resolved at the moment of use, so a rotated secret needs no restart. Nothing here logs, and no error shows a value.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from llmops.core.errors import ConfigError

_MAX_BYTES = 64 * 1024
_REFERENCE = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:\S.*")


def check_reference(reference: str) -> str:
    """The reference unchanged; refuses anything that might be a secret written out, without showing it.

    Raises:
        ConfigError: not of the form `env:NAME` or `file:PATH`.
    """
    if not _REFERENCE.fullmatch(reference):
        raise ConfigError(
            "a secret is given by reference, not written out",
            hint="write env:NAME or file:PATH where the secret stands",
        )
    return reference


def resolve_secret(reference: str) -> str:
    """The secret behind `env:NAME` or `file:PATH` (surrounding white space dropped).

    Raises:
        ConfigError: the variable or file is missing, empty, or holds what no header can carry.
    """
    value = resolve_document(reference)
    if not value.isascii() or not value.isprintable():
        raise ConfigError(f"the secret `{reference}` holds characters that no header can carry")
    return value


def resolve_document(reference: str) -> str:
    """A secret that may have several lines, such as a key in JSON (surrounding white space dropped).

    Raises:
        ConfigError: the variable or file is missing or empty.
    """
    kind, _, target = check_reference(reference).partition(":")
    value = (os.environ.get(target, "") if kind == "env" else _read(Path(target), reference)).strip()
    if not value:
        raise ConfigError(f"the secret `{reference}` is not set or empty", hint="set it, then run again")
    return value


def _read(path: Path, reference: str) -> str:
    try:
        with path.expanduser().open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"the secret `{reference}` cannot be read: {error.strerror}") from None
    if len(data) > _MAX_BYTES:
        raise ConfigError(f"the secret `{reference}` is larger than {_MAX_BYTES} bytes")
    return data.decode(errors="replace")
