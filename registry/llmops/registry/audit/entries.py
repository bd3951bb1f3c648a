"""One row of the audit log: what it says, and the seal that makes a chain of them.

The seal is the HMAC-SHA256 of a row's columns, written as one JSON array; the hash of the row before it is one of them.
Knows values and bytes, no database and no file.
"""

from __future__ import annotations

import hmac
import os
import pwd
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import orjson

from llmops.core.identity import Principal
from llmops.core.ids import canonical_json, digest
from llmops.core.redact import redact_secrets

VERSION = "1"
INTENT, DONE, FAILED, DENIED, ABANDONED = "intent", "done", "failed", "denied", "abandoned"
PHASES = (INTENT, DONE, FAILED, DENIED, ABANDONED)
ANCHOR = "anchor"
"""The action by which the log tells that its anchor was begun anew."""
MOST_JSON_BYTES = 32_768
_MOST_ERROR_CHARS = 2_000


@dataclass(frozen=True)
class Origin:
    """Where actions come from, as far as the door they came through can tell."""

    service_name: str = "registry"
    source_ip_address: str | None = None
    user_agent: str | None = None
    request_id: str | None = None

    @classmethod
    def local(cls, service_name: str = "registry") -> Origin:
        """A process of this machine: its package, account and host."""
        return cls(service_name, user_agent=_agent())


@dataclass(frozen=True)
class Entry:
    """A row of the log; the order of the fields is the order in which they are sealed."""

    seq: int
    action_id: str
    phase: str
    event_time: str
    version: str
    audit_level: str
    account_id: str
    org_id: str | None
    source_ip_address: str | None
    user_agent: str | None
    session_id: str
    request_id: str | None
    actor: str
    actor_kind: str
    actor_groups: str
    service_name: str
    action_name: str
    about: str
    request_params: str
    status_code: int | None
    error_message: str | None
    result: str | None
    evidence_id: str | None
    prev_hash: str
    hash: str

    def as_json(self) -> dict[str, Any]:
        """The row as `llmops audit list --json` prints it, in the shape of Databricks' audit log."""
        return {
            "seq": self.seq,
            "action_id": self.action_id,
            "phase": self.phase,
            "event_time": self.event_time,
            "version": self.version,
            "audit_level": self.audit_level,
            "account_id": self.account_id,
            "org_id": self.org_id,
            "source_ip_address": self.source_ip_address,
            "user_agent": self.user_agent,
            "session_id": self.session_id,
            "request_id": self.request_id,
            "user_identity": {
                "email": self.actor if "@" in self.actor else None,
                "subject_name": self.actor,
                "kind": self.actor_kind,
                "groups": orjson.loads(self.actor_groups),
            },
            "service_name": self.service_name,
            "action_name": self.action_name,
            "about": self.about,
            "request_params": orjson.loads(self.request_params),
            "response": {
                "status_code": self.status_code,
                "error_message": self.error_message,
                "result": None if self.result is None else orjson.loads(self.result),
            },
            "evidence_id": self.evidence_id,
            "prev_hash": self.prev_hash,
            "hash": self.hash,
        }


COLUMNS = tuple(field.name for field in fields(Entry))
SEALED = COLUMNS[:-1]


def seal(key: bytes, values: Sequence[Any]) -> str:
    """The hash of a row, from the values of its sealed columns in their order."""
    return hmac.digest(key, orjson.dumps(values), "sha256").hex()


def fingerprint(key: bytes) -> str:
    """Which key it is, without telling it: 16 hex digits."""
    return hmac.digest(key, b"llmops audit chain", "sha256").hex()[:16]


def now() -> str:
    """This moment as the log writes it: the texts of two moments compare as they do."""
    return moment(datetime.now(UTC))


def moment(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def who(principal: Principal) -> dict[str, Any]:
    """The columns that say who acted."""
    groups = canonical_json(sorted(principal.groups)).decode()
    return {"actor": principal.id[:200], "actor_kind": principal.kind, "actor_groups": groups}


def clean_json(value: Mapping[str, Any]) -> str:
    """Canonical JSON without secrets; of what is too large only its size and digest."""
    encoded = redact_secrets(canonical_json(value))
    if len(encoded) > MOST_JSON_BYTES:
        encoded = canonical_json({"omitted_bytes": len(encoded), "sha256": digest(encoded)})
    return encoded.decode()


def clean_text(text: str) -> str:
    """An error's text without secrets, and not endless."""
    return redact_secrets(text[:_MOST_ERROR_CHARS].encode(errors="replace")).decode(errors="replace")


@lru_cache(maxsize=1)
def _agent() -> str:
    try:
        package = f"llmops/{version('llmops')}"
    except PackageNotFoundError:
        package = "llmops"
    try:
        account = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # an account without a name, as in many containers
        account = str(os.geteuid())
    return f"{package} ({account}@{socket.gethostname()})"[:200]
