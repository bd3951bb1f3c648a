"""HTTP as bytes, for tests of the gateway's transport: a door with a recording handler, raw peers, certificates.

Nothing here parses more than it must, so that what the product writes is seen as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from llmops.gateway.calls import Handler, Request, Responder
from llmops.gateway.config import HttpConfig
from llmops.gateway.http.server import HttpServer
from llmops.gateway.http.timers import Timers

PATIENCE_S = 120.0
JSON = ((b"content-type", b"application/json"),)
T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """One test on the loop that workers use; hangs end as failures."""

    async def bounded() -> T:
        return await asyncio.wait_for(work, PATIENCE_S)

    return uvloop.run(bounded())


async def until(condition: Callable[[], object]) -> None:
    """Wait for something to become true, for as long as a slow machine may need."""
    async with asyncio.timeout(PATIENCE_S / 2):
        while not condition():  # noqa: ASYNC110 - the condition is any expression, told by nobody
            await asyncio.sleep(0.005)


def post(body: bytes = b"{}", *lines: bytes, path: bytes = b"/v1/chat/completions") -> bytes:
    """A good request, with further header lines."""
    head = [b"POST " + path + b" HTTP/1.1", b"Host: localhost", b"Content-Length: %d" % len(body), *lines]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


@dataclass
class Answered:
    """One reply as a peer saw it."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes
    chunks: list[bytes] = field(default_factory=list)


class Peer:
    """A caller that sends what it is told to, byte for byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    async def reply(self, *, bodyless: bool = False) -> Answered:
        head = await self.reader.readuntil(b"\r\n\r\n")
        lines = head[:-4].split(b"\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
        answered = Answered(int(lines[0].split(b" ")[1]), headers, b"")
        if bodyless or answered.status in (100, 204, 304):
            return answered
        if headers.get(b"transfer-encoding") == b"chunked":
            while chunk := await self._chunk():
                answered.chunks.append(chunk)
            answered.body = b"".join(answered.chunks)
        elif b"content-length" in headers:
            answered.body = await self.reader.readexactly(int(headers[b"content-length"]))
        else:
            answered.body = await self.rest()
        return answered

    async def _chunk(self) -> bytes:
        size = int((await self.reader.readuntil(b"\r\n"))[:-2], 16)
        data = await self.reader.readexactly(size + 2)
        assert data.endswith(b"\r\n")
        return data[:-2]

    async def rest(self) -> bytes:
        """Everything until the connection ends, however it ends."""
        parts = []
        with contextlib.suppress(ConnectionError):
            while part := await self.reader.read(65536):
                parts.append(part)
        return b"".join(parts)

    async def ask(self, data: bytes) -> Answered:
        await self.send(data)
        return await self.reply()

    def reset(self) -> None:
        """Leave with a TCP reset."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await self.writer.wait_closed()


@asynccontextmanager
async def peer(port: int, **options: Any) -> AsyncIterator[Peer]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, **options)
    one = Peer(reader, writer)
    try:
        yield one
    finally:
        await one.close()


@dataclass
class Door:
    """A running server, and what reached its handler."""

    server: HttpServer
    port: int
    requests: list[Request]
    responders: list[Responder]

    async def ask(self, data: bytes) -> Answered:
        """One request on a connection of its own."""
        async with peer(self.port) as one:
            return await one.ask(data)


def echo(request: Request, responder: Responder) -> None:
    responder.send(200, JSON, request.body)


def wait(request: Request, responder: Responder) -> None:
    """Leave the answer to the test."""


@asynccontextmanager
async def door(handler: Handler = echo, tick_s: float = 0.02, **config: Any) -> AsyncIterator[Door]:
    timers = Timers(asyncio.get_running_loop(), tick_s)
    requests: list[Request] = []
    responders: list[Responder] = []

    def handle(request: Request, responder: Responder) -> None:
        requests.append(replace(request))
        responders.append(responder)
        handler(request, responder)

    server = HttpServer(handle, HttpConfig(**config), timers)
    port = await server.listen()
    try:
        yield Door(server, port, requests, responders)
    finally:
        await server.drain(0.0)
        await until(lambda: not server.connections)
        timers.close()


class Memory(asyncio.Transport):
    """A transport without a socket, for feeding a connection piece by piece."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.closed = True

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


@contextlib.contextmanager
def full_listener() -> Iterator[int]:
    """The port of a listener whose queue is full: it answers no further SYN, and refuses none."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        yield full.getsockname()[1]


# --- certificates ----------------------------------------------------------------------------------------------------


def certificate(folder: Path, name: str = "localhost") -> tuple[Path, Path]:
    """A self-signed certificate for `name` and 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / f"{name}.pem", folder / f"{name}.key"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_file, key_file
