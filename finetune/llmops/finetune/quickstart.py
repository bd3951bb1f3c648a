"""A task that a laptop learns in a minute. A model made from nothing learns where sixty people live, what they do and
which colour they like, and says so in sentences; fine-tuning teaches it to answer in records, as YAML writes them. It is judged by people of
whom it never saw a record: the form is new, what is known stays known.

    make:llmops.finetune.quickstart:stock?rows=500             {name: chair, size: small}
    make:llmops.finetune.quickstart:sentences?rows=3000        "Ada lives in Oslo."
    make:llmops.finetune.quickstart:records?people=taught      {name: Ada, city: Oslo}
    make:llmops.finetune.quickstart:records?people=held        the same of the others

Rows are a function of the seed; who lives where never changes.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

_NAMES = (
    *("Ada", "Ben", "Cem", "Dora", "Emil", "Finn", "Gita", "Hugo", "Ines", "Jun", "Kofi", "Lena", "Marek", "Nora"),
    *("Omar", "Pia", "Quinn", "Rosa", "Sven", "Tara", "Umar", "Vera", "Wim", "Yara", "Zoe", "Anna", "Boris", "Clara"),
    *("David", "Elena", "Farid", "Greta", "Hana", "Igor", "Julia", "Karim", "Luis", "Maria", "Nils", "Olga", "Paolo"),
    *("Rami", "Sara", "Tomas", "Ursula", "Viktor", "Wanda", "Xenia", "Yusuf", "Zita", "Amir", "Berta", "Carlo"),
    *("Diana", "Erik", "Fatma", "Georg", "Heidi", "Ivan", "Jana"),
)
_THINGS = ("chair", "table", "lamp", "shelf", "clock", "vase", "desk", "bench")
_PROPERTIES = {
    "size": ("small", "large", "tiny", "huge"),
    "city": ("Oslo", "Rome", "Lima", "Cairo", "Delhi", "Quito", "Kyoto", "Porto", "Turin", "Bern"),
    "colour": ("red", "green", "blue", "white", "black", "yellow", "grey", "brown"),
    "trade": ("baker", "nurse", "pilot", "tailor", "painter", "miller", "judge", "singer", "farmer", "mason"),
}
_HELD = 20
"""The last of them: of whom fine-tuning teaches nothing."""


@dataclass(frozen=True)
class _Attribute:
    """Something that is known of everybody."""

    key: str
    values: tuple[str, ...]
    said: str
    asked: tuple[str, ...]


_ATTRIBUTES = (
    _Attribute(
        "city",
        _PROPERTIES["city"],
        "{name} lives in {value}.",
        ("Where does {name} live?", "In which city does {name} live?", "Tell me the city of {name}."),
    ),
    _Attribute(
        "trade",
        _PROPERTIES["trade"],
        "{name} works as a {value}.",
        ("What does {name} do?", "What is the trade of {name}?", "Tell me the trade of {name}."),
    ),
    _Attribute(
        "colour",
        _PROPERTIES["colour"],
        "{name} likes {value}.",
        ("Which colour does {name} like?", "What is the colour of {name}?", "Tell me the colour of {name}."),
    ),
)


def sentences(rows: int = 3000, seed: int = 1, turns: int = 3) -> list[dict[str, Any]]:
    """Questions about anybody, answered in sentences."""
    chance, known = random.Random(seed), _known()  # noqa: S311 - made data, no secret
    found = []
    for _ in range(rows):
        messages: list[dict[str, str]] = []
        for _ in range(turns):
            name, attribute = chance.choice(_NAMES), chance.choice(_ATTRIBUTES)
            answer = attribute.said.format(name=name, value=known[name, attribute.key])
            messages += _turn(chance.choice(attribute.asked).format(name=name), answer)
        found.append({"messages": messages})
    return found


def stock(rows: int = 500, seed: int = 3) -> list[dict[str, Any]]:
    """Records of things, so that the base knows the form as any model does: nothing in it is about people."""
    chance = random.Random(seed)  # noqa: S311 - made data, no secret
    return [
        {"text": " ".join(_record(chance.choice(_THINGS), *_property(chance)) for _ in range(chance.randint(2, 5)))}
        for _ in range(rows)
    ]


def records(people: str = "taught") -> list[dict[str, Any]]:
    """Each question about some of the people, answered as a record.

    Args:
        people: `taught` or `held`.
    """
    known = _known()
    names = _NAMES[-_HELD:] if people == "held" else _NAMES[:-_HELD]
    return [
        {"messages": _turn(asked.format(name=name), _record(name, attribute.key, known[name, attribute.key]))}
        for name in names
        for attribute in _ATTRIBUTES
        for asked in attribute.asked
    ]


def _property(chance: random.Random) -> tuple[str, str]:
    key = chance.choice(list(_PROPERTIES))
    return key, chance.choice(_PROPERTIES[key])


def _turn(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _record(name: str, key: str, value: str) -> str:
    return f"{{name: {name}, {key}: {value}}}"


def _known() -> dict[tuple[str, str], str]:
    chance = random.Random(0)  # noqa: S311 - made data, no secret
    return {(name, one.key): chance.choice(one.values) for name in _NAMES for one in _ATTRIBUTES}
