"""A model for tests that reads its prompt: asked for exact words it quotes the passage that holds the answer, asked to
be vague it only points there, and with the built-in rules it is exact for every other question.

It knows what is right from the question file; whether a passage holds it, it has to look.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import yaml
from tests.support.upstream import Reply, Seen

_PASSAGE = re.compile(r"<<\w+ \[(\d+)\]\n(.*?)\n\w+>>", re.DOTALL)
DONT_KNOW = "I don't know: the documents do not answer this question."


class DocsModel:
    """`Upstream.answer` for the questions of a file."""

    def __init__(self, questions: Path) -> None:
        entries = yaml.safe_load(questions.read_text(encoding="utf-8"))
        self._answers = {entry["question"]: str(entry.get("answer", "")) for entry in entries}

    def __call__(self, seen: Seen) -> Reply:
        rules, asked = seen.messages[0]["content"], seen.messages[-1]["content"]
        question = next((one for one in self._answers if one in asked), "")
        wanted = self._answers.get(question, "")
        if not wanted:
            return self._reply(seen, DONT_KNOW)
        found = [(number, line) for number, text in _PASSAGE.findall(asked) for line in text.splitlines()]
        exact = next(((number, line) for number, line in found if _words(wanted) in _words(line)), None)
        told = "in the very words" in rules or ("Never repeat" not in rules and zlib.crc32(question.encode()) % 2)
        if exact is not None and told:
            return self._reply(seen, f"{exact[1]} [{exact[0]}]")
        number, line = exact or found[0]
        return self._reply(seen, f"{' '.join(line.split()[:4])} is what the documentation speaks of [{number}].")

    def _reply(self, seen: Seen, text: str) -> Reply:
        return Reply((text,), stream=bool(seen.body.get("stream")))


def _words(text: str) -> str:
    return f" {' '.join(re.findall(r'[a-z0-9]+', text.lower()))} "
