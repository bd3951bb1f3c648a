"""Each fence holds by itself: the network, files, other processes, memory and time; and what is allowed still works."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT = {
    "seccomp": "",
    "namespace": "fences._filter_calls = lambda libc, fence: False",
    "audit": "fences._filter_calls = lambda libc, fence: False; fences.sys.platform = 'other'",
}
PRELUDE = """
import ctypes, mmap, os, resource, signal, socket, subprocess, sys, threading
from pathlib import Path
from llmops.core import fences
"""


def outcome(
    deed: str, *, fence: str = "fences.Fence(1 << 30, writable=(scratch,))", scratch: Path, cut: str = ""
) -> str:
    """What became of a deed behind a fence: `done ...`, `refused`, or the signal that ended its process."""
    program = f"""{PRELUDE}
scratch = {str(scratch)!r}
{cut}
isolation = fences.confine({fence})
try:
    print("done", {deed})
except (OSError, MemoryError, RuntimeError) as error:
    print("refused")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    return done.stdout.strip() or (f"signal {-done.returncode}" if done.returncode < 0 else done.stderr)


@pytest.mark.parametrize("fence", list(WITHOUT))
def test_each_fence_against_the_network_holds(fence: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        deed = f"isolation.network, socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), timeout=2)"
        name = outcome("isolation.network", scratch=tmp_path, cut=WITHOUT[fence])
        if fence == "namespace" and name == "done audit":
            pytest.skip("this kernel gives no network namespace")
        assert name == f"done {fence}"
        assert outcome(deed, scratch=tmp_path, cut=WITHOUT[fence]) == "refused"
        asked = "fences.Fence(1 << 30, network=True)"
        assert outcome(deed, scratch=tmp_path, fence=asked, cut=WITHOUT[fence]).startswith("done open")


@pytest.mark.parametrize("fence", ["landlock", "audit"])
@pytest.mark.parametrize(
    "deed",
    [
        "open(OTHER, 'w')",
        "open(OTHER, 'a')",
        "os.remove(OTHER)",
        "os.rename(OTHER, scratch + '/x')",
        "os.mkdir(OTHER + '.d')",
        "os.chmod(OTHER, 0)",
        "os.truncate(OTHER, 0)",
    ],
)
def test_files_elsewhere_stay_as_they_are(deed: str, fence: str, tmp_path: Path) -> None:
    scratch, other = tmp_path / "scratch", tmp_path / "other"
    scratch.mkdir()
    other.write_text("kept")
    cut = "fences._landlock = lambda libc, writable: False" if fence == "audit" else ""
    assert outcome("isolation.files", scratch=scratch, cut=cut) == f"done {fence}"
    assert outcome(deed.replace("OTHER", repr(str(other))), scratch=scratch, cut=cut) == "refused"
    assert other.read_text() == "kept"
    assert other.stat().st_mode & 0o777 != 0


@pytest.mark.parametrize(
    "deed",
    [
        "Path(scratch, 'own').write_text('x')",
        "open(os.devnull, 'w')",
        "threading.Thread(target=int).start()",
        "os.kill(os.getpid(), 0)",
        "resource.getrlimit(resource.RLIMIT_AS)",
    ],
)
def test_what_a_model_needs_still_works(deed: str, tmp_path: Path) -> None:
    assert outcome(deed, scratch=tmp_path).startswith("done")


@pytest.mark.parametrize(
    "deed",
    [
        "os.fork()",
        "subprocess.run(['/bin/true'])",
        "os.kill(os.getppid(), 0)",
        "os.kill(-1, 0)",
        "os.killpg(os.getpgrp(), 0)",
        "signal.pidfd_send_signal(os.pidfd_open(os.getppid()), 0)",
        "resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (0, 0))",
        "open(f'/proc/{os.getppid()}/mem', 'r+b')",
        "mmap.mmap(-1, 2 << 30)",
        "open(scratch + '/long', 'wb').write(bytes(2 << 20))",
    ],
)
def test_no_other_process_and_no_more_than_its_share(deed: str, tmp_path: Path) -> None:
    assert outcome(deed, scratch=tmp_path) == "refused"


def test_its_processor_time_ends(tmp_path: Path) -> None:
    fence = "fences.Fence(1 << 30, cpu_s=1)"
    assert outcome("[0 for _ in iter(int, 1)]", fence=fence, scratch=tmp_path).startswith("signal")


def test_a_process_with_threads_is_not_fenced_in_half(tmp_path: Path) -> None:
    cut = "threading.Thread(target=threading.Event().wait, daemon=True).start()"
    assert "before it starts threads" in outcome("1", scratch=tmp_path, cut=cut)


def test_a_process_goes_with_its_parent() -> None:
    """The middle process starts one that would live on, and ends."""
    inner = f"{PRELUDE}\nfences.die_with_parent(); print(os.getpid(), flush=True); signal.pause()"
    middle = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {inner!r}], stdout=-1); " + (
        "print(p.stdout.readline().decode())"
    )
    done = subprocess.run([sys.executable, "-c", middle], capture_output=True, text=True, timeout=120, check=True)
    try:
        process = os.pidfd_open(int(done.stdout))
    except ProcessLookupError:
        return
    with os.fdopen(process) as ended:
        assert select.select([ended], [], [], 60)[0], "it outlived its parent"
