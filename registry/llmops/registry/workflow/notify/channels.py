"""The ways out: a signed webhook, Slack's format, e-mail. Each refuses private addresses unless its entry allows them.

Secrets are resolved here, at the moment of sending, and stand in no error. Knows protocols; not why a message is sent.
"""

from __future__ import annotations

import smtplib
import socket
import ssl
from collections.abc import Mapping
from email.message import EmailMessage
from typing import Any

from llmops.core.addresses import checked_address
from llmops.core.errors import UpstreamError
from llmops.core.secret import resolve_secret
from llmops.core.webhook import Webhook
from llmops.registry.workflow.config import MailConfig, NotifyConfig, SlackConfig, WebhookConfig

TIMEOUT_S = 15.0
_ALLOW = "set `allow_private: true` on this entry of `notify` if it is meant"
_WORDS = {
    "started": "started", "waiting": "waits", "failed": "failed", "succeeded": "succeeded",
    "cancelled": "was cancelled", "promoted": "promoted a version",
}  # fmt: skip


def send(entry: NotifyConfig, body: Mapping[str, Any]) -> None:
    """Send one message.

    Raises:
        DeniedError: the receiver has a private address.
        UpstreamError: it does not answer, or refuses.
        ConfigError: a secret's reference leads nowhere.
    """
    match entry:
        case WebhookConfig():
            _webhook(entry.url, entry).post(body)
        case SlackConfig():
            _webhook(entry.url, entry).post({"text": _escaped(text_of(body))})
        case MailConfig():
            _mail(entry, body)


def text_of(body: Mapping[str, Any]) -> str:
    """The message in a few lines for people."""
    lines = [f"{subject_of(body)} (run {body['run_id']}, {body['catalog']}, {body['cause']} by {body['requested_by']})"]
    if body.get("reason"):
        lines.append(f"reason: {body['reason']}")
    if error := body.get("error"):
        lines.append(f"error: {error['what']}")
        lines += [f"{key}: {error[key]}" for key in ("where", "hint", "log") if error.get(key)]
    if body.get("values"):
        lines.append(", ".join(f"{key}: {value}" for key, value in body["values"].items())[:1000])
    return "\n".join(lines)


def subject_of(body: Mapping[str, Any]) -> str:
    at = f" at {body['task']}" if body.get("task") else ""
    return f"workflow {body['workflow']} {_WORDS[body['event']]}{at}"


def _webhook(url: str, entry: WebhookConfig | SlackConfig) -> Webhook:
    resolved = url if url.startswith(("http://", "https://")) else resolve_secret(url)
    secret = entry.secret if isinstance(entry, WebhookConfig) else None
    kind = Webhook if resolved == url else _Hidden
    return kind(resolved, secret, private=entry.allow_private, what=f"{entry.kind} notification", hint=_ALLOW)


class _Hidden(Webhook):
    """A receiver whose whole URL is a secret: errors name its host only."""

    @property
    def shown(self) -> str:
        return f"{self._parts.scheme}://{self._parts.hostname}/..."


def _escaped(text: str) -> str:
    """Slack's three control characters: what a task said must not become a link or a mention."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _mail(entry: MailConfig, body: Mapping[str, Any]) -> None:
    message = EmailMessage()
    message["From"], message["To"] = entry.sender, ", ".join(entry.to)
    message["Subject"] = f"[llmops] {subject_of(body)}"
    message["Message-ID"] = f"<{body['id']}@llmops>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(text_of(body))
    where = f"{entry.host}:{entry.port}"
    try:
        address = checked_address(entry.host, entry.port, private=entry.allow_private, hint=_ALLOW)
        with _connection(entry, address) as smtp:
            if entry.tls == "starttls":
                smtp.starttls(context=ssl.create_default_context(cafile=entry.ca_file))
            if entry.password is not None:
                smtp.login(entry.user or "", resolve_secret(entry.password))
            smtp.send_message(message)
    except (OSError, smtplib.SMTPException) as error:
        told = (
            f"{type(error).__name__}: {error}"
            if not isinstance(error, smtplib.SMTPAuthenticationError)
            else "log-in refused"
        )
        raise UpstreamError(f"the mail server did not take the message: {told}"[:500], where=where) from error


def _connection(entry: MailConfig, address: str) -> smtplib.SMTP:
    """A connection to the checked address; its certificate must be the name's."""
    if entry.tls == "tls":
        return _SmtpSsl(address, entry)
    return _Smtp(address, entry)


class _Smtp(smtplib.SMTP):
    def __init__(self, address: str, entry: MailConfig) -> None:
        self._address = address
        super().__init__(entry.host, entry.port, timeout=TIMEOUT_S)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        return socket.create_connection((self._address, port), timeout)


class _SmtpSsl(smtplib.SMTP_SSL):
    def __init__(self, address: str, entry: MailConfig) -> None:
        self._address = address
        context = ssl.create_default_context(cafile=entry.ca_file)
        super().__init__(entry.host, entry.port, timeout=TIMEOUT_S, context=context)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        opened = socket.create_connection((self._address, port), timeout)
        return self.context.wrap_socket(opened, server_hostname=host)
