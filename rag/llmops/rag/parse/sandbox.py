"""Fences in the process it runs in: memory, written files, no network, no other program.

Called once, in a parser process, before it sees a document. What keeps it from the network, best first:

- `seccomp`: a system call filter (Linux, x86-64 and arm64, no privilege needed) also refuses exec, ptrace and io_uring;
- `namespace`: an own, empty network namespace, where the kernel permits one but no filter;
- `audit`: Python's own sockets only; a parser's native code could still open one.

It limits what a document can make a parser do; it is no substitute for a container around untrusted uploads: files that
the user can read stay readable.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import resource
import sys
from pathlib import Path

_MAX_WRITTEN_BYTES = 1 << 20
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 22, 38
_SECCOMP_MODE_FILTER = 2
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, JGE|K, BPF_RET|K
_ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | 1  # SECCOMP_RET_*; EPERM
_X32 = 0x40000000

# socket connect accept sendto sendmsg bind listen ptrace execve mount open_by_handle_at setns unshare keyctl
# perf_event_open process_vm_readv process_vm_writev bpf execveat userfaultfd io_uring_setup pidfd_getfd
_REFUSED_CALLS = {
    "x86_64": (41, 42, 43, 44, 46, 49, 50, 101, 59, 165, 304, 308, 272, 250, 298, 310, 311, 321, 322, 323, 425, 438),
    "aarch64": (
        198,
        203,
        202,
        206,
        211,
        200,
        201,
        117,
        221,
        40,
        265,
        268,
        97,
        219,
        241,
        270,
        271,
        280,
        281,
        282,
        425,
        438,
    ),
}
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction)))


def confine(memory_bytes: int) -> str:
    """Limit this process for good, and say what keeps it from the network: `seccomp`, `namespace` or `audit`.

    Args:
        memory_bytes: address space it may take beyond what it has now.
    """
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, _MAX_WRITTEN_BYTES)
    if sys.platform == "linux":
        _limit(resource.RLIMIT_AS, _address_space() + memory_bytes)
    return _leave_network()


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE


def _leave_network() -> str:
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if _filter_calls(libc):
            return "seccomp"
        if libc.unshare(_CLONE_NEWNET) == 0 or libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0:
            return "namespace"
    sys.addaudithook(_refuse_sockets)
    return "audit"


def _filter_calls(libc: ctypes.CDLL) -> bool:
    """Install the filter; False where the kernel or the machine has none."""
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        return False
    calls = _REFUSED_CALLS[machine]
    code = [(_LOAD, 0, 0, 4), (_JUMP_EQUAL, 1, 0, _ARCHITECTURES[machine]), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    code.append((_JUMP_AT_LEAST, len(calls) + 1, 0, _X32))
    code.extend((_JUMP_EQUAL, len(calls) - index, 0, call) for index, call in enumerate(calls))
    code.extend([(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE)])
    instructions = (_Instruction * len(code))(*(_Instruction(*step) for step in code))
    program = _Program(len(code), instructions)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) == 0)


def _refuse_sockets(event: str, _: tuple[object, ...]) -> None:
    if event in ("socket.__new__", "socket.connect", "socket.bind", "os.exec", "os.posix_spawn", "subprocess.Popen"):
        raise PermissionError(f"a parser may not use {event} (process {os.getpid()})")
