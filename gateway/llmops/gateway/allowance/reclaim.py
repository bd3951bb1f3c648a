"""Settles what a killed process of this machine held: what was free goes back, what was under way counts as spent.

Any process may do it, at any time: the journal's lock tells the living from the dead and lets one process settle
alone. A journal is removed only after the store has booked it; booking again changes nothing.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from llmops.gateway.allowance.exchange import Burial, Store
from llmops.gateway.allowance.journal import DeadJournal, dead_journals

JOURNALS = "leases"
_MACHINE = "machine"


def machine_of(folder: Path) -> str:
    """A name for this state folder that no other one has; made once."""
    path = folder / _MACHINE
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            return path.read_text(encoding="ascii")
        except FileNotFoundError:
            mine = folder / f".{_MACHINE}.{secrets.token_hex(4)}"
            mine.write_text(secrets.token_hex(6), encoding="ascii")
            try:
                path.hardlink_to(mine)  # whole, or already another's
            except FileExistsError:
                continue
            finally:
                mine.unlink()


def holder_name(folder: Path) -> str:
    """A new name for one life of a process."""
    return f"{machine_of(folder)}-{secrets.token_hex(6)}"


async def reclaim(store: Store, folder: Path) -> int:
    """Settle the dead of this folder; gives how many leases that were. Raises StoreGone; call again then."""
    settled = 0
    for journal in dead_journals(folder / JOURNALS):
        booked = False
        try:
            burials = await _burials(store, journal)
            await store.bury(journal.holder, burials)
            booked = True
            settled += len(burials)
        finally:
            journal.close(remove=booked)
    return settled


async def _burials(store: Store, journal: DeadJournal) -> list[Burial]:
    burials = []
    for row in await store.leases(journal.holder):
        if row.kind == "usd":
            free, debt = journal.left_of(row)
            burials.append(Burial(row.account, row.serial, min(max(free, 0), row.amount), debt))
    return burials
