"""What sections of the rag job have in common, and the one that names a language model. Pydantic only."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator

from llmops.core.errors import ConfigError
from llmops.core.secret import check_reference


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def reference(value: str | None) -> str | None:
    """A secret's reference, checked; for validators."""
    try:
        return value if value is None else check_reference(value)
    except ConfigError as error:
        raise ValueError(f"{error.what}; {error.hint}") from None


class LlmConfig(Section):
    """A route of the gateway, or the model of any other OpenAI-format server."""

    model: str = Field(description="Name of the gateway's route, or of the server's model")
    url: str = Field("http://127.0.0.1:4000/v1", description="Base URL; default: this machine's gateway")
    api_key: str | None = Field(None, description="A reference: env:NAME or file:PATH")
    timeout_s: float = Field(60.0, gt=0)
    max_tokens: int = Field(1024, gt=0)
    temperature: float = Field(0.0, ge=0)

    _by_reference = field_validator("api_key")(reference)
