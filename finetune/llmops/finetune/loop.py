"""From thumbs to a challenger: recorded feedback becomes a set to be trusted, is learned from, judged and offered.

Only what a request's own requester thought counts. One answer with the same words is judged once, by the majority of
those who judged it; nobody gives more than a share of all. What a loop has taken is remembered, so that the next one
knows whether there is anything new. Training and judging are `train`'s.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from llmops.core.errors import GateFailedError, UserError
from llmops.core.files import write_atomic
from llmops.core.identity import LOCAL, Principal
from llmops.core.ids import digest
from llmops.core.lake import Lake
from llmops.core.names import Name
from llmops.finetune.config import PREFERRING, FinetuneConfig, LoopConfig, SourceConfig
from llmops.finetune.data.stored import thumbs
from llmops.finetune.engines import Listener
from llmops.finetune.runs import RunRecord, runs_folder

SCHEME = "feedback:"
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Collected:
    """What was made of the feedback there is.

    Args:
        thumbs: that were given by whoever had asked, the last of each person on each answer.
        new: of them, those that no loop of this job has taken yet.
        conflicting: answers that as many liked as disliked; they are left out.
        capped: thumbs left out since one person gave too many.
        rows: of the set: thumbs, or pairs of answers to one question.
    """

    thumbs: int
    new: int
    people: int
    conflicting: int
    capped: int
    liked: int
    disliked: int
    rows: int
    digest: str
    path: Path
    taken: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path), "taken": len(self.taken)}


@dataclass(frozen=True)
class Looped:
    """What came of a loop; without a run where there was nothing new."""

    collected: Collected
    run: RunRecord | None


def loop(config: FinetuneConfig, *, principal: Principal = LOCAL, listen: Listener | None = None) -> Looped:
    """Collect, and where there is anything new, train, judge and offer a challenger.

    Raises:
        UserError: the job reads no feedback, or there is too little of it to learn from.
        GateFailedError: the result is not better; it is registered with that evidence.
    """
    from llmops.finetune.train import run_job

    found = collect(config)
    if not found.new:
        return Looped(found, None)
    require_enough(found, config.loop)
    try:
        run = run_job(over(config, found.path), principal=principal, listen=listen)
    except GateFailedError as error:
        if error.error_code == GateFailedError.code:  # judged, not refused by preflight: these thumbs had their say
            remember(config, found.taken)
        raise
    remember(config, found.taken)
    return Looped(found, run)


def collect(config: FinetuneConfig) -> Collected:
    """The set that the job's feedback makes now, written to the state folder; the same feedback is the same file.

    Raises:
        UserError: the job reads no feedback, or its task does not learn from any.
    """
    source = _source(config)
    schema = source.uri.removeprefix(SCHEME) or "serving"
    lake = Lake(config.state)
    given = thumbs(lake, str(Name.parse(f"{schema}.feedback")), str(Name.parse(f"{schema}.inference_log")))
    seen = _seen(config)
    new = [row for row in given if row["feedback_id"] not in seen]
    used = given if config.loop.take == "all" else new
    capped = capped_by_person(used, config.loop.max_share)
    judged, conflicting = agreed(capped)
    rows = pairs(judged) if config.task in ("dpo", "reward") else judged
    body = b"".join(sorted(orjson.dumps(row, option=orjson.OPT_SORT_KEYS) + b"\n" for row in rows))
    name = digest(body)
    path = folder(config) / f"{name[:16]}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        write_atomic(path, body, mode=0o600)
    liked = sum(row["label"] for row in judged)
    return Collected(
        thumbs=len(given),
        new=len(new),
        people=len({row["requester"] for row in used}),
        conflicting=conflicting,
        capped=len(used) - len(capped),
        liked=liked,
        disliked=len(judged) - liked,
        rows=len(rows),
        digest=name,
        path=path,
        taken=tuple(row["feedback_id"] for row in given),
    )


def over(config: FinetuneConfig, path: Path) -> FinetuneConfig:
    """The job, with a collected set in the place of its feedback."""
    kind = "preference" if config.task in ("dpo", "reward") else "thumbs"
    made = [
        one.model_copy(update={"uri": str(path), "format": kind}) if one.uri.startswith(SCHEME) else one
        for one in config.data.sources
    ]
    return config.model_copy(update={"data": config.data.model_copy(update={"sources": tuple(made)})})


def require_enough(found: Collected, wanted: LoopConfig) -> None:
    """Go on only with enough to learn from.

    Raises:
        UserError: says what is missing.
    """
    missing = [
        f"{name}: {there} of {needed}"
        for name, there, needed in (
            ("people who gave thumbs", found.people, wanted.min_people),
            ("rows", found.rows, wanted.min_rows),
            ("liked answers", found.liked, wanted.min_each),
            ("disliked answers", found.disliked, wanted.min_each),
        )
        if there < needed
    ]
    if missing:
        raise UserError(
            f"there is too little feedback to learn from: {'; '.join(missing)}",
            hint="collect more, or ask for less: `--set loop.min_rows=...`, loop.min_each, loop.min_people",
            code="too_little_feedback",
        )


def capped_by_person(rows: Sequence[Row], share: float) -> list[Row]:
    """Of each person the newest thumbs, no more than a share of all that stay; of few people an equal share each.

    The cap is the largest number that holds: who gives a thousand thumbs weighs no more than who gives their share.
    """
    counts = Counter(row["requester"] for row in rows)
    if not counts:
        return []
    share = max(share, 1 / len(counts))
    cap = max((c for c in {*counts.values(), *_steps(counts)} if c <= share * _kept(counts, c) + 1e-9), default=1)
    left = Counter(dict.fromkeys(counts, cap))
    kept = []
    for row in sorted(rows, key=lambda row: (row["event_time"], row["feedback_id"]), reverse=True):
        if left[row["requester"]] > 0:
            left[row["requester"]] -= 1
            kept.append(row)
    return kept[::-1]


def agreed(rows: Iterable[Row]) -> tuple[list[dict[str, Any]], int]:
    """One judgement for each answer with the same words to the same turns, and how many were level and are left out."""
    votes: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        votes[digest([row["prompt"], row["completion"].strip()])].append(row)
    judged, level = [], 0
    for about in votes.values():
        balance = sum(1 if row["label"] else -1 for row in about)
        if balance == 0:
            level += 1
            continue
        first = about[0]
        judged.append(
            {
                "prompt": first["prompt"],
                "completion": first["completion"],
                "label": balance > 0,
                "requester": digest(str(first["requester"]))[:16],
            }
        )
    return judged, level


def pairs(judged: Iterable[Row]) -> list[dict[str, Any]]:
    """Of each question its liked answers beside its disliked ones, each of them in as few pairs as cover all.

    Not every one beside every other: whoever gave all thumbs to one question would weigh by their square.
    """
    by_question: dict[str, tuple[list[Row], list[Row]]] = defaultdict(lambda: ([], []))
    for row in judged:
        by_question[digest(row["prompt"])][0 if row["label"] else 1].append(row)
    return [
        {"prompt": good["prompt"], "chosen": good["completion"], "rejected": bad["completion"]}
        for liked, disliked in by_question.values()
        for good, bad in _beside(liked, disliked)
    ]


def _beside(liked: Sequence[Row], disliked: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    for place in range(max(len(liked), len(disliked)) if liked and disliked else 0):
        yield liked[place % len(liked)], disliked[place % len(disliked)]


def _steps(counts: Counter[str]) -> range:
    return range(1, max(counts.values()) + 1)


def _kept(counts: Counter[str], cap: int) -> int:
    return sum(min(count, cap) for count in counts.values())


def _source(config: FinetuneConfig) -> SourceConfig:
    found = [one for one in config.data.sources if one.uri.startswith(SCHEME)]
    if len(found) != 1:
        raise UserError(
            f"the job reads {len(found) or 'no'} source{'s' * (len(found) != 1)} of feedback, and a loop needs one",
            where="data.sources",
            hint="write - {uri: 'feedback:'}",
        )
    if config.task not in PREFERRING:
        raise UserError(
            f"task {config.task} does not learn from thumbs", where="task", hint="choose kto, dpo or reward"
        )
    return found[0]


def folder(config: FinetuneConfig) -> Path:
    """Where a loop keeps what it collected, and what it took."""
    return runs_folder(config.state) / "feedback" / config.name


def _seen(config: FinetuneConfig) -> frozenset[str]:
    """The feedback that earlier loops of this job took."""
    path = folder(config) / "taken.json"
    return frozenset(orjson.loads(path.read_bytes())) if path.is_file() else frozenset()


def remember(config: FinetuneConfig, taken: Iterable[str]) -> None:
    """Write down what was taken, once the run has come to an end: a loop that was killed takes it again."""
    taken = sorted(_seen(config) | set(taken))
    write_atomic(folder(config) / "taken.json", orjson.dumps(taken), mode=0o600)
