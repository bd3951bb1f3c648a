"""A task that a laptop learns in a minute: what became of an order. A model made here from nothing learns to read order
lists and to answer in a sentence; fine-tuning teaches it to answer the same questions in JSON.

    make:llmops.finetune.quickstart:sentences?rows=4000     "Ada is paid"
    make:llmops.finetune.quickstart:records?rows=400        {"customer": "Ada", "status": "paid"}

Rows are a function of the seed. No question of one is asked in the other, as long as the seeds differ.
"""

from __future__ import annotations

import random
from typing import Any

_STATES = ("paid", "shipped", "returned", "lost", "open", "ready", "late", "cancelled")
_NAMES = (
    *("Ada", "Ben", "Cem", "Dora", "Emil", "Finn", "Gita", "Hugo", "Ines", "Jun", "Kofi", "Lena", "Marek", "Nora"),
    *("Omar", "Pia", "Quinn", "Rosa", "Sven", "Tara", "Umar", "Vera", "Wim", "Yara"),
)
_LISTED = ("{name} {state}", "{name}: {state}", "{name} is {state}")
_SAID = {
    "Status of {name}?": "{name} {state}",
    "And {name}?": "{name}: {state}",
    "What about {name}?": "{name} is {state}",
    "Tell me about {name}.": "The order of {name} is {state}",
}
_JSON = '{{"customer": "{name}", "status": "{state}"}}'


def sentences(rows: int = 4000, seed: int = 1, turns: int = 4) -> list[dict[str, Any]]:
    """Order lists with questions, answered in words."""
    return _chats(rows, seed, turns, None)


def records(rows: int = 400, seed: int = 2, turns: int = 1) -> list[dict[str, Any]]:
    """The same questions, answered in JSON."""
    return _chats(rows, seed, turns, _JSON)


def _chats(rows: int, seed: int, turns: int, answer: str | None) -> list[dict[str, Any]]:
    chance = random.Random(seed)  # noqa: S311 - made data, no secret
    return [_chat(chance, turns, answer) for _ in range(rows)]


def _chat(chance: random.Random, turns: int, answer: str | None) -> dict[str, Any]:
    names = chance.sample(_NAMES, chance.randint(3, 5))
    states = {name: chance.choice(_STATES) for name in names}
    form = chance.choice(_LISTED)
    listed = ", ".join(form.format(name=name, state=state) for name, state in states.items())
    messages: list[dict[str, str]] = []
    for turn in range(turns):
        name, (question, said) = chance.choice(names), chance.choice(list(_SAID.items()))
        asked = question.format(name=name)
        messages.append({"role": "user", "content": asked if turn else f"{listed}. {asked}"})
        messages.append({"role": "assistant", "content": (answer or said).format(name=name, state=states[name])})
    return {"messages": messages}
