"""Validation: everything that is asked of a version by itself, in one report.

Knows the order of the checks and which kinds have which. A check that cannot be made is a failed check: nothing passes
because it was not looked at.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmops.core.errors import DeniedError, IntegrityError, UserError
from llmops.core.names import Ref
from llmops.registry.assets import Registry
from llmops.registry.evidence import Data
from llmops.registry.gates import chain_checks, model_checks, paper_checks, thresholds
from llmops.registry.gates.heldout import HeldOut, Mask, read_heldout
from llmops.registry.gates.judged import Judged, Output, judge
from llmops.registry.gates.model_checks import failed
from llmops.registry.gates.plugins import CHECKS, Checking, find, of_kind
from llmops.registry.gates.questions import QuestionSet, read_questions
from llmops.registry.gates.report import Finding, Report
from llmops.registry.gates.spec import ValidationSpec
from llmops.registry.gates.trial import Loaded, Trial, TrialError
from llmops.registry.records import Kind, Version


def validate(version: Version | Ref | str, spec: ValidationSpec, registry: Registry) -> Report:
    """Look at a version, and say what was found; nothing is moved, and nothing filed.

    Whatever the version does wrong is a finding. What the asker does wrong (a missing file, an expression that does not
    fit) is an error.

    Raises:
        NotFoundError: no such version, file, table, metric or check.
        DeniedError: the registry's principal may not load it.
        UserError: the specification does not fit the data or the kind.
        ConflictError: a chain's index was refreshed meanwhile.
    """
    found = version if isinstance(version, Version) else registry.resolve(version)
    return _Course(found, spec, registry).run()


@dataclass
class _Course:
    """One validation, and what it has come to so far."""

    version: Version
    spec: ValidationSpec
    registry: Registry
    findings: list[Finding] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    heldout: HeldOut | None = None
    slices: dict[str, Mask] = field(default_factory=dict)
    questions: QuestionSet | None = None

    def run(self) -> Report:
        started = datetime.now(UTC)
        self._read()
        self._add(paper_checks.check_documentation(self.version, self.spec.documentation))
        if self.version.kind.answers or self.version.kind is Kind.MODEL:
            self._try_out()
        else:
            self._add(paper_checks.check_content(self.version, self.registry, self.spec.prompt))
            self._own_checks(Checking(self.version, self.registry, self.heldout))
            self._ask()
        return Report(
            gate="validation",
            version=self.version,
            spec=self.spec,
            findings=tuple(self.findings),
            started=started,
            data=self._data(),
            figures=self.figures,
            facts=self.facts,
        )

    def _read(self) -> None:
        """Rows, questions and limits first: what the asker got wrong is told before any process is started."""
        for threshold in self.spec.metrics:
            thresholds.measure_of(threshold)
        if self.spec.data is not None:
            self.heldout = read_heldout(self.spec.data, self.registry.state)
            self.slices = self.heldout.slices(self.spec.slices)
        if self.spec.questions is not None:
            if self.version.kind is Kind.MODEL:
                raise UserError(f"`{self.version.ref}` is a model: it answers no questions", where="questions")
            self.questions = read_questions(Path(self.spec.questions.file))

    def _data(self) -> Data | None:
        source = self.heldout or self.questions
        return None if source is None else source.data

    def _add(self, found: Iterable[Finding]) -> None:
        self.findings.extend(found)

    def _try_out(self) -> None:
        """Files, then a process: what follows needs what came before."""
        try:
            trial = self._trial()
        except DeniedError:
            raise
        except (IntegrityError, UserError) as error:
            self._add([failed("files", error)])
            return
        assert trial.folder is not None
        size = sum(path.stat().st_size for path in trial.folder.rglob("*") if path.is_file())
        self.facts["size_bytes"] = size
        self._add(
            [Finding("files", "pass", "the files are what was registered", measured=self.version.artifact_digest)]
        )
        if self.spec.size_mb is not None:
            what = "the artefact's files, in MB"
            self._add([model_checks.at_most("size_mb", size / 1e6, self.spec.size_mb, what)])
        with trial:
            loaded = self._load(trial)
            if loaded is not None:
                self._add(self._used(trial, loaded))
                self._memory(trial)

    def _ask(self) -> None:
        """Questions for what has no files of its own: it answers through what its kind's part opens it with."""
        if self.questions is None or any(finding.verdict == "fail" for finding in self.findings):
            return
        with self._trial() as trial:
            loaded = self._load(trial)
            if loaded is not None:
                try:
                    self._add(self._chain(trial))
                except TrialError as error:
                    self._add([failed("answer", error)])

    def _trial(self) -> Trial:
        if self.version.kind is Kind.MODEL:
            return Trial.of(self.version, self.registry, self.spec.limits)
        through = {} if self.spec.questions is None else self.spec.questions.through
        return Trial.asked(self.version, self.registry, self.spec.limits, through)

    def _load(self, trial: Trial) -> Loaded | None:
        try:
            loaded = trial.load()
        except TrialError as error:
            self._add([failed("load", error, hint="it was loaded in a process of its own, without network")])
            return None
        self.facts |= {"load_s": loaded.seconds, "isolation": {"network": loaded.network, "files": loaded.files}}
        if trial.opening is not None and trial.opening.facts:
            self.facts["through"] = trial.opening.facts
        self._add([Finding("load", "pass", "it loads", measured=loaded.seconds)])
        return loaded

    def _used(self, trial: Trial, loaded: Loaded) -> Iterable[Finding]:
        """What it does once it is loaded; a misdeed ends the checks that need its process, not the report."""
        try:
            if trial.is_chain:
                yield from self._chain(trial)
                self._own_checks(Checking(self.version, self.registry, self.heldout))
            else:
                yield from self._model(trial, loaded)
        except TrialError as error:
            yield failed("predict", error)

    def _chain(self, trial: Trial) -> Iterable[Finding]:
        config = self.spec.questions
        if config is None or self.questions is None:
            return
        answered = chain_checks.ask_all(trial, self.questions.questions, config.groups)
        told = [each.answer for each in answered if each.answer is not None]
        self.facts["index"] = chain_checks.head_of(told, where=str(self.version.ref))
        yield from chain_checks.check_answers(answered, config)

    def _model(self, trial: Trial, loaded: Loaded) -> Iterable[Finding]:
        yield from model_checks.check_signature(trial, loaded, self.spec)
        judged = None
        if self.heldout is not None and self.spec.data is not None:
            yield model_checks.check_schema(trial, self.heldout)
            features, config = self.heldout.features, self.spec.data
            output = trial.predict(features, config.batch_rows)
            missing = model_checks.check_outputs(output, features.num_rows)
            yield missing
            yield model_checks.check_determinism(trial, features, config, output)
            if missing.verdict == "pass":
                judged = self._judged(output)
                yield from thresholds.check_metrics(judged, self.slices, self.spec) if judged else ()
            yield from self._latency(trial, features)
        self._own_checks(self._checking(trial, judged))

    def _judged(self, output: Output) -> Judged | None:
        """The output as predictions, with what the card plots of them; None, and a finding, where it is none."""
        assert self.heldout is not None
        assert self.spec.data is not None
        try:
            judged = judge(output, self.heldout, self.spec.data)
        except UserError as error:
            self._add([failed("predictions", error)])
            return None
        self.figures |= thresholds.figures(judged, self.slices, self.spec)
        return judged

    def _latency(self, trial: Trial, features: Any) -> Iterable[Finding]:
        limits = self.spec.latency
        if limits is None:
            return
        timings = trial.time(features, rows=limits.rows, batch_rows=limits.batch_rows, batches=limits.batches)
        self.facts["latency"] = model_checks.latency_figures(timings)
        yield from model_checks.check_latency(timings, limits)

    def _memory(self, trial: Trial) -> None:
        if trial.peak_bytes is None:
            return
        self.facts["peak_memory_bytes"] = trial.peak_bytes
        if self.spec.peak_memory_mb is not None:
            what = "memory of the whole process at its peak, in MB"
            limit = self.spec.peak_memory_mb
            self._add([model_checks.at_most("peak_memory_mb", trial.peak_bytes / 1e6, limit, what)])

    def _checking(self, trial: Trial, judged: Judged | None) -> Checking:
        rows = self.spec.data.batch_rows if self.spec.data is not None else 10_000
        return Checking(self.version, self.registry, self.heldout, judged, lambda table: trial.predict(table, rows))

    def _own_checks(self, checking: Checking) -> None:
        """The check of the kind's own part, then the user's; one that breaks is a failed check."""
        own = of_kind(self.version.kind)
        named = [(f"kind:{self.version.kind.value}", own)] if own is not None else []
        for name, check in [*named, *((f"own:{name}", find(name, CHECKS)) for name in self.spec.checks)]:
            try:
                found = check(checking)
                self._add([found] if isinstance(found, Finding) else list(found))
            except TrialError as error:
                self._add([failed(name, error)])
            except Exception as error:  # noqa: BLE001 - the boundary to a check that is not ours
                what = f"the check itself failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
                self._add([Finding(name, "fail", what)])
