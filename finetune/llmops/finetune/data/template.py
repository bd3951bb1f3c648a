"""From an example to the tokens a model reads, and to which of them it learns to say: exactly, or not at all.

A chat template with `{% generation %}` marks says itself what the assistant says. One without (Llama, Qwen and Gemma
ship none) is rendered turn by turn: what an answer adds to the text that serving would have prompted with is what is
supervised. Where the turns of a template are no prefixes of the whole (it drops earlier reasoning, say), each answer
becomes a row of its own, rendered as serving would have met it. What fits neither way is refused.

A token begins wherever an answer begins, since that is where serving's prompt ends. Knows tokenizers of transformers;
the module that imports it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from llmops.core.errors import NotFoundError, UserError
from llmops.core.ids import digest
from llmops.finetune.config import FinetuneConfig
from llmops.finetune.data.controls import controls_of, told
from llmops.finetune.data.endless import ended
from llmops.finetune.data.examples import Completion, Conversation, Example, Message, Preference, Text, Thumb, Tokens

_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")
Span = tuple[int, int]


@dataclass(frozen=True)
class Rendered:
    """A row as text: which stretches of it are supervised, and where a token has to begin.

    Args:
        closed: whether an end of text is put behind it, and a begin before, as the tokenizer does with plain text.
    """

    text: str
    spans: tuple[Span, ...]
    cuts: tuple[int, ...]
    closed: bool = False


class Renderer:
    """Makes tokens of examples with one tokenizer, one template and one kind of supervision."""

    def __init__(self, tokenizer: Any, config: FinetuneConfig) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise UserError(
                "the tokenizer cannot tell where its tokens stand in the text",
                where=str(getattr(tokenizer, "name_or_path", "")),
                hint="convert it to the tokenizers format (tokenizer.json)",
            )
        self.tokenizer = tokenizer
        self.supervise = "all" if config.task in ("cpt", "pretrain") else config.data.supervise
        self.chat_template = _template(tokenizer, config)
        self.marked = bool(self.chat_template and _MARK.search(self.chat_template))
        self.fingerprint = fingerprint(tokenizer, self.chat_template)
        """Of all that decides ids: training and serving are of one mind where it is the same."""
        self.controls = controls_of(tokenizer)
        self.stop_ids = frozenset(tokenizer.convert_tokens_to_ids(list(self.controls))) | {tokenizer.eos_token_id}
        """Tokens at which an answer may end: control tokens, and the end of text."""
        self._begin = [one for one in tokenizer("")["input_ids"][:1] if one == tokenizer.bos_token_id]
        self._end: int | None = tokenizer.eos_token_id
        self._in_pieces = self._joinable()

    def tokens(self, example: Example) -> list[Tokens]:
        """The rows of one example, at full length: one, or one an answer; of a preference chosen and rejected.

        Raises:
            UserError: the template refuses the turns, or it cannot be told what the assistant says.
        """
        return self.batch([example])[0]

    def batch(self, examples: Sequence[Example]) -> list[list[Tokens]]:
        """The rows of each example; many at once are tokenized by all cores."""
        rendered = [self.rendered(example) for example in examples]
        encoded = iter(self._encode([row for rows in rendered for row in rows]))
        found = []
        for example, rows in zip(examples, rendered, strict=True):
            several = len(rows) > 1
            tokens = []
            for number, (ids, supervised) in zip(range(len(rows)), encoded, strict=False):
                tokens.append(Tokens(ids, supervised, f"{example.id}:{number}" if several else example.id))
            found.append(tokens)
        return found

    def prompt(self, example: Example) -> tuple[int, ...]:
        """What serving would ask with, as token ids: up to where the last answer begins."""
        text, closed = self._prompt_text(example)
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return tuple([*self._begin, *ids] if closed else ids)

    def answer(self, example: Example) -> str:
        """The text that is to follow `prompt`."""
        content = example.content
        if isinstance(content, Conversation):
            return content.messages[self._last_answer(example)].content
        if isinstance(content, Preference):
            return content.chosen
        return content.text if isinstance(content, Text) else content.completion

    def rendered(self, example: Example) -> list[Rendered]:
        """The rows of one example as text."""
        content = example.content
        if isinstance(content, Text):
            return [Rendered(content.text, ((0, len(content.text)),), (), closed=True)]
        if isinstance(content, Completion):
            return [self._continued(content.prompt, content.completion)]
        if isinstance(content, Conversation):
            return self._conversation(content, example.where)
        answers = (content.completion,) if isinstance(content, Thumb) else (content.chosen, content.rejected)
        return [self._answered(content.prompt, answer, example.where) for answer in answers]

    def render(self, messages: Sequence[Message], tools: Sequence[Any] = (), *, ask: bool = False) -> str:
        """The text of turns; with `ask` up to where the assistant is to speak."""
        return self._jinja(messages, tools, ask=ask, where="")[0]

    def _answered(self, prompt: tuple[Message, ...], answer: str, where: str) -> Rendered:
        if not self.chat_template and len(prompt) == 1:
            return self._continued(prompt[0].content, answer)
        whole = Conversation((*prompt, Message("assistant", answer)))
        return self._turn(whole, len(prompt), where)

    def _continued(self, prompt: str, completion: str) -> Rendered:
        text = prompt + completion
        start = 0 if self.supervise == "all" else len(prompt)
        return Rendered(text, ((start, len(text)),), (len(prompt),), closed=True)

    def _conversation(self, chat: Conversation, where: str) -> list[Rendered]:
        text, marked = self._jinja(chat.messages, chat.tools, ask=False, where=where)
        if self.supervise == "all":
            return [Rendered(text, ((0, len(text)),), ())]
        answers = [place for place, message in enumerate(chat.messages) if message.role == "assistant"]
        if self.supervise == "completion":
            answers = answers[-1:]
        learned = [place for place in answers if chat.messages[place].learned]
        if self.marked and (spans := self._of_marks(chat, text, marked, learned)) is not None:
            return [Rendered(text, spans, tuple(start for start, _ in spans))]
        turns = [self._turn(chat, place, where) for place in learned]
        if all(_shares(text, turn) for turn in turns):
            spans = tuple(span for turn in turns for span in turn.spans)
            return [Rendered(text, spans, tuple(start for start, _ in spans))]
        return turns

    def _of_marks(
        self, chat: Conversation, text: str, marked: Sequence[Span], learned: Sequence[int]
    ) -> tuple[Span, ...] | None:
        """The marked stretches of the answers that are learned; None where it cannot be told which are whose."""
        answers = [place for place, message in enumerate(chat.messages) if message.role == "assistant"]
        if len(learned) == len(answers):
            return tuple(marked)
        if len(marked) == len(answers):
            return tuple(span for place, span in zip(answers, marked, strict=True) if place in learned)
        return None

    def _turn(self, chat: Conversation, place: int, where: str) -> Rendered:
        """One answer after all that came before it, as serving would have met it."""
        said, marked = self._jinja(chat.messages[: place + 1], chat.tools, ask=False, where=where)
        if marked:
            return Rendered(said, (marked[-1],), (marked[-1][0],))
        asked, _ = self._jinja(chat.messages[:place], chat.tools, ask=True, where=where)
        if not said.startswith(asked):
            reached = next((n for n, (a, s) in enumerate(zip(asked, said, strict=False)) if a != s), len(said))
            raise UserError(
                "it cannot be told which text of this row is the assistant's: the chat template renders the turns "
                f"before an answer differently once it is there ({said[reached : reached + 40]!r})",
                where=where,
                hint="put {% generation %} and {% endgeneration %} around the answer in the template, and name the file"
                " as model.chat_template",
                code="template_without_marks",
            )
        start = len(asked)
        return Rendered(said, ((start, self._end_of_turn(said, start)),), (start,))

    def _end_of_turn(self, text: str, start: int) -> int:
        """Up to the last control token: what stands behind it (a line feed) is the template's, not the model's."""
        stripped = text.rstrip()
        closes = any(stripped.endswith(token) for token in self.controls) and len(stripped) > start
        return len(stripped) if closes else len(text)

    def _jinja(
        self, messages: Sequence[Message], tools: Sequence[Any], *, ask: bool, where: str
    ) -> tuple[str, list[Span]]:
        """The text, and the stretches within generation marks."""
        from transformers.utils.chat_template_utils import render_jinja_template

        if not self.chat_template:
            raise UserError(
                "the tokenizer has no chat template, and the row is a conversation",
                where=where or None,
                hint="name a Jinja file as model.chat_template, or give prompt and completion instead",
                code="no_chat_template",
            )
        turns = [
            {"role": one.role, "content": told(one.role, one.content, self.controls), **one.extra} for one in messages
        ]
        try:
            texts, marks = ended(
                lambda: render_jinja_template(
                    [turns],
                    tools=list(tools) or None,
                    chat_template=self.chat_template,
                    add_generation_prompt=ask,
                    return_assistant_tokens_mask=self.marked,
                    **self.tokenizer.special_tokens_map,
                ),
                where or None,
            )
        except refusals() as error:
            raise UserError(
                f"the chat template refuses this row: {error}",
                where=where or None,
                hint="look at the order and the roles of its turns, or set data.on_bad: skip",
                code="template_refused",
            ) from error
        return texts[0], [tuple(span) for span in marks[0]] if self.marked else []

    def _prompt_text(self, example: Example) -> tuple[str, bool]:
        content = example.content
        if isinstance(content, Text):
            return "", True
        if isinstance(content, Completion):
            return content.prompt, True
        if isinstance(content, Conversation):
            turns = content.messages[: self._last_answer(example)]
            return self._jinja(turns, content.tools, ask=True, where=example.where)[0], False
        if not self.chat_template and len(content.prompt) == 1:
            return content.prompt[0].content, True
        return self._jinja(content.prompt, (), ask=True, where=example.where)[0], False

    def _last_answer(self, example: Example) -> int:
        assert isinstance(example.content, Conversation)
        for place in range(len(example.content.messages) - 1, -1, -1):
            if example.content.messages[place].role == "assistant":
                return place
        raise UserError("the conversation has no answer of an assistant", where=example.where)

    def _encode(self, rows: Sequence[Rendered]) -> Iterable[tuple[tuple[int, ...], tuple[bool, ...]]]:
        """Ids and supervision of each row."""
        pieces = [piece for row in rows for piece in self._pieces(row)]
        if not pieces:
            return
        texts = [text for _, text in pieces]
        encoded = self.tokenizer(
            texts, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False, verbose=False
        )
        place = 0
        for row in rows:
            ids: list[int] = []
            supervised: list[bool] = []
            for begin, _ in self._pieces(row):
                ids += encoded["input_ids"][place]
                supervised += self._within(row.spans, begin, encoded["offset_mapping"][place])
                place += 1
            if row.closed:
                end = [] if self._end is None or ids[-1:] == [self._end] else [self._end]
                ids = [*self._begin, *ids, *end]
                supervised = [*([False] * len(self._begin)), *supervised, *([True] * len(end))]
            yield tuple(ids), tuple(supervised)

    def _within(self, spans: Sequence[Span], begin: int, offsets: Sequence[Span]) -> list[bool]:
        """For each token of a piece whether it lies in a supervised stretch.

        In pieces each stretch begins with one, so the piece's own begin decides: a token of white space only is said
        to stand at its end, which may be where the next stretch begins.
        """
        if self._in_pieces:
            until = next((end for start, end in reversed(spans) if start <= begin), 0) - begin
            return [end <= until for _, end in offsets] if until > 0 else [False] * len(offsets)
        found = []
        number = 0
        for start, end in offsets:
            while number < len(spans) and spans[number][1] < end:
                number += 1
            found.append(number < len(spans) and spans[number][0] <= start)
        return found

    def _pieces(self, row: Rendered) -> list[tuple[int, str]]:
        """The text cut where tokens have to begin, each piece with its place."""
        cuts = sorted({0, *(cut for cut in row.cuts if 0 < cut < len(row.text))}) if self._in_pieces else [0]
        return [(cut, row.text[cut:end]) for cut, end in zip(cuts, [*cuts[1:], len(row.text)], strict=True)]

    def _joinable(self) -> bool:
        """Whether pieces can be tokenized one by one: not where each text gets a space of its own (SentencePiece)."""
        ids = [one for piece in ("A:", "b c") for one in self.tokenizer(piece, add_special_tokens=False)["input_ids"]]
        decoded: str = self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        return decoded == "A:b c"


def refusals() -> tuple[type[Exception], ...]:
    """What a template may raise: it is a program of the model's maker, run in a sandbox over the user's turns."""
    import jinja2

    return (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)


def fingerprint(tokenizer: Any, chat_template: str | None) -> str:
    """SHA-256 of all that decides which ids words become; how a batch was last padded or cut is no part of it."""
    backend = orjson.loads(tokenizer.backend_tokenizer.to_str())
    return digest([{**backend, "padding": None, "truncation": None}, _specials(tokenizer), chat_template])


def _template(tokenizer: Any, config: FinetuneConfig) -> str | None:
    path = config.model.chat_template
    if path is None:
        found: str | None = tokenizer.chat_template
        return found
    if not path.is_file():
        raise NotFoundError("no such chat template", where=str(path), hint="correct model.chat_template")
    return path.read_text(encoding="utf-8")


def _specials(tokenizer: Any) -> dict[str, str]:
    return {name: str(token) for name, token in tokenizer.special_tokens_map.items()}


def _shares(text: str, turn: Rendered) -> bool:
    """Whether the whole conversation holds this answer at the same place."""
    _, end = turn.spans[0]
    return text[:end] == turn.text[:end]
