"""Fences in the process it runs in: memory, time, files, no network, no other program or process.

Called once, in a process started for it, before that sees a document or loads a model. What holds, best first:

- network: `seccomp`, a system call filter (Linux, x86-64 and arm64, no privilege needed); `namespace`, an own, empty
  network namespace, where the kernel permits one but no filter; `audit`, Python's own sockets only, which native code
  gets around; `open` where it was asked for.
- files: `landlock`, the kernel's own fence (Linux 5.13), with chmod and chown refused by the filter; `audit`, Python's
  own calls only; `open` where it was not asked for.

The filter also refuses exec, new processes, signals and limits for others, ptrace and io_uring. It limits what content
can make a process do; it is no substitute for a container: files that the user can read stay readable.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import platform
import resource
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from llmops.core.errors import UnavailableError

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SIGKILL = 1, 22, 38, 9
_SECCOMP_MODE_FILTER = 2
_CLONE_NEWUSER, _CLONE_NEWNET, _CLONE_THREAD = 0x10000000, 0x40000000, 0x10000
_LOAD, _RETURN = 0x20, 0x06  # BPF_LD|W|ABS, BPF_RET|K
_JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT = 0x15, 0x35, 0x45  # BPF_JMP|JEQ|K, JGE|K, JSET|K
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in seccomp_data; of the argument its low half
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000  # SECCOMP_RET_*
_EPERM, _ENOSYS = 1, 38
_X32 = 0x40000000
_GRACE_CPU_S = 5


@dataclass(frozen=True)
class _Machine:
    """System call numbers of one architecture."""

    audit: int
    network: tuple[int, ...]  # socket connect accept accept4 sendto sendmsg bind listen
    refused: tuple[int, ...]  # ptrace execve mount open_by_handle_at setns unshare keyctl perf_event_open
    # process_vm_readv process_vm_writev bpf execveat userfaultfd io_uring_setup pidfd_getfd pidfd_open
    # pidfd_send_signal tkill rt_sigqueueinfo rt_tgsigqueueinfo, and fork and vfork where they are
    modes: tuple[int, ...]  # chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat set- and removexattr
    signals: tuple[int, ...]  # kill tgkill: to this process only
    clone: int
    limits: int  # prlimit64: of this process only


_MACHINES = {
    "x86_64": _Machine(
        audit=0xC000003E,
        network=(41, 42, 43, 288, 44, 46, 49, 50),
        refused=(
            *(101, 59, 165, 304, 308, 272, 250, 298, 310, 311, 321, 322, 323, 425, 438, 434, 424),
            *(200, 129, 297, 57, 58),
        ),
        modes=(90, 91, 268, 452, 92, 93, 94, 260, 188, 189, 190, 197, 198, 199),
        signals=(62, 234),
        clone=56,
        limits=302,
    ),
    "aarch64": _Machine(
        audit=0xC00000B7,
        network=(198, 203, 202, 242, 206, 211, 200, 201),
        refused=(
            *(117, 221, 40, 265, 268, 97, 219, 241, 270, 271, 280, 281, 282, 425, 438, 434, 424),
            *(130, 138, 240),
        ),
        modes=(52, 53, 452, 54, 55, 5, 6, 7, 14, 15, 16),
        signals=(129, 131),
        clone=220,
        limits=261,
    ),
}
_CLONE3 = 435

_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_LANDLOCK_PATH_BENEATH = 1
_WRITE_FILE, _TRUNCATE = 1 << 1, 1 << 14
_CHANGES = _WRITE_FILE | 0b1_1111_1111 << 4  # and remove, make
_REFER = 1 << 13
_WRITING = {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}
_PROGRAMS = {"os.exec", "os.posix_spawn", "os.fork", "os.kill", "subprocess.Popen"}
_SOCKETS = {"socket.__new__", "socket.connect", "socket.bind"}


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction)))


@dataclass(frozen=True)
class Fence:
    """What a process may have.

    Args:
        memory_bytes: address space beyond what it has now.
        written_bytes: the longest file it may write.
        cpu_s: processor time beyond what it has used, all threads together; None: no limit.
        writable: the only folders whose files it may change; None: the user's rights decide.
        network: whether it may use the network.
    """

    memory_bytes: int
    written_bytes: int = 1 << 20
    cpu_s: int | None = None
    writable: tuple[str, ...] | None = None
    network: bool = False


@dataclass(frozen=True)
class Isolation:
    """What keeps the process from the network and from files; the module's text says what each word means."""

    network: str
    files: str


def confine(fence: Fence) -> Isolation:
    """Limit this process for good.

    Raises:
        UnavailableError: it has several threads already; a filter would hold for one of them only.
    """
    _require_one_thread()
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, fence.written_bytes)
    if fence.cpu_s is not None:
        ends = math.ceil(time.process_time()) + fence.cpu_s
        _limit(resource.RLIMIT_CPU, ends, ends + _GRACE_CPU_S)
    if sys.platform == "linux":
        _limit(resource.RLIMIT_AS, _address_space() + fence.memory_bytes)
    files = "open" if fence.writable is None else _leave_files(fence.writable)
    return Isolation(_leave_network(fence), files)


def die_with_parent() -> None:
    """End this process when the thread that started it ends, however that comes."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)


def _require_one_thread() -> None:
    tasks = Path("/proc/self/task")
    if tasks.is_dir() and len(list(tasks.iterdir())) > 1:
        raise UnavailableError("a process is fenced in before it starts threads")


def _limit(kind: int, soft: int, top: int | None = None) -> None:
    _, hard = resource.getrlimit(kind)
    top = soft if top is None else top
    if hard != resource.RLIM_INFINITY:
        soft, top = min(soft, hard), min(top, hard)
    resource.setrlimit(kind, (soft, top))


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE


def _leave_files(writable: tuple[str, ...]) -> str:
    """Take the right to change files away everywhere but below some folders."""
    if sys.platform == "linux" and _landlock(ctypes.CDLL(None, use_errno=True), writable):
        return "landlock"
    allowed = tuple(str(Path(folder).resolve()) for folder in writable)

    def refuse(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            paths = [path] if writes and isinstance(path, str | bytes) else []
        else:
            paths = [one for one in arguments if isinstance(one, str | bytes)] if event in _WRITING else []
        for path in paths:
            real = str(Path(os.fsdecode(path)).resolve())
            if real != os.devnull and not any(real == one or real.startswith(one + os.sep) for one in allowed):
                raise PermissionError(f"a fenced-in process may not change {real}")

    sys.addaudithook(refuse)
    return "audit"


def _landlock(libc: ctypes.CDLL, writable: tuple[str, ...]) -> bool:
    """Put up the kernel's fence around files; False where it has none."""
    version = libc.syscall(_LANDLOCK_CREATE, None, 0, 1)
    if version < 1:
        return False
    handled = _CHANGES | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    attributes = struct.pack("=Q", handled)
    ruleset = libc.syscall(_LANDLOCK_CREATE, attributes, len(attributes), 0)
    if ruleset < 0:
        return False
    try:
        rights = [(folder, handled) for folder in writable]
        for place, allowed in [*rights, (os.devnull, handled & (_WRITE_FILE | _TRUNCATE))]:
            descriptor = os.open(place, os.O_PATH | os.O_CLOEXEC)
            rule = struct.pack("=Qi", allowed, descriptor)
            refused = libc.syscall(_LANDLOCK_ADD, ruleset, _LANDLOCK_PATH_BENEATH, rule, 0)
            os.close(descriptor)
            if refused:
                return False
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        return bool(libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


def _leave_network(fence: Fence) -> str:
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if _filter_calls(libc, fence):
            return "open" if fence.network else "seccomp"
        spaces = () if fence.network else (_CLONE_NEWNET, _CLONE_NEWUSER | _CLONE_NEWNET)
        if any(libc.unshare(space) == 0 for space in spaces):
            return "namespace"
    refused = _PROGRAMS if fence.network else _PROGRAMS | _SOCKETS

    def refuse(event: str, _: tuple[object, ...]) -> None:
        if event in refused:
            raise PermissionError(f"a fenced-in process may not use {event} (process {os.getpid()})")

    sys.addaudithook(refuse)
    return "open" if fence.network else "audit"


def _filter_calls(libc: ctypes.CDLL, fence: Fence) -> bool:
    """Install the filter; False where the kernel or the machine has none."""
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        return False
    refused = machine.refused
    if not fence.network:
        refused += machine.network
    if fence.writable is not None:
        refused += machine.modes
    code = _filter(machine, refused)
    instructions = (_Instruction * len(code))(*(_Instruction(*step) for step in code))
    program = _Program(len(code), instructions)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) == 0)


def _filter(machine: _Machine, refused: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """The filter as (code, jump if true, jump if false, operand); its last step is the refusal."""
    special = _own_calls(machine)
    code = [(_LOAD, 0, 0, _ARCHITECTURE), (_JUMP_EQUAL, 1, 0, machine.audit), (_RETURN, 0, 0, _KILL)]
    code.append((_LOAD, 0, 0, _NUMBER))
    left = len(refused) + len(special) + 1  # steps between the next one's successor and the refusal
    code.append((_JUMP_AT_LEAST, left, 0, _X32))
    code.extend((_JUMP_EQUAL, left - 1 - index, 0, call) for index, call in enumerate(refused))
    return [*code, *special, (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ERRNO | _EPERM)]


def _own_calls(machine: _Machine) -> list[tuple[int, int, int, int]]:
    """Calls that are allowed for this process only: threads but no processes, signals and limits to itself."""
    allow, refuse = (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ERRNO | _EPERM)
    first = (_LOAD, 0, 0, _FIRST_ARGUMENT)
    # clone3 hides its flags in memory, where no filter can look; told that there is none, libc uses clone.
    code = [(_JUMP_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _ERRNO | _ENOSYS)]
    code += [(_JUMP_EQUAL, 0, 4, machine.clone), first, (_JUMP_ANY_BIT, 0, 1, _CLONE_THREAD), allow, refuse]
    for call in machine.signals:
        code += [(_JUMP_EQUAL, 0, 4, call), first, (_JUMP_EQUAL, 0, 1, os.getpid()), allow, refuse]
    return [*code, (_JUMP_EQUAL, 0, 4, machine.limits), first, (_JUMP_EQUAL, 0, 1, 0), allow, refuse]
