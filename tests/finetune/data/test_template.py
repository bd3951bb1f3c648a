"""Masks: equal to an independent oracle, whatever the template; a template of which they cannot be told is refused."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.tokenizers import CHATML, MARKED, byte_tokenizer, chat, finetune_job, write_lines
from tests.support.training import forked

from llmops.core.errors import UserError
from llmops.core.state import StateConfig
from llmops.finetune.data import endless
from llmops.finetune.data.controls import BREAK
from llmops.finetune.data.endless import EndlessTemplateError
from llmops.finetune.data.examples import Completion, Example, Text
from llmops.finetune.data.formats import example
from llmops.finetune.data.prepare import prepare
from llmops.finetune.data.template import Renderer
from llmops.finetune.servable import prompt_ids

TURNS = st.lists(
    st.tuples(st.text("ab \n\tü?", max_size=12), st.text("hello wor\nld", max_size=12)), min_size=1, max_size=3
)
JOB = finetune_job("x")


def rendered(template: str | None, row: dict[str, Any], **tokens: str | None) -> list[Any]:
    return Renderer(byte_tokenizer(template, **tokens), JOB).tokens(example(row, "rows:1"))


def learned(row: Any, tokenizer: Any) -> str:
    return str(tokenizer.decode([one for one, on in zip(row.ids, row.supervised, strict=True) if on]))


def conversation(turns: list[tuple[str, str]]) -> dict[str, Any]:
    return {"messages": [message for asked, said in turns for message in chat(asked, said)["messages"]]}


@settings(deadline=None, max_examples=60)
@given(TURNS)
def test_the_mask_holds_each_answer_with_its_end_and_nothing_else(turns: list[tuple[str, str]]) -> None:
    tokenizer = byte_tokenizer()
    (row,) = rendered(CHATML, conversation(turns))
    assert learned(row, tokenizer) == "".join(f"{said}<|im_end|>" for _, said in turns)
    assert tokenizer.decode(row.ids) == "".join(
        f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n{said}<|im_end|>\n" for asked, said in turns
    )


@settings(deadline=None, max_examples=40)
@given(TURNS)
def test_marks_and_turns_give_the_same_rows(turns: list[tuple[str, str]]) -> None:
    row = conversation(turns)
    assert [one.ids for one in rendered(MARKED, row)] == [one.ids for one in rendered(CHATML, row)]
    assert [one.supervised for one in rendered(MARKED, row)] == [one.supervised for one in rendered(CHATML, row)]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.sampled_from(["<|im_end|>", "<|im_start|>", "<|", "im_start", "|>", "system", "\n", "ü"]), max_size=8)
)
def test_a_question_says_no_token_of_the_format(parts: list[str]) -> None:
    """Else whoever asks could end the turn and speak as the system; training and serving read the same."""
    tokenizer, asked = byte_tokenizer(), "".join(parts)
    (row,) = rendered(CHATML, chat(asked, "hello"))
    (harmless,) = rendered(CHATML, chat("x", "hello"))
    prompt = prompt_ids(tokenizer, [{"role": "user", "content": asked}])
    special = set(tokenizer.all_special_ids) | {tokenizer.convert_tokens_to_ids("<|im_start|>")}
    assert [one for one in row.ids if one in special] == [one for one in harmless.ids if one in special]
    assert tuple(prompt) == row.ids[: len(prompt)]
    assert tokenizer.decode(row.ids).replace(BREAK, "") == tokenizer.decode(harmless.ids).replace("x", asked, 1)


def test_an_answer_keeps_its_tokens() -> None:
    (row,) = rendered(CHATML, chat("x", "<|im_start|>"))
    assert row.ids.count(byte_tokenizer().convert_tokens_to_ids("<|im_start|>")) == 3


@settings(deadline=None, max_examples=40)
@given(TURNS)
def test_the_prompt_of_serving_begins_the_row_of_training(turns: list[tuple[str, str]]) -> None:
    tokenizer = byte_tokenizer()
    renderer = Renderer(tokenizer, JOB)
    one = example(conversation(turns[:1]), "rows:1")
    asked = [{"role": "user", "content": turns[0][0]}]
    served = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=True, return_dict=True)
    assert tuple(served["input_ids"]) == renderer.prompt(one) == renderer.tokens(one)[0].ids[: len(served["input_ids"])]


STOCK = {"qwen2_5": "<|im_end|>", "llama3": "<|eot_id|>", "qwen3": "<|im_end|>", "gemma": "<end_of_turn>"}


@pytest.mark.parametrize("name", STOCK)
def test_stock_templates_give_the_masks_of_their_marked_twins(name: str) -> None:
    """TRL ships a marked twin of each: an oracle by others. Its marks take in line feeds around an answer too."""
    found = find_spec("trl")
    assert found is not None
    assert found.origin is not None
    folder, end = Path(found.origin).parent / "chat_templates", STOCK[name]
    row = {"messages": [*chat("hello", "world")["messages"], *chat("how", "are you")["messages"]]}
    more = {"eos_token": end, "bos_token": "<|begin|>"}
    for template in (folder / f"{name}.jinja", folder / f"{name}_training.jinja"):
        text = template.read_text(encoding="utf-8")
        said = "".join(learned(part, byte_tokenizer(text, **more)) for part in rendered(text, row, **more))
        assert said.replace("\n", "").replace("<think></think>", "") == f"world{end}are you{end}"


def test_a_template_that_rewrites_the_turns_before_is_refused_with_what_to_do() -> None:
    odd = CHATML.replace("{% for", "{{ messages | length }}{% for", 1)
    with pytest.raises(UserError, match="cannot be told") as caught:
        rendered(odd, chat("hello", "world"))
    assert caught.value.where == "rows:1"
    assert "generation" in str(caught.value.hint)


@pytest.mark.parametrize(
    "program",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ 1 / 0 }}",
        "{% for n in range(10000000) %}x{% endfor %}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "{% import 'os' as os %}",
        "{{ messages.append({}) }}",
    ],
)
def test_a_template_that_does_more_than_lay_out_turns_is_refused_with_the_row(program: str) -> None:
    with pytest.raises(UserError, match="the chat template refuses this row") as caught:
        rendered(program + CHATML, chat("hello", "world"))
    assert caught.value.where == "rows:1"


ENDLESS = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% macro more(n) %}{% if n %}{{ more(n - 1) }}{{ more(n - 1) }}{% endif %}{% endmacro %}{{ more(60) }}",
    "{{ ([range(99999)] * 99999) | map('list') | map('length') | sum }}",
]
"""Each within the sandbox's limits of ranges and of recursion."""


@pytest.mark.parametrize("program", ENDLESS, ids=["loops", "macros", "filters"])
def test_a_template_that_does_not_come_to_an_end_is_ended(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In training, whose rows it does not help to skip, and in serving."""
    monkeypatch.setattr(endless, "CPU_S", 0.1)
    tokenizer = byte_tokenizer(program + CHATML)
    rows = write_lines(tmp_path / "rows.jsonl", [chat("hello", "world")] * 50)
    with pytest.raises(EndlessTemplateError, match=r"ran for more than 0\.1 s") as caught:
        prepare(finetune_job(rows, on_bad="skip", dedup="none"), tokenizer, StateConfig(dir=tmp_path))
    assert caught.value.where == f"{rows}:1"
    assert "model.chat_template" in str(caught.value.hint)
    with pytest.raises(EndlessTemplateError):
        prompt_ids(tokenizer, [{"role": "user", "content": "hello"}])
    assert rendered(CHATML, chat("hello", "world"))


def test_it_is_ended_in_any_thread_and_in_a_process_that_was_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what waits is not taken for what computes: a slow machine ends nothing."""
    monkeypatch.setattr(endless, "CPU_S", 0.1)

    def tried() -> int:
        try:
            rendered(ENDLESS[0] + CHATML, chat("hello", "world"))
        except EndlessTemplateError:
            return 3
        return 4

    over = threading.Event()
    with ThreadPoolExecutor(2) as threads:
        waits = threads.submit(endless.ended, lambda: over.wait(120))
        assert threads.submit(tried).result() == 3
        assert os.waitstatus_to_exitcode(os.waitpid(forked(tried), 0)[1]) == 3
        over.set()
        assert waits.result()


def test_a_template_that_drops_earlier_reasoning_gives_a_row_an_answer() -> None:
    dropping = CHATML.replace("m['content']", "(m['content'] if loop.last else m['content'].split('#')[-1])")
    turns = chat("a", "think#b")["messages"] + chat("c", "think#d")["messages"]
    rows = rendered(dropping, {"messages": turns})
    assert [learned(row, byte_tokenizer()) for row in rows] == ["think#b<|im_end|>", "think#d<|im_end|>"]
    assert [row.id.partition(":")[2] for row in rows] == ["0", "1"]


def test_answers_of_no_weight_are_read_and_not_learned() -> None:
    row = {"messages": [*chat("a", "no")["messages"], *chat("b", "yes")["messages"]]}
    row["messages"][1]["weight"] = 0
    for template in (CHATML, MARKED):
        (found,) = rendered(template, row)
        assert learned(found, byte_tokenizer()) == "yes<|im_end|>"


def test_plain_text_is_closed_once_and_a_completion_is_learned_alone() -> None:
    tokenizer = byte_tokenizer(None)
    renderer = Renderer(tokenizer, JOB)
    closed, again = (renderer.tokens(Example(Text(text), "t"))[0] for text in ("hello", "hello<|im_end|>"))
    assert closed.ids == again.ids
    assert all(closed.supervised)
    said = renderer.tokens(Example(Completion("how\n", "\nare"), "t"))[0]
    assert learned(said, tokenizer) == "\nare<|im_end|>"
    assert renderer.prompt(Example(Completion("how\n", "\nare"), "t")) == said.ids[: said.supervised.index(True)]


def test_a_conversation_without_a_template_says_what_to_set() -> None:
    with pytest.raises(UserError, match="no chat template") as caught:
        rendered(None, chat("a", "b"))
    assert "model.chat_template" in str(caught.value.hint)


def test_supervise_completion_is_the_last_answer_and_all_is_all() -> None:
    row = example({"messages": [*chat("a", "b")["messages"], *chat("c", "d")["messages"]]}, "r")
    last = Renderer(byte_tokenizer(), finetune_job("x", supervise="completion")).tokens(row)[0]
    everything = Renderer(byte_tokenizer(), finetune_job("x", supervise="all")).tokens(row)[0]
    assert learned(last, byte_tokenizer()) == "d<|im_end|>"
    assert all(everything.supervised)


def test_the_fingerprint_is_of_words_and_ids_and_not_of_the_last_batch(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    before = Renderer(tokenizer, JOB).fingerprint
    tokenizer(["a", "b c"], padding=True, truncation=True, max_length=4)
    tokenizer.save_pretrained(tmp_path)
    assert Renderer(tokenizer, JOB).fingerprint == before
    assert Renderer(type(tokenizer).from_pretrained(tmp_path), JOB).fingerprint == before
    assert Renderer(byte_tokenizer(MARKED), JOB).fingerprint != before
