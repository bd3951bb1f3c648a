"""A registered model or adapter as a chain: it answers in a conversation, token by token, and can be stopped at each.

Opened by `registry.load` from verified files, in a server or in the confined process of a gate. Weights are read by
safetensors only, and no code of a model is ever run. An adapter goes on the base that it was trained on, whose files
must have the digest that was pinned. The adapter to transformers and PEFT for answering; both are imported on opening.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from llmops.core.chain import (
    Cancelled,
    CancelToken,
    ChainContext,
    Delta,
    Done,
    Event,
    Message,
    PassageRef,
    PassageView,
    RequestSettings,
    Retrieval,
    Usage,
)
from llmops.core.errors import IntegrityError, NotFoundError, TooLargeError, UserError
from llmops.core.identity import Principal
from llmops.core.state import StateConfig
from llmops.finetune.artefact import PLACE, Pinned, is_adapter, model_files
from llmops.finetune.bases import verified
from llmops.finetune.whole import HEADS, adapted, loaded

_WAIT_S = 0.05
_SAID = "what-is-said-7f3a"
"""An answer that no template's own words hold."""


class Asked(RequestSettings):
    """What one request may lay over the pinned defaults."""

    temperature: float = Field(0.0, ge=0, le=2)
    max_tokens: int | None = Field(None, ge=1)


@dataclass(frozen=True)
class Opened:
    """A model in memory with its tokenizer."""

    model: Any
    tokenizer: Any
    pinned: Pinned


def open_model(configuration: Mapping[str, Any]) -> ModelChain | RewardChain:
    """The chain of verified files, ready to answer.

    Raises:
        NotFoundError: the base of an adapter is not here.
        IntegrityError: the base or the template is not the one that was trained on.
    """
    opened = read(Path(configuration["folder"]), Pinned.of(dict(configuration)), StateConfig(**configuration["state"]))
    return RewardChain(opened) if opened.pinned.task == "reward" else ModelChain(opened)


def read(folder: Path, pinned: Pinned, state: StateConfig) -> Opened:
    """Load what is registered into memory."""
    from llmops.finetune.quiet import quiet_transformers

    model_files(folder / PLACE)
    with quiet_transformers():
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder / PLACE, local_files_only=True, trust_remote_code=False)
        if is_adapter(folder / PLACE):
            model = _adapted(folder / PLACE, pinned, state)
        else:
            model = _whole(folder / PLACE, pinned)
    _require_template(tokenizer, pinned, folder)
    return Opened(model.eval(), tokenizer, pinned)


class ModelChain:
    """One model; one answer at a time, since two would only share its processors."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        self._busy = threading.Lock()
        self.version_info: dict[str, Any] = {"model": f"llmops/{opened.pinned.task}-{opened.pinned.method}"}

    def stream(self, messages: Sequence[Message], context: ChainContext) -> Iterator[Event]:
        """Answer the last message.

        Raises:
            UserError: there is no question, or a setting is unknown.
            TooLargeError: the conversation leaves no room for an answer.
            Cancelled: the reader is gone.
        """
        asked = Asked.read(context.settings)
        ids = self._prompt(messages)
        room = self._room(len(ids), asked.max_tokens or self._opened.pinned.max_new_tokens)
        yield Retrieval(passages=(), generation="", index_seq=0)
        with _turn(self._busy, context.cancel):
            told = yield from self._told(ids, room, asked, context.cancel)
        usage = Usage(len(ids), told)
        cut = told >= room
        yield Done(usage, refused=False, generation="", index_seq=0, finish_reason="length" if cut else "stop")

    def passage(self, ref: PassageRef, principal: Principal) -> PassageView:
        """Nothing can be opened: a model by itself has no sources."""
        raise NotFoundError("this model shows no sources", where=ref.uri)

    def close(self) -> None:
        """Let go of the weights."""
        self._opened = None  # type: ignore[assignment]

    def _prompt(self, messages: Sequence[Message]) -> list[int]:
        if not messages or not messages[-1]["content"].strip():
            raise UserError("the question is empty")
        return prompt_ids(self._opened.tokenizer, messages)

    def _room(self, used: int, wanted: int) -> int:
        """How many tokens the answer may have."""
        most = getattr(self._opened.model.config.get_text_config(), "max_position_embeddings", None)
        left = wanted if most is None else min(wanted, most - used)
        if left < 1:
            raise TooLargeError(
                f"the conversation has {used} tokens, and the model reads {most}", hint="begin a new conversation"
            )
        return left

    def _told(self, ids: list[int], room: int, asked: Asked, cancel: CancelToken) -> Generator[Event, None, int]:
        """Text as it comes; gives the number of tokens."""
        tokenizer, told, shown = self._opened.tokenizer, list[int](), 0
        for token in generated(self._opened, ids, room, asked.temperature):
            cancel.check()
            told.append(token)
            text = tokenizer.decode(told, skip_special_tokens=True)
            if len(text) > shown and not text.endswith("�"):  # half a character is kept back
                yield Delta(text[shown:])
                shown = len(text)
        text = tokenizer.decode(told, skip_special_tokens=True)
        if len(text) > shown:
            yield Delta(text[shown:])
        return len(told)


class RewardChain(ModelChain):
    """A reward model: its answer to a conversation is the score of its last message, as text."""

    def _told(self, ids: list[int], room: int, asked: Asked, cancel: CancelToken) -> Generator[Event, None, int]:
        yield Delta(f"{_scored(self._opened, ids):.6g}")
        return 1

    def _prompt(self, messages: Sequence[Message]) -> list[int]:
        if not messages:
            raise UserError("there is nothing to score")
        return prompt_ids(self._opened.tokenizer, messages, ask=False)


def score(opened: Opened, messages: Sequence[Message]) -> float:
    """What a reward model gives the last message of a conversation."""
    return _scored(opened, prompt_ids(opened.tokenizer, messages, ask=False))


def _scored(opened: Opened, ids: list[int]) -> float:
    """Of the answer's end: what a template writes behind the end of a turn is no part of what was learned."""
    import torch

    ends = turn_ends(opened.model, opened.tokenizer)
    last = max((place for place, token in enumerate(ids) if token in ends), default=len(ids) - 1)
    with torch.inference_mode():
        scored = opened.model(input_ids=torch.tensor([ids[: last + 1]], device=opened.model.device))
    return float(scored.logits[0, 0])


def prompt_ids(tokenizer: Any, messages: Sequence[Message], *, ask: bool = True) -> list[int]:
    """What the model is asked with: through the chat template, or without one the last message as it is.

    Raises:
        UserError: the template refuses the turns: their order, or a role that it does not know.
        EndlessTemplateError: the template does not come to an end.
    """
    from llmops.finetune.data.controls import controls_of, told
    from llmops.finetune.data.endless import ended
    from llmops.finetune.data.template import refusals

    if tokenizer.chat_template is None:
        return list(tokenizer(messages[-1]["content"])["input_ids"])
    controls = controls_of(tokenizer)
    turns = [{**one, "content": told(one["role"], one["content"], controls)} for one in messages]
    try:
        text = ended(lambda: tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=ask))
    except refusals() as error:
        what = f"the model's chat template refuses these turns: {error}"
        raise UserError(what, hint="look at the order and the roles of the turns", code="template_refused") from error
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def generated(opened: Opened, ids: list[int], most: int, temperature: float) -> Iterator[int]:
    """Token after token until the model ends its turn; greedy at temperature 0."""
    import torch

    model, ends = opened.model, turn_ends(opened.model, opened.tokenizer)
    given, cache = torch.tensor([ids], device=model.device), None
    for _ in range(most):
        with torch.inference_mode():
            out = model(input_ids=given, past_key_values=cache, use_cache=True)
            logits, cache = out.logits[0, -1], out.past_key_values
            if temperature == 0:
                token = int(logits.argmax())
            else:
                token = int(torch.multinomial(torch.softmax(logits.float() / temperature, dim=-1), 1))
        if token in ends:
            return
        yield token
        given = torch.tensor([[token]], device=model.device)


def turn_ends(model: Any, tokenizer: Any) -> set[int]:
    """The tokens that end an answer: by the model's files, by the tokenizer, and by its chat template."""
    found = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends = {*(found if isinstance(found, list) else [found]), tokenizer.eos_token_id} - {None}
    if tokenizer.chat_template is not None:
        from llmops.finetune.data.endless import ended

        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _SAID}]
        _, _, behind = ended(lambda: tokenizer.apply_chat_template(turns, tokenize=False)).rpartition(_SAID)
        closing = tokenizer(behind, add_special_tokens=False)["input_ids"][:1]
        ends |= {token for token in closing if token in tokenizer.all_special_ids or token in _added(tokenizer)}
    return ends


def _added(tokenizer: Any) -> set[int]:
    return {place for place, token in tokenizer.added_tokens_decoder.items() if token.special}


class _turn:
    """Wait for one's turn, and let go of it; a reader who leaves meanwhile does not wait on."""

    def __init__(self, busy: threading.Lock, cancel: CancelToken) -> None:
        self._busy, self._cancel = busy, cancel

    def __enter__(self) -> None:
        while not self._busy.acquire(timeout=_WAIT_S):
            self._cancel.check()
        if self._cancel.cancelled:
            self._busy.release()
            raise Cancelled

    def __exit__(self, *_: object) -> None:
        self._busy.release()


def _whole(model: Path, pinned: Pinned) -> Any:
    import torch
    import transformers

    scores = pinned.task == "reward"
    kind = "AutoModelForSequenceClassification" if scores else "AutoModelForCausalLM"
    more: dict[str, Any] = {"num_labels": 1} if scores else {}
    new = HEADS if scores and pinned.method != "full" else ()  # an adapter brings the head that it trained
    found = loaded(getattr(transformers, kind).from_pretrained, model, new=new, dtype="auto", **more)
    return found.to("cuda" if torch.cuda.is_available() else "cpu")


def _adapted(adapter: Path, pinned: Pinned, state: StateConfig) -> Any:
    """The adapter on its base, which is verified first."""
    if pinned.base is None:
        raise IntegrityError("an adapter that names no base", where=str(adapter))
    base = verified(pinned.base, state)
    model = adapted(_whole(base, pinned), adapter)
    return model.merge_and_unload() if pinned.merge else model


def _require_template(tokenizer: Any, pinned: Pinned, folder: Path) -> None:
    """Training and serving have to make the same ids of the same words."""
    from llmops.finetune.data.template import fingerprint

    if pinned.template is not None and fingerprint(tokenizer, tokenizer.chat_template) != pinned.template:
        raise IntegrityError(
            "tokenizer and chat template make other ids than the ones that were trained with",
            where=str(folder),
            hint="install the versions of transformers and tokenizers that it was trained with",
            code="other_template",
        )


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> Any:
    """For `mlflow.pyfunc.load_model`, which knows no opener: a model of conversations, `{"messages": [...]}`."""
    from llmops.finetune.pyfunc import Answering

    found = {**(model_config or {}), "folder": path}
    return Answering(open_model({"state": {}, **found}))
