"""A language model for tests that does what its prompt says, and nothing else: so a changed prompt changes its answers.

Told to answer word for word, it gives the sentence of all passages that shares most words with the question, and cites
it; told to cite, the first sentence of the first passage; told neither, something friendly. Where it has rules, it
refuses what no sentence fits.
"""

from __future__ import annotations

import re

from tests.support.upstream import Reply, Seen

_BLOCK = re.compile(r"<<(\w+) \[(\d+)\]\n(.*?)\n\1>>", re.DOTALL)
_SENTENCE = re.compile(r"[^.!?\n][^\n]*?(?:[.!?](?=\s|$)|$)", re.MULTILINE)
_COMMON = frozenset(
    re.findall("[a-z]+", "a an and are at be by do does for from how in into is it of on or the to what")
)
REFUSAL = "I don't know: the documents do not answer this question."


def obey(seen: Seen) -> Reply:
    """The reply to one request."""
    rules, asked = seen.messages[0]["content"], seen.messages[-1]["content"]
    question = asked.rpartition("Question:\n")[2]
    if "cite" not in rules:
        return Reply(("Do not worry, that works out well.",))
    sentences = [
        (int(number), sentence.strip())
        for _, number, text in _BLOCK.findall(asked)
        for sentence in _SENTENCE.findall(text)
        if len(sentence.split()) > 3
    ]
    fitting = [one for one in sentences if _shared(question, one[1]) > 0.4 * len(_words(question))]
    if not fitting:
        return Reply((REFUSAL,))
    if "word for word" in rules:
        number, sentence = max(fitting, key=lambda one: _shared(question, one[1]) / len(_words(one[1])) ** 0.3)
    else:
        number, sentence = sentences[0]
    return Reply((f"{sentence} [{number}]",))


def _shared(question: str, sentence: str) -> int:
    return len(_words(question) & _words(sentence))


def _words(text: str) -> set[str]:
    return {word.rstrip("s") for word in re.findall(r"\w+", text.lower())} - _COMMON
