"""What somebody does to the gateway by command, API or page: in whose name, whether they may, and the record of it.

The record is the registry's audit chain. Knows who asks and where from; what is done is for whoever does it.
"""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import Connection
from starlette.requests import Request

from llmops.core.identity import Principal
from llmops.core.ids import new_id
from llmops.registry.access import EVERYTHING, Privilege
from llmops.registry.audit import Origin
from llmops.registry.authority import Authority

SERVICE = "gateway"
"""The gateway's acts, as the log names the part that they came through."""


def asker(request: Request, office: Authority) -> Authority:
    """The authority of whoever passed the door with this request, over the log that the control process keeps open."""
    principal: Principal = request.scope["operator"]
    origin = Origin(
        SERVICE,
        source_ip_address=request.client.host if request.client else None,
        user_agent=request.headers.get("user-agent", "")[:200] or None,
        request_id=new_id(),
    )
    return replace(office, principal=principal, origin=origin)


def require_operator(connection: Connection, by: Authority) -> None:
    """Let operators through: the holder of a key (it is for `gateway:admin`, else no door had let it in), and until
    somebody is granted something everybody else; from then on those who manage everything, since keys carry groups.

    Raises:
        DeniedError: the machine's own account, which no longer manages everything.
    """
    if by.principal.kind != "key":
        by.require(connection, Privilege.MANAGE, EVERYTHING)
