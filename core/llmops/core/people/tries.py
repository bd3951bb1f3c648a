"""How often a password may be guessed: counted by name and by address, in the database, before the guess is looked at.

A try is counted when it begins, so that a hundred at once are a hundred. Knows no password.
"""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final

from sqlalchemy import bindparam, delete, text, update

from llmops.core.errors import RateLimitedError
from llmops.core.people.tables import TRIES
from llmops.core.sql import Sql, Timestamp

WINDOW: Final = timedelta(minutes=15)
MOST: Final = {"both": 5, "name": 50, "from": 30}
"""Tries in a window: of one name from one address, of one name from everywhere, and from one address of any name. Only
the second can be used up by strangers, so it is wide: nobody should be able to lock somebody else out easily."""

_COUNT: Final = text(
    "INSERT INTO sign_in_tries (bucket, tries, since) VALUES (:bucket, 1, :since) "
    "ON CONFLICT (bucket) DO UPDATE SET tries = sign_in_tries.tries + 1 RETURNING tries"
).bindparams(bindparam("since", type_=Timestamp))


class Tries:
    """The table of tries."""

    def __init__(self, sql: Sql) -> None:
        self._sql = sql

    def take(self, name: str, address: str) -> None:
        """Count one try.

        Raises:
            RateLimitedError: there were too many; it is not told which kind.
        """
        now, kinds = datetime.now(UTC), _buckets(name, address)
        with self._sql.begin() as connection:
            connection.execute(delete(TRIES).where(TRIES.c.since < now - WINDOW))
            for kind, bucket in sorted(
                kinds.items()
            ):  # one order for all, so that two at once never wait for each other
                counted = connection.execute(_COUNT, {"bucket": bucket, "since": now}).scalar_one()
                if counted > MOST[kind]:
                    raise RateLimitedError("too many tries", code="too_many_tries", hint="wait a quarter of an hour")

    def forget(self, name: str, address: str) -> None:
        """The right password was shown: what was counted against the name is void, and its try at the address, too."""
        kinds = _buckets(name, address)
        with self._sql.begin() as connection:
            connection.execute(delete(TRIES).where(TRIES.c.bucket == kinds["both"]))
            given_back = update(TRIES).where(TRIES.c.bucket == kinds["from"], TRIES.c.tries > 0)
            connection.execute(given_back.values(tries=TRIES.c.tries - 1))
            connection.execute(delete(TRIES).where(TRIES.c.bucket == kinds["name"]))


def _buckets(name: str, address: str) -> dict[str, str]:
    """What a try counts against. Names are hashed: people type passwords into the wrong field."""
    place = _network(address)
    who = sha256(name.casefold().encode(errors="surrogatepass")).hexdigest()[:32]
    return {"both": f"both:{who}:{place}", "name": f"name:{who}", "from": f"from:{place}"}


def _network(address: str) -> str:
    """An IPv4 address, or the /64 of an IPv6 one: whoever has one of its addresses has them all."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "unknown"
    return str(found) if found.version == 4 else str(ipaddress.ip_network(f"{found}/64", strict=False))
