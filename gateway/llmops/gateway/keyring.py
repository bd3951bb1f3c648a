"""The virtual keys as a worker knows them: a snapshot that the control process writes, read again when it changed.

Knows tokens, hashes and expiry. It asks no database, so a key is found in a microsecond and a database that is gone
stops nobody; which routes a key opens, and how much it may use, is for the engine to enforce.
"""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

from llmops.core.errors import IntegrityError
from llmops.core.files import write_atomic
from llmops.gateway.calls import KeyPolicy

SNAPSHOT = "keys.json"
"""Name of the snapshot in the gateway's folder."""

_FORMAT = 1
_PREFIX, _ID, _SECRET = b"lk_", 16, 43  # lk_<id>_<secret>, as core.keys makes them
_LENGTH = len(_PREFIX) + _ID + 1 + _SECRET
_NOBODY = "0" * 64
_log = logging.getLogger(__name__)


class Ring:
    """The keys of one snapshot. `refresh` looks whether there is a newer one; call it a few times a second."""

    def __init__(self, policies: Iterable[KeyPolicy] = ()) -> None:
        self._policies = {policy.key_id.encode(): policy for policy in policies}
        self._path: Path | None = None
        self._seen: tuple[int, int, int] | None = None

    @classmethod
    def load(cls, path: Path) -> Ring:
        """The keys of the snapshot; none where it does not exist yet.

        Raises:
            IntegrityError: the file is no key snapshot.
        """
        ring = cls()
        ring._path = path
        ring._seen = _mark(path)
        if ring._seen is not None:
            ring._policies = _read(path)
        return ring

    def refresh(self) -> bool:
        """Take over a changed snapshot; tells whether there was one. A broken one is logged, and the old keys stay."""
        if self._path is None or (mark := _mark(self._path)) == self._seen:
            return False
        self._seen = mark
        try:
            self._policies = _read(self._path) if mark is not None else {}
        except IntegrityError as error:
            _log.error("%s (%s); the keys read before stay in force", error.what, error.where)
            return False
        return True

    def find(self, token: bytes | str) -> KeyPolicy | None:
        """Whose token this is. Malformed, unknown, wrong, expired and revoked are not told apart.

        The secret's hash is compared in constant time, also where there is no such key.
        """
        if isinstance(token, str):
            token = token.encode("utf-8", "replace")
        if len(token) != _LENGTH or not token.startswith(_PREFIX) or token[19] != 0x5F:
            return None
        policy = self._policies.get(token[3:19])
        right = hmac.compare_digest(
            sha256(token[20:]).hexdigest(), policy.secret_sha256 if policy is not None else _NOBODY
        )
        if not right or policy is None:
            return None
        if policy.expires_at is not None and policy.expires_at <= time.time():
            return None
        return policy

    def holds(self, policy: KeyPolicy) -> bool:
        """Whether a key that was found is still there. While there is no snapshot nothing is said against it."""
        known = self._policies.get(policy.key_id.encode())
        return self._seen is None or (known is not None and known.secret_sha256 == policy.secret_sha256)

    def __len__(self) -> int:
        return len(self._policies)


def write_snapshot(path: Path, policies: Iterable[KeyPolicy]) -> None:
    """Replace the snapshot, readable by this user alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, encode(policies), mode=0o600)


def encode(policies: Iterable[KeyPolicy]) -> bytes:
    """The snapshot's bytes: the same for the same keys in any order."""
    keys = [_as_json(policy) for policy in sorted(policies, key=lambda policy: policy.key_id)]
    return orjson.dumps({"format": _FORMAT, "keys": keys})


def _as_json(policy: KeyPolicy) -> dict[str, Any]:
    return {
        "key_id": policy.key_id,
        "secret_sha256": policy.secret_sha256,
        "name": policy.name,
        "groups": sorted(policy.groups),
        "scopes": sorted(policy.scopes),
        "expires_at": policy.expires_at,
        "team": policy.team,
        "routes": sorted(policy.routes),
        "tags": dict(sorted(policy.tags.items())),
        "limits": dict(sorted(policy.limits.items())),
        "budgets": [list(budget) for budget in policy.budgets],
    }


def _read(path: Path) -> dict[bytes, KeyPolicy]:
    try:
        snapshot = orjson.loads(path.read_bytes())
        if snapshot["format"] != _FORMAT:
            raise ValueError(f"format {snapshot['format']}")
        policies = [_policy(entry) for entry in snapshot["keys"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(
            f"the key snapshot cannot be read: {error!r}",
            where=str(path),
            hint="delete it: the control process writes it again",
        ) from error
    return {policy.key_id.encode(): policy for policy in policies}


def _policy(entry: Mapping[str, Any]) -> KeyPolicy:
    return KeyPolicy(
        key_id=entry["key_id"],
        secret_sha256=entry["secret_sha256"],
        name=entry["name"],
        groups=frozenset(entry["groups"]),
        scopes=frozenset(entry["scopes"]),
        expires_at=entry["expires_at"],
        team=entry["team"],
        routes=frozenset(entry["routes"]),
        tags=dict(entry["tags"]),
        limits={name: int(value) for name, value in entry["limits"].items()},
        budgets=tuple((int(nano_usd), period) for nano_usd, period in entry["budgets"]),
    )


def _mark(path: Path) -> tuple[int, int, int] | None:
    """What changes whenever the file is replaced."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
