"""Keeps readers from loading the vector store while it is written: Chroma crashes on a half-written graph."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Hold the store for writing; waits for readers that are just loading it (well under a second)."""
    with _locked(folder, fcntl.LOCK_EX):
        yield


@contextmanager
def loading(folder: Path) -> Iterator[bool]:
    """Try to hold the store for loading; gives False, at once, while somebody writes."""
    try:
        with _locked(folder, fcntl.LOCK_SH | fcntl.LOCK_NB):
            yield True
    except BlockingIOError:
        yield False


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    descriptor = os.open(folder.with_name(f"{folder.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)
