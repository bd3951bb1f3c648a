"""From a job's sources to a data set on the disk: read, checked, split, made tokens of; once for the same data.

The folder is built aside and named when it is whole, so a kill leaves nothing that could be mistaken for a data set;
`--plan` and the run after it share one. This module is the story; each step's how is its own module's.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from llmops.core.errors import StorageError, UserError
from llmops.core.files import exclusive_lock, sync_directory, write_atomic
from llmops.core.ids import digest
from llmops.core.state import StateConfig
from llmops.finetune.config import FinetuneConfig, SourceConfig
from llmops.finetune.data import heldout
from llmops.finetune.data.dataset import MANIFEST, Counts, Dataset, Problem, Statistics, order_of
from llmops.finetune.data.examples import Example, Tokens
from llmops.finetune.data.formats import example
from llmops.finetune.data.rows import Examples, RowWriter, TokenRows
from llmops.finetune.data.sources import BadRowError, Source, SourceRead, file_digest, open_source
from llmops.finetune.data.template import Renderer

Progress = Callable[[str, int, int], None]
"""Told the stage, how much is done, and of how much (0: not known)."""
_RECIPE = 1  # counts up when the same data would make other rows
_AT_ONCE = 512


def prepare(
    config: FinetuneConfig,
    tokenizer: Any,
    state: StateConfig,
    *,
    base: Path = Path(),
    listen: Progress | None = None,
) -> Dataset:
    """The data set of a job: the one that lies in the cache, or a new one.

    Raises:
        UserError: a source or a row is wrong; names it.
        StorageError: the disk is full; nothing half-made is left.
    """
    renderer = Renderer(tokenizer, config)
    sources = [open_source(source, state, base) for source in config.data.sources]
    apart = [open_source(source, state, base) for source in (*config.data.heldout, *config.data.contamination)]
    read = [source.identity() for source in (*sources, *apart)]
    key = digest([_RECIPE, config.data.model_dump(mode="json", exclude={"shuffle_buffer"}), renderer.supervise,
                  config.task, renderer.fingerprint, [one.digest for one in read]])  # fmt: skip
    folder = state.cache / "finetune" / key[:32]
    with exclusive_lock(folder.with_suffix(".lock"), what="preparing this data", wait_s=3600):
        if not (folder / MANIFEST).exists():
            _build(folder, _Preparation(config, renderer, sources, apart, read, listen or _silent))
    return Dataset.load(folder)


def texts(config: FinetuneConfig, state: StateConfig, base: Path = Path()) -> Iterator[str]:
    """All that is said in the sources, for making a tokenizer of it."""
    from llmops.finetune.data.words import text_of

    for number, source in enumerate(config.data.sources):
        for found in _examples(open_source(source, state, base), source, number, _Tally(config)):
            yield text_of(found)


class _Tally:
    """Counts by source, and the first reports of each kind."""

    _REPORTS = 20

    def __init__(self, config: FinetuneConfig) -> None:
        self.skip_bad = config.data.on_bad == "skip"
        self.counts = [Counts() for _ in config.data.sources]
        self.reports: dict[str, list[str]] = {}

    def count(self, source: int, **more: int) -> None:
        if source < len(self.counts):
            now = asdict(self.counts[source])
            self.counts[source] = replace(self.counts[source], **{name: now[name] + n for name, n in more.items()})

    def report(self, kind: str, what: str) -> None:
        kept = self.reports.setdefault(kind, [])
        if len(kept) < self._REPORTS:
            kept.append(what)

    def bad(self, source: int, error: UserError) -> None:
        """A row that cannot be read: counted where the job says so, else the end."""
        if not self.skip_bad:
            raise error
        self.count(source, bad=1)
        self.report("bad", f"{error.where}: {error.what}")

    @property
    def total(self) -> Counts:
        every = [asdict(one) for one in self.counts]
        return Counts(**{name: sum(one[name] for one in every) for name in asdict(Counts())})


@dataclass
class _Preparation:
    """What the steps of one preparation share."""

    config: FinetuneConfig
    renderer: Renderer
    sources: Sequence[Source]
    apart: Sequence[Source]
    read: Sequence[SourceRead]
    listen: Progress
    problems: list[Problem] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tally = _Tally(self.config)


def _build(folder: Path, job: _Preparation) -> None:
    aside = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    try:
        for left in folder.parent.glob(f"{folder.name}.*.tmp"):
            shutil.rmtree(left)
        aside.mkdir(parents=True)
        learned, kept = _sides(job)
        _write(aside / "train", job, learned, job.tally)
        _write(aside / "heldout", job, kept, None)
        _finish(aside, job)
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
        sync_directory(folder.parent)
    except OSError as error:
        what = f"the prepared data cannot be written: {error.strerror}"
        raise StorageError(what, where=str(folder), hint="free space on the disk, then run again") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _sides(job: _Preparation) -> tuple[list[Example], list[Example]]:
    """The examples to learn from, and those to judge by."""
    data, tally = job.config.data, job.tally
    found: dict[str, Example] = {}
    for number, (source, opened) in enumerate(zip(data.sources, job.sources, strict=True)):
        for one in _examples(opened, source, number, tally):
            if data.dedup != "none" and one.id in found:
                tally.count(number, duplicates=1)
                tally.report("duplicates", f"{one.where} is {found[one.id].where} again")
                continue
            found[one.id if data.dedup != "none" else f"{one.id}{len(found)}"] = one
    everything = list(found.values())
    kept_ids = heldout.heldout(everything, data.heldout_share)
    learned = [one for one in everything if one.id not in kept_ids]
    kept = [one for one in everything if one.id in kept_ids]
    for one in kept:
        tally.count(one.source, heldout=1)
    return learned, kept


def _examples(opened: Source, source: SourceConfig, number: int, tally: _Tally) -> Iterator[Example]:
    rows = (found for part in range(opened.parts()) for found in opened.rows(part))
    for row, where in islice(rows, source.limit):
        tally.count(number, read=1)
        try:
            if isinstance(row, BadRowError):
                raise row
            yield example(row, where, source.format, number)
        except BadRowError as error:
            tally.bad(number, error)


def _write(folder: Path, job: _Preparation, examples: Sequence[Example], tally: _Tally | None) -> None:
    writer = RowWriter(folder)
    overlong: list[str] = []
    for start in range(0, len(examples), _AT_ONCE):
        some = examples[start : start + _AT_ONCE]
        job.listen("tokenize", start, len(examples))
        for one, rows in zip(some, job.renderer.batch(some), strict=True):
            fitting = _fitted(rows, job.config, one)
            if len(fitting) != len(rows):
                overlong.append(one.where)
            if fitting:
                writer.add(one, fitting)
                if tally is not None:
                    tally.count(one.source, examples=1, rows=len(fitting), tokens=sum(len(r.ids) for r in fitting),
                                supervised_tokens=sum(sum(r.supervised) for r in fitting))  # fmt: skip
    writer.close()


def _fitted(rows: list[Tokens], config: FinetuneConfig, one: Example) -> list[Tokens]:
    return [row for row in rows if len(row.ids) <= config.data.max_length]


def _finish(folder: Path, job: _Preparation) -> None:
    """Figures and digest of what was written, as the manifest."""
    examples = Examples(folder / "train")
    rows = TokenRows(folder / "train", examples)
    packed = len(order_of(rows, job.config).epoch(0)) if len(rows) else 0
    lengths, supervised = rows.lengths, rows.supervised_counts
    statistics = Statistics(
        job.tally.total,
        tuple(job.tally.counts),
        longest=int(lengths.max(initial=0)),
        unsupervised=int((supervised == 0).sum()),
        packed_rows=packed,
        density=float(lengths.sum() / (packed * job.config.data.max_length)) if packed else 0.0,
        reports=job.tally.reports,
    )
    manifest = {
        "digest": _content_digest(folder),
        "renderer": job.renderer.fingerprint,
        "sources": [one.as_json() for one in job.read],
        "statistics": {**asdict(statistics), "supervised_share": statistics.supervised_share},
        "problems": [asdict(problem) for problem in job.problems],
    }
    write_atomic(folder / MANIFEST, orjson.dumps(manifest, option=orjson.OPT_INDENT_2))


def _content_digest(folder: Path) -> str:
    names = ("example_ids.npy", "rows.npy", "ids.bin", "supervised.bin")
    return digest([file_digest(folder / side / name) for side in ("train", "heldout") for name in names])


def _silent(stage: str, done: int, of: int) -> None:
    """Nobody listens."""
