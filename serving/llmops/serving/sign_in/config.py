"""The `sign_in:` and `history:` sections of a serve job. Light to import: pydantic only."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from llmops.core.addresses import is_loopback
from llmops.core.errors import ConfigError
from llmops.core.secret import check_reference

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""How an identity token may be signed: by a private key of the provider's, never by a shared secret."""


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OidcConfig(Section):
    """A provider of identities that speaks OpenID Connect: Keycloak, Entra ID, Okta, Google, Authentik, Dex, ..."""

    issuer: str = Field(description="The provider's issuer URL; its discovery document lies below it")
    client_id: str = Field(min_length=1, description="By what name the provider knows this server")
    client_secret: str | None = Field(
        None, description="Reference to the secret: env:NAME or file:PATH; none for a public client"
    )
    name: str = Field("your organisation", max_length=60, description="What the sign-in button calls the provider")
    scopes: tuple[str, ...] = Field(("openid", "profile", "email"), description="What is asked of the provider")
    groups_claim: str | None = Field(
        "groups", description="Claim that holds a person's groups; a.b reads b within a, such as realm_access.roles"
    )
    groups: dict[str, str] = Field(
        default_factory=dict, description="The provider's group -> ours; where given, no other group counts"
    )
    required_groups: tuple[str, ...] = Field((), description="Of these groups of ours a person needs one to get in")
    email_domains: tuple[str, ...] = Field((), description="Only people with a verified address of these domains")
    userinfo: bool = Field(False, description="Ask the provider's userinfo endpoint for claims, too")
    algorithms: tuple[Algorithm, ...] = Field(
        ("RS256", "PS256", "ES256", "EdDSA"), min_length=1, description="Signatures of identity tokens that count"
    )
    leeway_s: float = Field(60.0, ge=0, le=300, description="How far the provider's clock may be off")

    @field_validator("issuer")
    @classmethod
    def _https(cls, value: str) -> str:
        return _web_address(value)

    @field_validator("client_secret")
    @classmethod
    def _by_reference(cls, value: str | None) -> str | None:
        try:
            return value if value is None else check_reference(value)
        except ConfigError as error:
            raise ValueError(f"{error.what}; {error.hint}") from None

    @field_validator("scopes")
    @classmethod
    def _openid(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "openid" not in value:
            raise ValueError("`openid` has to be among the scopes")
        return value


class SignInConfig(Section):
    """How people become known. With it, nobody is anonymous any more; programs go on showing keys."""

    accounts: bool | None = Field(
        None, description="People sign in with a password (`llmops accounts`); default: where no provider is named"
    )
    oidc: OidcConfig | None = Field(None, description="People sign in at this provider")
    public_url: str | None = Field(
        None, description="How browsers reach this server: https://chat.example.org; needed on a public address"
    )
    operators: tuple[str, ...] = Field(
        (), description="Groups whose people may open the registry's pages; what they may do there is granted to them"
    )
    session_s: float = Field(12 * 3600, ge=60, description="After this long a browser signs in again")
    idle_s: float = Field(4 * 3600, ge=60, description="After this long without use a browser signs in again")

    @field_validator("public_url")
    @classmethod
    def _https(cls, value: str | None) -> str | None:
        return value if value is None else _web_address(value).rstrip("/")

    @property
    def with_accounts(self) -> bool:
        return self.oidc is None if self.accounts is None else self.accounts

    @property
    def secure(self) -> bool:
        """Whether browsers reach this server over https, and only so."""
        return self.public_url is not None and self.public_url.startswith("https:")


class HistoryConfig(Section):
    """What is kept of signed-in people's conversations."""

    days: int | None = Field(365, gt=0, description="Conversations unused for so long are deleted; null keeps them")
    sharing: bool = Field(False, description="People may make links to a conversation for other signed-in people")


def _web_address(value: str) -> str:
    parts = urlsplit(value)
    if not parts.hostname or parts.username or parts.query or parts.fragment:
        raise ValueError(f"`{value}` is no web address")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname)):
        raise ValueError(f"`{value}` has to begin with https://; http:// is for this machine only")
    return value
