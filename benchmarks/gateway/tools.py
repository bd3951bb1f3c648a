"""The mock upstream and the load generator in C, processes on their cores, and what the kernel says they used.

Knows programs, ports and /proc; nothing of what is measured. The two C programs stand in the folder that `LLMOPS_BENCH`
names, and are built with three small changes: a nonce in every request, an end that waits for the last replies, and a
count of requests on demand. Gateways run on core 0, everything else on core 1.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BUILD = ROOT / ".benchmarks" / "gateway"
GATEWAY_CORE, OTHER_CORE = 0, min(1, (os.cpu_count() or 1) - 1)
NONCE = "0000000000000000"

_LG = (
    (
        "static void csend(struct conn*c,u64 t){",
        "static char*nonce;static u64 nonces;static void csend(struct conn*c,u64 t){if(nonce){u64 x=++nonces;"
        "for(int i=15;i>=0;i--){nonce[i]=\"0123456789abcdef\"[x&15];x>>=4;}}",
    ),
    (
        "int main(int ac,char**av){",
        "static void again(struct conn*c){if(now()<TE)csend(c,now());}"
        "static int busy(){for(int i=0;i<conns;i++)if(C[i].state)return 1;return 0;}int main(int ac,char**av){",
    ),
    ("csend(c,now())", "again(c)"),
    ("{if(now()<TE)again(c);}", "{if(now()<TE)csend(c,now());}"),
    ("while(now()<TE){int n=", "while(now()<TE||busy()){int n="),
    ("while(rate>0&&next<=now())", "while(rate>0&&next<=now()&&next<TE)"),
    ("memcpy(req+rl,body,bl);rl+=bl;", f'memcpy(req+rl,body,bl);rl+=bl;nonce=memmem(req,rl,"{NONCE}",16);'
     "nonces=(u64)getpid()<<36;"),
    ('printf("{\\"rps\\"', 'printf("{\\"all\\":%ld,\\"rps\\"'),
    (',ok/el,ok,bad', ',okall,ok/el,ok,bad'),
)  # fmt: skip
_MOCK = (
    ("#include <arpa/inet.h>", "#include <arpa/inet.h>\n#include <signal.h>"),
    (
        "int main(int ac,char**av){build();",
        "static void tell(int s){(void)s;char b[64];int n=sprintf(b,\"%llu\\n\",(unsigned long long)nreq);"
        "if(write(1,b,n)){}}int main(int ac,char**av){signal(SIGUSR1,tell);build();",
    ),
)  # fmt: skip


class UnavailableError(Exception):
    """Something that the benchmark needs is not here; the message is for its section."""


def bench_folder() -> Path:
    """Where the C programs stand."""
    named = os.environ.get("LLMOPS_BENCH")
    folder = Path(named) / "gateway" if named else None
    if folder is None or not (folder / "mock.c").exists():
        raise UnavailableError("LLMOPS_BENCH names no folder with gateway/mock.c and gateway/lg.c")
    if shutil.which("gcc") is None:
        raise UnavailableError("there is no C compiler (gcc)")
    return folder


def build_tools() -> tuple[Path, Path]:
    """The built `mock` and `lg`."""
    folder = bench_folder()
    BUILD.mkdir(parents=True, exist_ok=True)
    for name, changes in (("mock", _MOCK), ("lg", _LG)):
        text = (folder / f"{name}.c").read_text(encoding="utf-8")
        for old, new in changes:
            if old not in text:
                raise UnavailableError(f"{name}.c is not the program that this benchmark changes: {old[:40]}")
            text = text.replace(old, new)
        (BUILD / f"{name}.c").write_text(text, encoding="utf-8")
        command = ["gcc", "-O2", "-w", "-o", str(BUILD / name), str(BUILD / f"{name}.c"), "-lm"]
        subprocess.run(command, check=True, capture_output=True)
    return BUILD / "mock", BUILD / "lg"


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def process(command: Sequence[str | Path], core: int, **settings: Any) -> Iterator[subprocess.Popen[str]]:
    """A program on one core, with its children; ended by SIGTERM, after ten seconds by force."""
    pinned = ["taskset", "-c", str(core), *map(str, command)]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **settings}
    running = subprocess.Popen(pinned, text=True, start_new_session=True, **quiet)
    try:
        yield running
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(running.pid, number)
                running.wait(10)
                break
            except ProcessLookupError:
                running.wait(10)
                break
            except subprocess.TimeoutExpired:
                continue


class Mock:
    """The running upstream: plain, slow to stream, and fast to stream."""

    def __init__(self, running: subprocess.Popen[str], ports: Mapping[str, int]) -> None:
        self._running = running
        self.ports = ports

    def count(self) -> int:
        """Requests answered so far."""
        self._running.send_signal(signal.SIGUSR1)
        assert self._running.stdout is not None
        return int(self._running.stdout.readline())


@contextmanager
def mock(program: Path, streams_ms: int = 250, chunks: int = 40) -> Iterator[Mock]:
    """`plain` answers at once, and streams 200 chunks; `slow` streams one chunk each `streams_ms`."""
    ports = {"plain": free_port(), "slow": free_port()}
    arguments = [f"{ports['plain']}:0:0:200", f"{ports['slow']}:0:{streams_ms * 1000}:{chunks}"]
    with process([program, *arguments], OTHER_CORE, stdout=subprocess.PIPE) as running:
        await_port(ports["slow"], running)
        yield Mock(running, ports)


def await_port(port: int, running: subprocess.Popen[str], patience_s: float = 90) -> None:
    """Until something listens there."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if running.poll() is not None or time.monotonic() > deadline:
                raise UnavailableError(f"{running.args!r} does not listen on port {port}") from None
            time.sleep(0.02)


@dataclass(frozen=True)
class Load:
    """How to ask: port, path, body and headers of a gateway, and the load generator."""

    lg: Path
    port: int
    body: Path
    headers: tuple[str, ...] = ()
    path: str = "/v1/chat/completions"

    def run(
        self, connections: int, seconds: float, warm: float = 1.0, streamed: bool = False, per_s: float = 0
    ) -> dict[str, Any]:
        """The load generator's figures; every request carries another nonce.

        Args:
            per_s: so many requests a second, whatever the replies take, timed from when each was due; 0 asks again
                on each connection as soon as it was answered. One that is due while none is free is `dropped`.
        """
        body = self.body.with_name(self.body.stem + "_stream.json") if streamed else self.body
        command = ["taskset", "-c", str(OTHER_CORE), str(self.lg), "-p", str(self.port), "-P", self.path]
        command += ["-b", str(body), "-c", str(connections), "-d", str(seconds), "-w", str(warm)]
        command += ["-s"] if streamed else []
        command += ["-r", str(per_s)] if per_s else []
        for header in self.headers:
            command += ["-H", header]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + warm + 120, check=False)
        if done.returncode:
            raise UnavailableError(f"the load generator failed: {done.stderr[-300:]}")
        figures: dict[str, Any] = json.loads(done.stdout)
        if figures["bad"] or not figures["all"]:
            raise UnavailableError(f"answered {figures['lastbad']}, not 200")
        return figures


def write_bodies(folder: Path, model: str) -> Path:
    """The 941-byte question and its streamed form, with room for the nonce in the text."""
    source = json.loads((bench_folder() / "body.json").read_text(encoding="utf-8"))
    text = source["messages"][1]["content"]
    source["model"] = model
    source["messages"][1]["content"] = f"{NONCE} {text[17:]}"
    path = folder / "body.json"
    path.write_text(json.dumps(source), encoding="utf-8")
    streamed = {**source, "stream": True, "stream_options": {"include_usage": True}}
    path.with_name("body_stream.json").write_text(json.dumps(streamed), encoding="utf-8")
    return path


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*"):
            try:
                found += map(int, (task / "children").read_text().split())
            except FileNotFoundError:
                continue
    return found


def cpu_s(pids: Sequence[int]) -> float:
    """CPU time of the processes so far, by the scheduler's own nanoseconds."""
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").glob("*"):
            try:
                total += int((task / "schedstat").read_text().split()[0])
            except FileNotFoundError:
                continue
    return total / 1e9


def rss_mb(pids: Sequence[int]) -> float:
    """Resident memory of the processes together."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1])
    return total / 1024
