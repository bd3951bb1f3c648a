"""A chat server that keeps the books of what it charges, cuts streams at random, and counts who is with it at once."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

INPUT_TOKENS = 7


@dataclass
class Ledger:
    """What was charged, by the nonce in the request; `cut` holds those whose usage was never told."""

    seed: int = 0
    cut_share: float = 0.1
    pause_s: float = 0.01
    charged: dict[str, tuple[int, int]] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    arrived: dict[str, float] = field(default_factory=dict)
    present: int = 0
    most_present: int = 0
    url: str = ""

    def nano(self, input_price: int, output_price: int) -> int:
        return sum(i * input_price + o * output_price for i, o in self.charged.values())

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                body = json.loads(await reader.readexactly(int(lengths[0].split(b":")[1])))
                if not await self._answer(writer, body):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            return  # the gateway needs this connection no more
        finally:
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, body: dict[str, Any]) -> bool:
        nonce = body["messages"][0]["content"]
        chance = random.Random(f"{self.seed} {nonce}")
        pieces = chance.randint(1, body["max_tokens"])
        cut = chance.randint(1, pieces) if chance.random() < self.cut_share else None
        self.charged[nonce] = (INPUT_TOKENS, 0)
        self.arrived[nonce] = time.monotonic()
        self.present += 1
        self.most_present = max(self.most_present, self.present)
        try:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            for number in range(pieces):
                if number == cut:
                    self.cut.add(nonce)
                    return False
                self.charged[nonce] = (INPUT_TOKENS, number + 1)
                _event(writer, {"choices": [{"index": 0, "delta": {"content": "word "}, "finish_reason": None}]})
                await writer.drain()
                await asyncio.sleep(self.pause_s * chance.random())
            _event(writer, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            usage = {"prompt_tokens": INPUT_TOKENS, "completion_tokens": pieces, "total_tokens": INPUT_TOKENS + pieces}
            _event(writer, {"choices": [], "usage": usage})
        finally:
            self.present -= 1  # before the gateway can know that it is over
        _chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True


@asynccontextmanager
async def ledger_upstream(**options: Any) -> AsyncIterator[Ledger]:
    ledger = Ledger(**options)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with suppress(asyncio.CancelledError):
            await ledger.serve(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=512)
    ledger.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield ledger
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _event(writer: asyncio.StreamWriter, value: dict[str, Any]) -> None:
    told = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", **value}
    _chunk(writer, b"data: " + json.dumps(told).encode() + b"\n\n")


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
