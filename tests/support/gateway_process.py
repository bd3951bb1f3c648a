"""A supervised gateway in a process of its own whose workers only tell who they are: for tests of the supervision.

Run as a program: `gateway_process.py CONFIG.yaml [die|refuse|real]`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmops.core import logs
from llmops.core.config import load_config
from llmops.core.errors import ConfigError, LlmopsError, render
from llmops.gateway import crew, supervisor
from llmops.gateway.config import GatewayConfig
from llmops.gateway.published import load_published
from llmops.gateway.supervisor import Parts, Source, run_gateway


def run_worker(config: GatewayConfig, listener: socket.socket, number: int, ready: Callable[[], None]) -> None:
    asyncio.run(_work(config, listener, number, ready))


async def _work(config: GatewayConfig, listener: socket.socket, number: int, ready: Callable[[], None]) -> None:
    state: dict[str, Any] = {"config": config}
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: state.update(config=load_published(config.folder)))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        before = state["config"]
        told = {"pid": os.getpid(), "number": number, "routes": [route.name for route in before.routes]}
        body = json.dumps(told).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body))
        if head.startswith(b"GET /slow "):  # whoever has the head knows that the reply is under way
            await asyncio.sleep(0.3)
        writer.write(body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, sock=listener)
    ready()
    await stopped.wait()
    server.close()
    await asyncio.gather(*(task for task in asyncio.all_tasks() if task is not asyncio.current_task()))


def dying_worker(_config: GatewayConfig, _listener: socket.socket, _number: int, _ready: Callable[[], None]) -> None:
    sys.exit("the worker has a defect")


def refusing_worker(_config: GatewayConfig, _listener: socket.socket, _number: int, _ready: Callable[[], None]) -> None:
    raise ConfigError("this worker cannot start", where="somewhere", hint="mend it")


def check(config: GatewayConfig) -> None:
    if any(route.name == "impossible" for route in config.routes):
        raise ConfigError("no worker could run with this", where="routes")


def main(file: Path, kind: str = "small") -> int:
    logs.configure("INFO")
    supervisor.POLL_S, crew._FIRST_PAUSE_S = 0.1, 0.005
    works = {"small": run_worker, "die": dying_worker, "refuse": refusing_worker}
    parts = None if kind == "real" else Parts(works[kind], check)

    def read() -> GatewayConfig:
        return load_config(GatewayConfig, file).value

    try:
        run_gateway(
            read(),
            source=Source(read, file),
            parts=parts,
            announce=lambda url, control: print(json.dumps([url, control]), flush=True),
        )
    except LlmopsError as error:
        print(render(error), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
