"""The traps that lie in data: what is masked, what ends a turn, what was left out, who gave the thumbs.

Each is looked at in the rows as they will be learned from, not in the configuration. Reads a prepared data set; knows
no weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from llmops.finetune.config import FinetuneConfig, Task
from llmops.finetune.data.controls import controls_of, told
from llmops.finetune.data.dataset import Dataset
from llmops.finetune.data.endless import ended
from llmops.finetune.data.examples import Completion, Conversation, Example, Preference, Text, Thumb
from llmops.finetune.data.packing import Batch, Document, collate
from llmops.finetune.data.template import Renderer
from llmops.finetune.data.words import passages
from llmops.finetune.gate import LEAST
from llmops.finetune.preflight import Check
from llmops.finetune.preflight.known import CHECKS

_LOOKED_AT = 500
_MOST_BY_ONE, _FEW_THUMBS = 0.5, 20
_KINDS: dict[Task, tuple[type, ...]] = {
    "sft": (Conversation, Completion, Text),
    "cpt": (Text, Completion, Conversation),
    "pretrain": (Text, Completion, Conversation),
    "dpo": (Preference,),
    "reward": (Preference,),
    "kto": (Thumb, Preference),
    "grpo": (Conversation, Completion),
    "rloo": (Conversation, Completion),
    "distill": (Conversation, Completion),
}
Collate = Callable[[Sequence[Sequence[Document]], int], Batch]


def data_checks(
    dataset: Dataset, renderer: Renderer, config: FinetuneConfig, *, vocabulary: int | None = None, serving: Any = None
) -> list[Check]:
    """Every check of the data.

    Args:
        vocabulary: rows of the model's embedding.
        serving: the tokenizer that will serve, where it is another than the renderer's.
    """
    some = _spread(dataset)
    rows = [dataset.rows.arrays(place) for place in _places(len(dataset.rows))]
    learned = config.task in CHECKS["data.end_of_turn"]
    checks = [
        not_empty(dataset),
        *undecided(dataset),
        heldout(dataset, config),
        bad_rows(dataset),
        duplicates(dataset, config),
        format_fits(some, config.task),
        supervision(dataset, renderer),
        *([end_of_turn(rows, renderer)] if learned else []),
        padding(rows, renderer.tokenizer),
        doubled_begin(rows, renderer.tokenizer),
        same_as_serving(some, renderer, serving or renderer.tokenizer),
        steady_template(renderer),
        control_tokens(some, renderer),
        vocabulary_fits(dataset, vocabulary),
    ]
    everything = list(dataset.examples) if any(isinstance(one.content, Preference | Thumb) for one in some) else []
    return [*checks, *identical_pairs(everything), *thumbs(everything)]


def not_empty(dataset: Dataset) -> Check:
    total = dataset.statistics.total
    if not len(dataset.rows):
        what = f"no row is left to learn from, of {total.read} that were read"
        hint = "name sources that have rows, and look at what was left out: bad, duplicate, contaminated, too long"
        return Check("data.rows", "fail", what, hint, {"rows": 0, "read": total.read})
    figures = {"examples": total.examples, "rows": total.rows, "tokens": total.tokens}
    what = f"{total.examples} examples, {total.rows} rows, {total.tokens} tokens"
    return Check("data.rows", "pass", what, figures=figures)


def undecided(dataset: Dataset) -> list[Check]:
    """What `prepare` found that the job has to decide."""
    found = {problem.kind: problem for problem in dataset.problems}
    fine = {
        "overlong": "no row is too long",
        "contaminated": "no row gives an evaluation away",
        "unsupervised": "of every row something is learned",
    }
    checks = []
    for kind, words in fine.items():
        problem, dropped = found.get(kind), getattr(dataset.statistics.total, kind, 0)
        if problem is not None:
            checks.append(Check(f"data.{kind}", "fail", problem.what, problem.hint, {"rows": problem.count}))
        else:
            checks.append(Check(f"data.{kind}", "pass", f"{dropped} left out" if dropped else words))
    return checks


def heldout(dataset: Dataset, config: FinetuneConfig) -> Check:
    """Enough to judge by, where the result is to be judged: that is known only after the training."""
    size = len(dataset.heldout_examples)
    if 0 < size < LEAST and config.track.register_as is not None:
        what = f"{size} examples are kept apart, and the gate decides by {LEAST} or more"
        return Check("data.heldout", "warn", what, "raise data.heldout_share, or name data.heldout", {"examples": size})
    if size:
        return Check("data.heldout", "pass", f"{size} examples are kept apart", figures={"examples": size})
    hint = "name data.heldout, or raise data.heldout_share: without held-out examples no gate can pass"
    return Check("data.heldout", "warn", "no example is kept apart to judge by", hint, {"examples": 0})


def bad_rows(dataset: Dataset) -> Check:
    total = dataset.statistics.total
    if not total.bad:
        return Check("data.bad_rows", "pass", "every row could be read")
    first = next(iter(dataset.statistics.reports.get("bad", [])), "")
    what = f"{total.bad} of {total.read} rows were skipped: {first}"
    return Check("data.bad_rows", "warn", what, "mend them, or leave them out of the files", {"rows": total.bad})


def duplicates(dataset: Dataset, config: FinetuneConfig) -> Check:
    total = dataset.statistics.total
    figures: dict[str, Any] = {"exact": total.duplicates, "near": total.near_duplicates}
    if config.data.dedup == "none":
        ids = dataset.examples.ids
        twice = len(ids) - len(np.unique(ids))
        if twice:
            hint = "set data.dedup: exact, or give a source more weight if rows are to be repeated"
            return Check(
                "data.duplicates", "warn", f"{twice} examples are there more than once", hint, {"exact": twice}
            )
        return Check("data.duplicates", "pass", "no example is there twice", figures={"exact": 0})
    what = f"{total.duplicates} equal ones and {total.near_duplicates} near ones were left out"
    if total.duplicates + total.near_duplicates > total.read / 2:
        return Check("data.duplicates", "warn", f"{what}: more than half", "look at the sources", figures)
    return Check("data.duplicates", "pass", what, figures=figures)


def format_fits(examples: Sequence[Example], task: Task) -> Check:
    wrong = [one for one in examples if not isinstance(one.content, _KINDS[task])]
    if not wrong:
        return Check("data.format", "pass", f"the rows are what {task} learns from")
    wanted = " or ".join(kind.__name__.lower() for kind in _KINDS[task])
    what = f"{task} learns from rows of the kind {wanted}, and {wrong[0].where} is a {_kind(wrong[0])}"
    return Check("data.format", "fail", what, "take another task, or other rows (docs/finetune-data.md)")


def supervision(dataset: Dataset, renderer: Renderer) -> Check:
    """How much is learned of what is read; rows of which nothing is are among the undecided."""
    share = dataset.statistics.supervised_share
    how = "by the template's marks" if renderer.marked else "from turn to turn, the template having no marks"
    what = f"{share:.0%} of the tokens are learned; masks are made {how}"
    return Check("data.supervised", "pass", what, figures={"share": share, "marked": renderer.marked})


def end_of_turn(rows: Sequence[tuple[Any, Any]], renderer: Renderer) -> Check:
    """Whether the model learns to stop, and by the token that serving stops at."""
    stops = renderer.stop_ids
    end = renderer.tokenizer.eos_token_id
    last = Counter(int(ids[supervised][-1]) for ids, supervised in rows if supervised.any())
    ended = sum(count for token, count in last.items() if token in stops)
    figures = {"rows": sum(last.values()), "ended": ended, "eos": last.get(end, 0)}
    if last and not ended:
        what = "no answer is learned to its end: in no row is an end of turn supervised, and the model would never stop"
        hint = "put the end of turn inside {% generation %} of the template, or give the tokenizer an eos_token"
        return Check("data.end_of_turn", "fail", what, hint, figures)
    if last and not last.get(end, 0):
        token = renderer.tokenizer.decode([max((t for t in last if t in stops), key=last.__getitem__)])
        what = f"answers end with {token!r}, and the tokenizer's end of text is {renderer.tokenizer.eos_token!r}"
        hint = f"serve with the stop token {token!r}, or make it the tokenizer's eos_token"
        return Check("data.end_of_turn", "warn", what, hint, figures)
    return Check(
        "data.end_of_turn", "pass", f"{ended} of {sum(last.values())} rows are learned to their end", "", figures
    )


def padding(rows: Sequence[tuple[Any, Any]], tokenizer: Any, collate: Collate = collate) -> Check:
    """Whether ends of text stay labels in a batch, also where padding is the same token."""
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    pad = end if pad is None else pad
    if end is None or not rows:
        return Check("data.padding", "skipped", "the tokenizer has no end of text")
    some = rows[:32]
    batch = collate([[Document("", ids, supervised)] for ids, supervised in some], pad)
    expected = sum(int(((ids == end) & supervised)[1:].sum()) for ids, supervised in some)
    found = int((batch.labels == end).sum())
    figures = {"expected": expected, "found": found, "same": pad == end}
    if found != expected:
        what = f"{expected} ends of text are supervised, and {found} are labels in the batch: padding is the same token"
        hint = "mask padding by position, not by its id, or give the tokenizer a pad_token of its own"
        return Check("data.padding", "fail", what, hint, figures)
    same = "the same token as the end of text; " if pad == end else ""
    return Check("data.padding", "pass", f"padding is {same}no label; all {found} real ends are", figures=figures)


def doubled_begin(rows: Sequence[tuple[Any, Any]], tokenizer: Any) -> Check:
    begin = tokenizer.bos_token_id
    twice = sum(len(ids) > 1 and begin is not None and ids[0] == begin == ids[1] for ids, _ in rows)
    if twice:
        hint = "take the bos_token out of the chat template or of the texts: the tokenizer puts one there"
        return Check("data.begin", "fail", f"{twice} of {len(rows)} rows begin with two begin-of-text tokens", hint)
    return Check("data.begin", "pass", "no row begins twice")


def same_as_serving(examples: Sequence[Example], renderer: Renderer, serving: Any) -> Check:
    """Whether serving, asked the same, reads the ids that training put before the answer."""
    chats = [one for one in examples if _asked(one, renderer)]
    if not chats:
        return Check("data.serving_ids", "skipped", "no row is a conversation")
    for one in chats:
        prompt = serving_ids(one, serving)
        for row in [found.ids for found in renderer.tokens(one)][-2 if isinstance(one.content, Preference) else -1 :]:
            if tuple(prompt) != row[: len(prompt)]:
                differs = next((n for n, (a, b) in enumerate(zip(prompt, row, strict=False)) if a != b), len(row))
                what = f"serving would read other tokens than training, from token {differs} of {one.where} on"
                hint = "serve with the tokenizer and the chat template of the training (they are saved with the model)"
                return Check("data.serving_ids", "fail", what, hint, {"token": differs})
    return Check("data.serving_ids", "pass", f"serving reads the same ids in {len(chats)} conversations")


def serving_ids(example: Example, tokenizer: Any) -> list[int]:
    """What our server reads of a conversation up to its last answer, by transformers' own way."""
    content, tools = example.content, None
    if isinstance(content, Conversation):
        last = max(place for place, message in enumerate(content.messages) if message.role == "assistant")
        turns, tools = content.messages[:last], list(content.tools) or None
    else:
        assert isinstance(content, Preference | Thumb)
        turns = content.prompt
    controls = controls_of(tokenizer)
    asked = [{"role": one.role, "content": told(one.role, one.content, controls), **one.extra} for one in turns]
    found = ended(
        lambda: tokenizer.apply_chat_template(
            asked, tools=tools, add_generation_prompt=True, tokenize=True, return_dict=True
        )
    )
    return list(found["input_ids"])


def steady_template(renderer: Renderer) -> Check:
    if renderer.chat_template and "strftime_now" in renderer.chat_template:
        hint = (
            "name a template without strftime_now as model.chat_template: else training tells a date, serving another"
        )
        return Check("data.template", "warn", "the chat template writes the day of today into each row", hint)
    return Check("data.template", "pass", f"tokenizer and template are {renderer.fingerprint[:12]}")


def control_tokens(examples: Sequence[Example], renderer: Renderer) -> Check:
    """Text that would be read as the end of a turn, or as the begin of another's."""
    for one in examples:
        for passage in passages(one):
            token = next((token for token in renderer.controls if token in passage), None)
            if token is not None:
                what = f"the text of {one.where} holds {token!r}, a token of the format"
                hint = "take it out: an answer says it as a token, and in other turns it is broken, here as in serving"
                return Check("data.controls", "warn", what, hint)
    return Check("data.controls", "pass", "no text holds tokens of the format")


def vocabulary_fits(dataset: Dataset, vocabulary: int | None) -> Check:
    largest = dataset.rows.largest_id
    if vocabulary is None:
        return Check("data.vocabulary", "skipped", f"the largest id is {largest}")
    if largest >= vocabulary:
        what = f"the rows hold the id {largest}, and the embedding ends with {vocabulary - 1}"
        hint = "take the model's own tokenizer, or resize the embedding before training"
        return Check("data.vocabulary", "fail", what, hint, {"largest": largest, "vocabulary": vocabulary})
    return Check("data.vocabulary", "pass", f"the largest id is {largest} of {vocabulary}")


def identical_pairs(examples: Sequence[Example]) -> list[Check]:
    pairs = [one for one in examples if isinstance(one.content, Preference)]
    if not pairs:
        return []
    same = [one for one in pairs if _same(one)]
    if same:
        what = f"in {len(same)} of {len(pairs)} pairs both answers are the same: {same[0].where}"
        return [Check("data.pairs", "fail", what, "leave them out: nothing is preferred in them", {"rows": len(same)})]
    return [Check("data.pairs", "pass", f"in all {len(pairs)} pairs the answers differ")]


def thumbs(examples: Sequence[Example]) -> list[Check]:
    """Whether there are both kinds, and whether one person gave most of them."""
    found = [(one.content.liked, one.by) for one in examples if isinstance(one.content, Thumb)]
    if not found:
        return []
    liked = sum(up for up, _ in found)
    figures: dict[str, Any] = {"liked": liked, "disliked": len(found) - liked}
    sides = Check("data.thumbs", "pass", f"{liked} up and {len(found) - liked} down", figures=figures)
    if liked in (0, len(found)):
        hint = "wait for thumbs of the other kind: from one kind only, the model learns to like all or nothing"
        sides = Check("data.thumbs", "fail", f"all {len(found)} thumbs are of one kind", hint, figures)
    return [sides, _givers([by for _, by in found if by])]


def _givers(givers: Sequence[str]) -> Check:
    people = Counter(givers)
    if len(people) < 2:
        what = "who gave the thumbs is not known" if not people else "one person gave all thumbs"
        hint = "collect thumbs of more people before many are to follow them"
        return Check("data.givers", "warn", what, hint, {"people": len(people)})
    (_, most), *_ = people.most_common(1)
    share = most / len(givers)
    figures = {"people": len(people), "largest_share": share}
    if share > _MOST_BY_ONE and len(givers) >= _FEW_THUMBS:
        what = f"one of {len(people)} people gave {share:.0%} of the thumbs"
        hint = "cap the thumbs of one person (llmops finetune loop does), or leave that person's out"
        return Check("data.givers", "fail", what, hint, figures)
    return Check(
        "data.givers", "pass", f"{len(people)} people gave thumbs, one of them at most {share:.0%}", "", figures
    )


def _same(one: Example) -> bool:
    assert isinstance(one.content, Preference)
    return one.content.chosen.strip() == one.content.rejected.strip()


def _asked(one: Example, renderer: Renderer) -> bool:
    """Whether an example is an answer to turns that a chat template wrote."""
    if isinstance(one.content, Conversation):
        return any(message.role == "assistant" for message in one.content.messages[1:])
    return isinstance(one.content, Preference | Thumb) and bool(renderer.chat_template)


def _kind(one: Example) -> str:
    return type(one.content).__name__.lower()


def _places(size: int) -> Iterable[int]:
    """Evenly spread over all rows, so that no source is left out for coming late."""
    return np.unique(np.linspace(0, size - 1, min(size, _LOOKED_AT)).astype(int)).tolist() if size else []


def _spread(dataset: Dataset) -> list[Example]:
    return [dataset.examples[place] for place in _places(len(dataset.examples))]
