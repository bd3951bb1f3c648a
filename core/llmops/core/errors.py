"""One tree of errors, so that a user always sees what happened, where, and what to do.

Printed by `render`:

    error: unknown key `chunking.ovrelap`
      --> configs/rag.yaml:3:3
    hint: did you mean `overlap`?

Over HTTP the same fields travel in `as_json` (OpenAI's error shape). This module knows no transport and no terminal.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable


class LlmopsError(Exception):
    """Root of everything the product raises on purpose.

    Args:
        what: one sentence, lower case, without a final stop.
        where: file:line:column, a document, an asset, a URL without secrets.
        hint: what the user can do about it.
        code: stable identifier for programs; each class has its own default.
    """

    code: ClassVar[str] = "internal_error"
    exit_code: ClassVar[int] = 2
    http_status: ClassVar[int] = 500

    def __init__(
        self, what: str, *, where: str | None = None, hint: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint
        self.error_code = code or type(self).code

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.what, self.where, self.hint, self.error_code)

    def as_json(self) -> dict[str, Any]:
        """The body of an HTTP error, in the shape OpenAI's clients read."""
        return {
            "error": {
                "message": self.what if not self.hint else f"{self.what} ({self.hint})",
                "type": "invalid_request_error" if self.http_status < 500 else "server_error",
                "code": self.error_code,
                "param": self.where,
            }
        }


def _rebuild(cls: type[LlmopsError], what: str, where: str | None, hint: str | None, code: str) -> LlmopsError:
    return cls(what, where=where, hint=hint, code=code)


class UserError(LlmopsError):
    """The caller can mend it: a wrong argument, a missing file, a refused combination."""

    code = "invalid_request"
    exit_code = 1
    http_status = 400


class ConfigError(UserError):
    """A configuration file or override is wrong; `where` is file:line:column."""

    code = "invalid_config"


class NotFoundError(UserError):
    code = "not_found"
    http_status = 404


class ConflictError(UserError):
    """Somebody else holds the lock, or moved the thing first."""

    code = "conflict"
    http_status = 409


class TooLargeError(UserError):
    code = "too_large"
    http_status = 413


class UnauthenticatedError(UserError):
    code = "unauthenticated"
    http_status = 401


class DeniedError(UserError):
    code = "denied"
    http_status = 403


class UnavailableError(LlmopsError):
    """Something we depend on does not answer; trying again later may help."""

    code = "unavailable"
    exit_code = 1
    http_status = 503


class UpstreamError(UnavailableError):
    """An LLM server refused, failed, or stopped in the middle of a reply."""

    code = "upstream_error"
    http_status = 502


class RateLimitedError(UnavailableError):
    code = "rate_limited"
    http_status = 429


class IntegrityError(LlmopsError):
    """Stored data is not what was recorded: a digest, a checksum or a schema does not match."""

    code = "integrity"
    exit_code = 1


class StorageError(LlmopsError):
    """The disk refused: full, read-only, or gone. What was acknowledged before stays intact."""

    code = "storage"
    exit_code = 1
    http_status = 507


class GateFailedError(LlmopsError):
    """A check that guards a promotion said no."""

    code = "gate_failed"
    exit_code = 3
    http_status = 409


def render(error: LlmopsError) -> str:
    """The three lines a terminal shows."""
    lines = [f"error: {error.what}"]
    if error.where:
        lines.append(f"  --> {error.where}")
    if error.hint:
        lines.append(f"hint: {error.hint}")
    return "\n".join(lines)


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """A hint naming the nearest known word, or None where nothing is near."""
    near = get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return f"did you mean `{near[0]}`?" if near else None
