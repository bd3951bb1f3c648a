"""From a job's sources to a data set on the disk: read, sifted, made tokens of; once for the same data.

The folder is built aside and named when it is whole, so a kill leaves nothing that could be mistaken for a data set;
`--plan` and the run after it share one. This module is the story; each step's how is its own module's.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from llmops.core.errors import StorageError, UserError
from llmops.core.files import exclusive_lock, sync_directory, write_atomic
from llmops.core.ids import digest
from llmops.core.state import StateConfig
from llmops.finetune.config import GENERATING, FinetuneConfig, SourceConfig
from llmops.finetune.data.dataset import MANIFEST, Dataset, Problem, Statistics, manifest_of, order_of
from llmops.finetune.data.examples import Example, Tokens
from llmops.finetune.data.fitting import Fitting
from llmops.finetune.data.rows import Examples, RowWriter, TokenRows
from llmops.finetune.data.sifting import Opened, Progress, read_examples, sift
from llmops.finetune.data.sources import Source, SourceRead, file_digest, open_source
from llmops.finetune.data.tally import Tally
from llmops.finetune.data.template import Renderer
from llmops.finetune.data.words import passages

_RECIPE = 3  # counts up when the same data would make other rows
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

    Args:
        base: folder that relative paths of sources begin at.

    Raises:
        UserError: a source or a row is wrong; names it.
        StorageError: the disk is full; nothing half-made is left.
    """
    renderer = Renderer(tokenizer, config)
    data = config.data
    opened = Opened(*(_opened(part, state, base) for part in (data.sources, data.heldout, data.contamination)))
    read = [source.identity() for part in (opened.learned, opened.heldout, opened.contamination) for _, source in part]
    decides = data.model_dump(mode="json", exclude=set() if data.streaming else {"shuffle_buffer"})
    generating = config.task in GENERATING
    key = digest([_RECIPE, decides, renderer.supervise, generating, renderer.fingerprint, [one.digest for one in read]])
    folder = state.cache / "finetune" / key[:32]
    with exclusive_lock(folder.with_suffix(".lock"), what="preparing this data", wait_s=3600):
        if not (folder / MANIFEST).exists():
            _build(folder, _Preparation(config, renderer, opened, read, listen or _silent))
    return Dataset.load(folder)


def texts(config: FinetuneConfig, state: StateConfig, base: Path = Path()) -> Iterator[str]:
    """All that is said in the sources, for making a tokenizer of it."""
    tally = Tally(len(config.data.sources), skip_bad=config.data.on_bad == "skip")
    for number, (source, opened) in enumerate(_opened(config.data.sources, state, base)):
        for found in read_examples(opened, source, number, tally):
            yield from passages(found)


@dataclass
class _Preparation:
    """What the steps of one preparation share."""

    config: FinetuneConfig
    renderer: Renderer
    opened: Opened
    read: Sequence[SourceRead]
    listen: Progress

    def __post_init__(self) -> None:
        self.tally = Tally(len(self.opened.learned), skip_bad=self.config.data.on_bad == "skip")
        self.apart = Tally(max(len(self.opened.heldout), len(self.opened.learned)), skip_bad=self.tally.skip_bad)


def _opened(sources: Sequence[SourceConfig], state: StateConfig, base: Path) -> list[tuple[SourceConfig, Source]]:
    return [(source, open_source(source, state, base)) for source in sources]


def _build(folder: Path, job: _Preparation) -> None:
    with _aside(folder) as aside:
        sides = sift(job.opened, job.config.data, job.tally, job.listen)
        problems = [*sides.problems, *_write(aside / "train", job, sides.learned, job.tally)]
        problems += _write(aside / "heldout", job, sides.heldout, job.apart)
        _finish(aside, job, problems)


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """A folder to build in, which takes the name when all went well, and is gone when not."""
    for left in folder.parent.glob(f"{folder.name}.*.tmp"):
        shutil.rmtree(left)
    aside = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    try:
        aside.mkdir(parents=True)
        yield aside
        sync_directory(aside)
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
        sync_directory(folder.parent)
    except OSError as error:
        what = f"the prepared data cannot be written: {error.strerror}"
        raise StorageError(what, where=str(folder), hint="free space on the disk, then run again") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write(folder: Path, job: _Preparation, examples: Sequence[Example], tally: Tally) -> list[Problem]:
    """The tokens of these examples, on the disk; gives what has to be decided of them."""
    fitting = Fitting(job.config.data, tally)
    with RowWriter(folder) as writer:
        for start in range(0, len(examples), _AT_ONCE):
            job.listen("tokenize", start, len(examples))
            for one, rows in _tokens(job.renderer, examples[start : start + _AT_ONCE], tally):
                fitted = fitting.fitted(one, rows)
                if fitted:
                    writer.add(one, fitted)
                    tally.count(one.source, "examples")
                for row in fitted:
                    tally.count(one.source, "rows")
                    tally.count(one.source, "tokens", len(row.ids))
                    tally.count(one.source, "supervised_tokens", sum(row.supervised[1:]))
    return fitting.problems()


def _tokens(renderer: Renderer, examples: Sequence[Example], tally: Tally) -> Iterator[tuple[Example, list[Tokens]]]:
    """Many at once; where the template refuses one of them, one by one."""
    try:
        yield from zip(examples, renderer.batch(examples), strict=True)
        return
    except UserError:
        if not tally.skip_bad:
            raise
    for one in examples:
        try:
            yield one, renderer.tokens(one)
        except UserError as error:
            tally.bad(one.source, error)


def _finish(folder: Path, job: _Preparation, problems: list[Problem]) -> None:
    """Figures and digest of what was written, as the manifest."""
    rows = TokenRows(folder / "train", Examples(folder / "train"))
    packed = len(order_of(rows, job.config).epoch(0)) if len(rows) else 0
    lengths, learned = rows.lengths, rows.supervised_counts
    silent = [] if job.config.task in GENERATING else [int(place) for place in (learned == 0).nonzero()[0]]
    if silent:
        where = tuple(rows.example_of(place).where for place in silent[:5])
        what = f"in {len(silent)} of {len(rows)} rows no token is learned: {where[0]}"
        hint = "look at the roles of these rows and at the chat template's generation marks, or set data.supervise: all"
        problems.append(Problem("unsupervised", len(silent), what, hint, where))
    figures = Statistics(
        job.tally.total,
        job.tally.by_source,
        longest=int(lengths.max(initial=0)),
        unsupervised=len(silent),
        packed_rows=packed,
        density=float(lengths.sum() / (packed * job.config.data.max_length)) if packed else 0.0,
        reports=job.tally.reports,
    )
    streamed = [one.digest for one in job.read] if job.config.data.streaming else []
    manifest = manifest_of(_content_digest(folder, streamed), job.renderer.fingerprint, job.read, figures, problems)
    write_atomic(folder / MANIFEST, orjson.dumps(manifest, option=orjson.OPT_INDENT_2))


def _content_digest(folder: Path, streamed: Sequence[str]) -> str:
    names = ("example_ids.npy", "rows.npy", "ids.bin", "supervised.bin")
    return digest([*streamed, *(file_digest(folder / side / name) for side in ("train", "heldout") for name in names)])


def _silent(stage: str, done: int, of: int) -> None:
    """Nobody listens."""
