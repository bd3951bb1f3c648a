"""The `index.facts` section of the rag job: what is read off headings, and what a model is asked of each document.

Light to import: pydantic only.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from llmops.core.ids import digest
from llmops.rag.facts.patterns import checked
from llmops.rag.section import LlmConfig, Section

PROMPT_VERSION = 1
"""Rises with the words of the prompt: replies to another one are not taken for replies to this."""


class DeclaredFact(Section):
    """One fact that a model may state."""

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")
    type: Literal["text", "integer", "number", "boolean", "date"] = "text"
    values: tuple[str | int | float, ...] = Field((), max_length=200, description="The allowed ones; empty: any")
    many: bool = Field(False, description="A document may have several")
    description: str = Field(min_length=1, max_length=500, description="What it means, for the model")

    @model_validator(mode="after")
    def _values_of_its_type(self) -> DeclaredFact:
        wanted = {"text": str, "integer": int, "number": int | float}.get(self.type)
        if self.values and (wanted is None or not all(isinstance(value, wanted) for value in self.values)):
            raise ValueError(f"the values of `{self.name}` must be of its type, which is text, integer or number")
        return self


class ExtractionConfig(LlmConfig):
    """A model is asked once for the facts of each text, and again only if the text, the facts or the model change."""

    facts: tuple[DeclaredFact, ...] = Field(min_length=1, max_length=20)
    max_tokens: int = Field(512, gt=0)
    max_calls: int = Field(500, ge=0, description="Calls of one refresh at most; the rest follows with the next")
    at_once: int = Field(4, ge=1, le=64, description="Calls side by side")
    shown_chars: int = Field(8000, ge=100, le=400_000, description="Characters of a document that the model sees")
    version: str = Field("", description="Change it to have every document asked anew, as by a route's new model")

    @field_validator("facts")
    @classmethod
    def _each_once(cls, value: tuple[DeclaredFact, ...]) -> tuple[DeclaredFact, ...]:
        names = [fact.name for fact in value]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"the fact `{twice[0]}` is declared twice")
        return value

    @property
    def decisive(self) -> dict[str, object]:
        """All but the document that a reply depends on."""
        names = {"model", "facts", "max_tokens", "temperature", "shown_chars", "version"}
        return {"prompt": PROMPT_VERSION, **self.model_dump(mode="json", include=names)}


class FactsConfig(Section):
    """Facts of documents beyond those that they and their sources state, which stand above them."""

    headings: tuple[str, ...] = Field(
        (), description="Patterns over title and headings: `Minutes of {body}, {day:date}`"
    )
    llm: ExtractionConfig | None = Field(None, description="Declared facts, asked of a model")

    _patterns = field_validator("headings")(checked)

    @property
    def recipe(self) -> str:
        """Names what decides which facts a text has; empty where there are none."""
        if not self.headings and self.llm is None:
            return ""
        return digest({"headings": self.headings, "llm": None if self.llm is None else self.llm.decisive})[:16]
