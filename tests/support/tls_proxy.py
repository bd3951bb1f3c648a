"""A reverse proxy as people put one in front of a server: it speaks https, hands on the Host header, and says who came.

`came_from` stands for the address of whoever connects, since all tests come from this machine.
"""

from __future__ import annotations

import http.client
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_OWN = frozenset({"connection", "transfer-encoding", "content-length", "x-forwarded-for", "x-forwarded-proto"})


@dataclass
class TlsProxy:
    """The running proxy; `backend` is set once the server behind it is there."""

    url: str
    backend: str = ""
    came_from: str = "203.0.113.7"


@contextmanager
def running_proxy(certificate: tuple[Path, Path]) -> Iterator[TlsProxy]:
    """A proxy on a free port of this machine until the block ends."""
    proxy = TlsProxy("")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(proxy))
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    proxy.url = f"https://localhost:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(proxy: TlsProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            said = self.headers.get("x-forwarded-for")
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _OWN}
            headers["x-forwarded-for"] = f"{said}, {proxy.came_from}" if said else proxy.came_from
            headers["x-forwarded-proto"] = "https"
            behind = http.client.HTTPConnection(urlsplit(proxy.backend).netloc.replace("localhost", "127.0.0.1"))
            try:
                behind.request(self.command, self.path, body or None, headers)
                self._hand_on(behind.getresponse())
            finally:
                behind.close()

        do_POST = do_GET

        def _hand_on(self, answer: http.client.HTTPResponse) -> None:
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in _OWN:
                    self.send_header(name, value)
            self.send_header("connection", "close")
            self.end_headers()
            while piece := answer.read1(65536):
                self.wfile.write(piece)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    return Handler
