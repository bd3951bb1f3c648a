"""From rows as people keep them to examples: chats, instructions, completions, preferences, thumbs, plain text.

Which of them a row is follows from its keys, or is said by `format`. What does not fit is refused with its place, the
keys that were found and those that were meant. Knows no file and no tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import orjson

from llmops.core.errors import did_you_mean
from llmops.core.ids import digest
from llmops.finetune.config import Format
from llmops.finetune.data.examples import Completion, Content, Conversation, Example, Message, Preference, Text, Thumb
from llmops.finetune.data.sources import BadRowError, Row

_SHAREGPT = {"human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "assistant": "assistant",
             "bing": "assistant", "bard": "assistant", "system": "system", "tool": "tool", "observation": "tool",
             "function_response": "tool", "function_call": "assistant"}  # fmt: skip
_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_ANSWERS = ("output", "response")
_KEYS = ("messages", "conversations", "instruction", "output", "prompt", "completion", "chosen", "rejected", "label",
         "question", "answer", "value", "text")  # fmt: skip


def examples(rows: Iterable[tuple[Row, str]], format: Format = "auto", source: int = 0) -> Iterator[Example]:
    """The example of each row.

    Raises:
        BadRowError: a row does not fit; names its place.
    """
    for row, where in rows:
        yield example(row, where, format, source)


def example(row: Row, where: str, format: Format = "auto", source: int = 0) -> Example:
    kind = detected(row, where) if format == "auto" else format
    by = digest(row["requester"])[:16] if kind == "thumbs" and row.get("requester") else ""
    return Example(_PARSERS[kind](row, where), where, source, by)


def detected(row: Row, where: str) -> Format:
    """What a row is, by its keys.

    Raises:
        BadRowError: they are none of those known.
    """
    keys = {key for key, value in row.items() if value is not None}
    for needed, kind in _SIGNS:
        if needed <= keys:
            return kind
    hints = [hint for key in sorted(keys) if key not in _KEYS and (hint := did_you_mean(key, _KEYS))]
    raise BadRowError(
        f"a row with the keys {_listed(keys)} is of no known format",
        where=where,
        hint=f"{hints[0]} "
        if hints
        else "rows have messages, prompt and completion, prompt with chosen and rejected, "
        "instruction and output, or text (docs/finetune-data.md)",
    )


_SIGNS: tuple[tuple[set[str], Format], ...] = (
    ({"chosen", "rejected"}, "preference"),
    ({"prompt", "completion", "label"}, "thumbs"),
    ({"question", "answer", "value"}, "thumbs"),
    ({"question", "answer"}, "completion"),
    ({"messages"}, "chat"),
    ({"conversations"}, "chat"),
    ({"instruction", "output"}, "instruction"),
    ({"instruction", "response"}, "instruction"),
    ({"prompt"}, "completion"),
    ({"text"}, "text"),
)


def _chat(row: Row, where: str) -> Content:
    if row.get("messages") is None and row.get("conversations") is not None:
        turns = [_sharegpt(turn, where) for turn in _list(row["conversations"], "conversations", where)]
    else:
        turns = list(_messages(_needed(row, "messages", where), "messages", where))
    if row.get("system") and turns and turns[0].role != "system":
        turns.insert(0, Message("system", _text_of(row["system"], "system", where)))
    return Conversation(tuple(turns), _tools(row.get("tools"), where))


def _tools(value: Any, where: str) -> tuple[dict[str, Any], ...]:
    """What may be called: a list, or its JSON as text (tables have no type for it)."""
    try:
        found = orjson.loads(value) if isinstance(value, str) and value else value or []
    except orjson.JSONDecodeError as error:
        raise BadRowError(f"`tools` is no JSON: {error}", where=where) from error
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise BadRowError("`tools` is no list of tools", where=where, hint="each is a function in OpenAI's format")
    return tuple(found)


def _instruction(row: Row, where: str) -> Content:
    asked = _text_of(_needed(row, "instruction", where), "instruction", where)
    if row.get("input"):
        asked = f"{asked}\n\n{_text_of(row['input'], 'input', where)}"
    key = next((key for key in _ANSWERS if row.get(key) is not None), "output")
    turns = [Message("user", asked), Message("assistant", _text_of(_needed(row, key, where), key, where))]
    if row.get("system"):
        turns.insert(0, Message("system", _text_of(row["system"], "system", where)))
    return Conversation(tuple(turns))


def _completion(row: Row, where: str) -> Content:
    if row.get("prompt") is None and row.get("question") is not None:
        row = {"prompt": row["question"], "completion": row.get("answer")}
    prompt, said = _needed(row, "prompt", where), row.get("completion")
    if isinstance(prompt, str) and (said is None or isinstance(said, str)):
        return Completion(prompt, said or "")
    turns = _messages(prompt, "prompt", where)
    if said is None:
        return Conversation(turns)
    answer = (Message("assistant", said),) if isinstance(said, str) else _messages(said, "completion", where)
    return Conversation((*turns, *answer))


def _preference(row: Row, where: str) -> Content:
    chosen, rejected = _needed(row, "chosen", where), _needed(row, "rejected", where)
    if row.get("prompt") is not None:
        prompt = _turns(row["prompt"], where)
        return Preference(prompt, _answer(chosen, "chosen", where), _answer(rejected, "rejected", where))
    if isinstance(chosen, str) or isinstance(rejected, str):
        raise BadRowError("chosen and rejected are texts, and there is no prompt", where=where, hint="add the prompt")
    liked, other = _messages(chosen, "chosen", where), _messages(rejected, "rejected", where)
    if liked[:-1] != other[:-1] or len(liked) < 2:
        what = "chosen and rejected are conversations that differ before their last turn"
        raise BadRowError(what, where=where, hint="give the turns that both begin with as `prompt`")
    return Preference(liked[:-1], _answer(liked[-1:], "chosen", where), _answer(other[-1:], "rejected", where))


def _thumbs(row: Row, where: str) -> Content:
    if row.get("prompt") is None and row.get("question") is not None:
        liked = {"up": True, "down": False}.get(str(row.get("value")))
        if liked is None:
            raise BadRowError(f"`value` is {row.get('value')!r}", where=where, hint="it is up or down")
        turns = _turns(row["question"], where)
        return Thumb(turns, _text_of(_needed(row, "answer", where), "answer", where), liked)
    label = _needed(row, "label", where)
    if label not in (True, False):
        raise BadRowError(f"`label` is {label!r}", where=where, hint="it is true for a liked answer, else false")
    said = _answer(_needed(row, "completion", where), "completion", where)
    return Thumb(_turns(_needed(row, "prompt", where), where), said, bool(label))


def _plain(row: Row, where: str) -> Content:
    return Text(_text_of(_needed(row, "text", where), "text", where))


_PARSERS: dict[str, Callable[[Row, str], Content]] = {
    "chat": _chat,
    "instruction": _instruction,
    "completion": _completion,
    "preference": _preference,
    "thumbs": _thumbs,
    "text": _plain,
}


def _turns(prompt: Any, where: str) -> tuple[Message, ...]:
    return (Message("user", prompt),) if isinstance(prompt, str) else _messages(prompt, "prompt", where)


def _answer(value: Any, key: str, where: str) -> str:
    """The text of one answer, given as text or as its only turn."""
    if isinstance(value, str):
        return value
    turns = value if isinstance(value, tuple) else _messages(value, key, where)
    if len(turns) != 1 or turns[0].role != "assistant":
        raise BadRowError(f"`{key}` has {len(turns)} turns", where=where, hint="it is one turn of the assistant")
    return str(turns[0].content)


def _messages(value: Any, key: str, where: str) -> tuple[Message, ...]:
    turns = _list(value, key, where)
    if not turns:
        raise BadRowError(f"`{key}` is empty", where=where)
    return tuple(_message(turn, f"{key}[{place}]", where) for place, turn in enumerate(turns))


def _message(turn: Any, key: str, where: str) -> Message:
    if not isinstance(turn, dict) or not isinstance(turn.get("role"), str):
        found = _listed(turn) if isinstance(turn, dict) else type(turn).__name__
        raise BadRowError(f"`{key}` has no role: {found}", where=where, hint="a turn has role and content")
    if turn["role"] not in _ROLES:
        hint = did_you_mean(turn["role"], _ROLES) or f"roles are {', '.join(_ROLES)}"
        raise BadRowError(f"`{key}` has the role `{turn['role']}`", where=where, hint=hint)
    extra = {one: v for one, v in turn.items() if one not in ("role", "content", "weight") and v is not None}
    content = turn.get("content")
    if content is None and not extra:
        raise BadRowError(f"`{key}` has no content", where=where)
    return Message(turn["role"], _content(content, key, where), extra, learned=_learned(turn.get("weight"), key, where))


def _learned(weight: Any, key: str, where: str) -> bool:
    """Whether a turn is learned; a weight in between, or below zero, is not passed over as if it were one."""
    if weight is None or (isinstance(weight, int | float) and weight in (0, 1)):
        return weight is None or bool(weight)
    raise BadRowError(f"`{key}.weight` is {weight!r}", where=where, hint="it is 1, or 0 for an answer not to learn")


def _content(content: Any, key: str, where: str) -> str:
    """The text of a turn: a text, or a list of parts that are all text."""
    if content is None:
        return ""
    if isinstance(content, list) and all(isinstance(one, dict) and one.get("type") == "text" for one in content):
        return "".join(str(part.get("text") or "") for part in content)
    return _text_of(content, f"{key}.content", where)


def _sharegpt(turn: Any, where: str) -> Message:
    if isinstance(turn, dict) and "role" in turn:
        return _message(turn, "conversations", where)
    if not isinstance(turn, dict) or not isinstance(turn.get("from"), str) or turn["from"] not in _SHAREGPT:
        found = turn.get("from") if isinstance(turn, dict) else type(turn).__name__
        hint = f"it is one of {', '.join(_SHAREGPT)}"
        raise BadRowError(f"a turn of `conversations` is from `{found}`", where=where, hint=hint)
    learned = _learned(turn.get("weight", turn.get("loss")), "conversations", where)
    return Message(_SHAREGPT[turn["from"]], _text_of(turn.get("value"), "conversations.value", where), learned=learned)


def _needed(row: Row, key: str, where: str) -> Any:
    if row.get(key) is None:
        near = did_you_mean(key, [one for one in row if one != key])
        raise BadRowError(f"the row has no `{key}`, but {_listed(row)}", where=where, hint=near)
    return row[key]


def _list(value: Any, key: str, where: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise BadRowError(f"`{key}` is no list of turns but {type(value).__name__}", where=where)
    return list(value)


def _text_of(value: Any, key: str, where: str) -> str:
    if not isinstance(value, str):
        raise BadRowError(f"`{key}` is no text but {type(value).__name__}", where=where)
    return value


def _listed(keys: Iterable[str]) -> str:
    return ", ".join(f"`{key}`" for key in sorted(keys)) or "none"
