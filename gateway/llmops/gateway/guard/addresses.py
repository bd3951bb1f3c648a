"""Judges where a URL points before anybody else follows it: never inside a network, in whatever spelling.

Reads hosts as generously as the most generous client does (WHATWG URL, inet_aton), and refuses what clients read
differently from each other. It opens no connection; names are looked up by the system's resolver. A name that answers
differently later (DNS rebinding) is the upstream's to catch.

Source: https://url.spec.whatwg.org/#host-parsing
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import time
import unicodedata
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote

from llmops.core.addresses import Address, is_public

MAX_URL = 8192
RESOLVE_S = 5.0
"""For all names of a request together."""
_THREADS = 4
_REMEMBERED = 1024
_REMEMBERED_S = 60.0
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):(?P<rest>.*)", re.DOTALL)
_STRANGE = re.compile(r"[\x00-\x20\x7f\\]")  # clients drop, stop at, or turn these into something else
_NUMBER = re.compile(r"0[xX][0-9A-Fa-f]*|[0-9]+")
_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*")
_INSIDE = ("localhost", "local", "internal", "intranet", "private", "corp", "home", "lan", "home.arpa", "arpa", "onion")


class RefusedUrlError(ValueError):
    """The URL must not be followed; the text says why and shows nothing of it."""


def check_url(url: str) -> str | None:
    """The host name that is still to be looked up; None where nothing is left to ask (an address, inline data).

    Raises:
        RefusedUrlError: it points inside, or clients would not agree where it points.
    """
    head = url[:5].lower()
    if head == "data:":
        return None
    if len(url) > MAX_URL:
        raise RefusedUrlError(f"it is longer than {MAX_URL} characters")
    found = _URL.match(url)
    if _STRANGE.search(url) or not found:
        raise RefusedUrlError("it is not a plain URL")
    if found["scheme"].lower() not in ("http", "https"):
        raise RefusedUrlError("only http, https and inline data are followed")
    if not found["rest"].startswith("//"):
        raise RefusedUrlError("it is not a plain URL")
    authority = re.split(r"[/?#]", found["rest"][2:], maxsplit=1)[0]
    if "@" in authority:
        raise RefusedUrlError("it names a user before its host")
    return _check_host(_host(authority))


def _host(authority: str) -> str:
    """The host as a client reads it: without port, escapes, full-width forms and final dot."""
    bracket = authority.startswith("[")
    host, _, port = authority[1:].partition("]") if bracket else authority.partition(":")
    if bracket:
        port = port.removeprefix(":")
    if port and not (port.isascii() and port.isdigit()):
        raise RefusedUrlError("its port is no number")
    if bracket:
        return f"[{host.partition('%')[0]}]"
    plain = unicodedata.normalize("NFKC", unquote(host)).casefold().replace("\u3002", ".")
    return "".join(character for character in plain if unicodedata.category(character) != "Cf").removesuffix(".")


def _check_host(host: str) -> str | None:
    if host.startswith("["):
        try:
            check_address(ipaddress.IPv6Address(host[1:-1]))
        except ipaddress.AddressValueError:
            raise RefusedUrlError("its host is no address") from None
        return None
    last = host.rpartition(".")[2]
    if _NUMBER.fullmatch(last):
        check_address(_loose_ipv4(host))
        return None
    name = _ascii(host)
    if name in _INSIDE or name.endswith(tuple(f".{ending}" for ending in _INSIDE)) or "." not in name:
        raise RefusedUrlError("its host is a name of an inner network")
    return name


def _ascii(host: str) -> str:
    try:
        name = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:
        raise RefusedUrlError("its host is no name") from None
    if len(name) > 253 or not _NAME.fullmatch(name):
        raise RefusedUrlError("its host is no name")
    return name


def _loose_ipv4(host: str) -> Address:
    """As inet_aton reads it: one to four numbers, decimal, octal or hexadecimal, the last one filling the rest."""
    parts = host.split(".")
    if len(parts) > 4 or not all(map(_NUMBER.fullmatch, parts)):
        raise RefusedUrlError("its host is no address")
    try:
        numbers = [_number(part) for part in parts]
    except ValueError:
        raise RefusedUrlError("its host is no address") from None
    *leading, final = numbers
    if any(number > 255 for number in leading) or final >= 256 ** (5 - len(parts)):
        raise RefusedUrlError("its host is no address")
    value = final + sum(number << 8 * (3 - place) for place, number in enumerate(leading))
    plain = all(part == str(number) for part, number in zip(parts, numbers, strict=True)) and len(parts) == 4
    if not plain:
        raise RefusedUrlError("its host is an address written so as to hide it")
    return ipaddress.IPv4Address(value)


def _number(part: str) -> int:
    if part[:2].lower() == "0x":
        return int(part[2:] or "0", 16)
    return int(part, 8) if len(part) > 1 and part[0] == "0" else int(part[:20])


def check_address(address: Address) -> None:
    """Refuse what is not on the public Internet, also where it is wrapped in another kind of address.

    Raises:
        RefusedUrlError: private, loopback, link-local (the clouds' metadata), multicast, or reserved.
    """
    if not is_public(address):
        raise RefusedUrlError("it points to an address that is not on the public Internet")


class Resolver:
    """Looks names up and judges every address they have; remembers the good ones for a minute.

    In threads of its own: names that nobody answers for must not hold up those of the providers.
    """

    _threads: ThreadPoolExecutor | None = None

    def __init__(self) -> None:
        self._good: OrderedDict[str, float] = OrderedDict()

    async def check(self, name: str) -> None:
        """Raises RefusedUrlError: it points inside, or nobody knows the name here. Bound the time."""
        now = time.monotonic()
        if self._good.get(name, 0.0) > now:
            return
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._pool(), _addresses, name)
        except (OSError, UnicodeError):
            raise RefusedUrlError("its host cannot be resolved here") from None
        for *_, address in found:
            check_address(ipaddress.ip_address(str(address[0]).partition("%")[0]))
        self._good[name] = now + _REMEMBERED_S
        self._good.move_to_end(name)
        if len(self._good) > _REMEMBERED:
            self._good.popitem(last=False)

    @classmethod
    def _pool(cls) -> ThreadPoolExecutor:
        """One for all routes, made when the first name is looked up."""
        if Resolver._threads is None:
            Resolver._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="llmops-names")
        return Resolver._threads


def _addresses(name: str) -> list[Any]:
    return socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
