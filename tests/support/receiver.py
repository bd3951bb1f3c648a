"""An HTTP server that keeps what is posted to it, and a mail server that keeps what is sent to it."""

from __future__ import annotations

import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult
from tests.support.ports import free_port


class Receiver:
    """What came in by HTTP; `statuses` are the answers to come, then 200."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.statuses: list[int] = []
        self.location = ""
        self.url = ""


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(receiver.statuses.pop(0) if receiver.statuses else 200)
            if receiver.location:
                self.send_header("location", receiver.location)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    receiver.url = f"http://127.0.0.1:{server.server_address[1]}/in"
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Mailbox:
    """What came in by SMTP."""

    def __init__(self) -> None:
        self.got: list[tuple[list[str], Message]] = []
        self.logins: list[tuple[str, str]] = []
        self.port = 0

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.got.append((envelope.rcpt_tos, message_from_bytes(envelope.content)))
        return "250 OK"


@contextmanager
def mailing(certificate: Path | None = None, password: str = "") -> Iterator[Mailbox]:
    """A mail server; with a certificate it offers STARTTLS, and asks for a log-in."""
    box = Mailbox()
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)

    def authenticate(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
        box.logins.append((data.login.decode(), data.password.decode()))
        return AuthResult(success=data.password.decode() == password)

    class Server(Controller):
        def factory(self) -> SMTP:
            options = {"tls_context": context, "require_starttls": True} if context else {}
            if password:
                options |= {"authenticator": authenticate, "auth_required": True}
            return SMTP(self.handler, **options)

    box.port = free_port()
    server = Server(box, hostname="127.0.0.1", port=box.port, ready_timeout=60)
    server.start()
    try:
        yield box
    finally:
        server.stop()


def certificate(folder: Path) -> Path:
    """A certificate for localhost, and its key, in one file."""
    key, made = folder / "key.pem", folder / "cert.pem"
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command = ["openssl", "req", *kind, *name, "-keyout", str(key), "-out", str(made)]
    subprocess.run(command, check=True, capture_output=True)
    made.write_text(made.read_text() + key.read_text())
    return made
