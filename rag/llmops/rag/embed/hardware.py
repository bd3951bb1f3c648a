"""What of this machine decides which backend is fastest: instruction sets, devices, and versions of the engines."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8", "asimd", "bf16")
_ENGINES = ("openvino", "torch", "sentence-transformers", "tokenizers")


def has_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 in hardware; without it bf16 is slower than float32."""
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(hardware()["flags"])


@cache
def hardware() -> dict[str, Any]:
    """JSON values that change when a backend should be chosen again. Reckoned once a process, in milliseconds."""
    return {
        "machine": platform.machine(),
        "flags": [flag for flag in _FLAGS if flag in _cpu_flags()],
        "cuda": Path("/proc/driver/nvidia/version").exists(),
        "engines": {engine: _version(engine) for engine in _ENGINES},
    }


@cache
def _cpu_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:  # not Linux
        return frozenset()
    found = (line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features")))
    return frozenset(next(found, []))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
