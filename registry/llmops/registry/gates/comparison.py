"""Comparison: challenger and champion on the same held-out rows or questions, each in a process of its own.

Knows whom to ask and in which order; `paired` says what follows. Where an asset has no champion yet, a heuristic stands
in for it. What the challenger does wrong fails it; what the champion does wrong leaves the question open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from llmops.core.errors import ConflictError, DeniedError, IntegrityError, LlmopsError, UserError
from llmops.core.names import Ref
from llmops.registry.assets import Registry
from llmops.registry.bootstrap import CHAMPION
from llmops.registry.evidence import Data
from llmops.registry.gates import baseline, paired
from llmops.registry.gates.chain_checks import Answered, ask_all, head_of
from llmops.registry.gates.heldout import HeldOut, Mask, read_heldout
from llmops.registry.gates.judged import Judged, judge
from llmops.registry.gates.metrics import Metric, metric
from llmops.registry.gates.model_checks import failed
from llmops.registry.gates.plugins import OPENERS, of_kind
from llmops.registry.gates.questions import Question, QuestionSet, applies, costs, read_questions, scorer
from llmops.registry.gates.report import Finding, Report
from llmops.registry.gates.spec import ComparisonSpec
from llmops.registry.gates.thresholds import figure
from llmops.registry.gates.trial import Trial, TrialError
from llmops.registry.records import Kind, Version
from llmops.registry.stats.conclusion import Conclusion as Effect


def compare(
    challenger: Version | Ref | str, champion: Version | Ref | str | None, spec: ComparisonSpec, registry: Registry
) -> Report:
    """Say whether the challenger is better; nothing is moved, and nothing filed.

    Args:
        champion: None: whoever else is champion of the challenger's name now; where nobody is, `spec.baseline`.

    Raises:
        NotFoundError: no such version, file, table, metric or scorer.
        UserError: the two cannot be compared so.
        ConflictError: an index was refreshed meanwhile.
        DeniedError: the registry's principal may not load one of them.
    """
    new = challenger if isinstance(challenger, Version) else registry.resolve(challenger)
    old = _champion(new, champion, registry)
    _require_comparable(new, old, spec)
    course = _Rows(new, old, spec, registry) if spec.data is not None else _Questions(new, old, spec, registry)
    return course.run()


def _champion(new: Version, champion: Version | Ref | str | None, registry: Registry) -> Version | None:
    if champion is not None:
        return champion if isinstance(champion, Version) else registry.resolve(champion)
    alias = registry.alias(new.name, CHAMPION)
    if alias is None or alias.version == new.version:
        return None
    return registry.resolve(Ref(new.name, version=alias.version))


def _require_comparable(new: Version, old: Version | None, spec: ComparisonSpec) -> None:
    if spec.data is not None and new.kind is not Kind.MODEL:
        raise UserError(
            f"`{new.ref}` is {new.kind.noun}: it predicts no rows", hint="give `questions` instead of `data`"
        )
    if spec.questions is not None and not new.kind.answers and of_kind(new.kind, OPENERS) is None:
        raise UserError(f"`{new.ref}` is {new.kind.noun}: it answers no questions", hint="give `data`")
    if old is None:
        if spec.baseline is None:
            raise UserError(
                f"`{new.name}` has no champion to compare with",
                hint="say which heuristic it has to beat: baseline: {kind: majority}",
            )
        return
    if old.kind is not new.kind:
        raise UserError(f"`{new.ref}` is {new.kind.noun}, `{old.ref}` is {old.kind.noun}: they cannot be compared")
    if (old.name, old.version) == (new.name, new.version):
        raise UserError(f"`{new.ref}` would be compared with itself")


@dataclass
class _Course:
    """One comparison, and what it has come to so far."""

    new: Version
    old: Version | None
    spec: ComparisonSpec
    registry: Registry
    findings: list[Finding] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    effect: Effect | None = None

    def report(self, started: datetime, data: Data) -> Report:
        heuristic = None
        if self.old is None and self.spec.baseline is not None:
            heuristic = self.spec.baseline.model_dump(mode="json", exclude_none=True)
        return Report(
            gate="comparison",
            version=self.new,
            spec=self.spec,
            findings=tuple(self.findings),
            started=started,
            baseline=self.old,
            heuristic=heuristic,
            effect=self.effect,
            data=data,
            figures=self.figures,
            facts=self.facts,
        )

    def begin(self, stack: ExitStack, version: Version | None) -> Trial | None:
        """Start a version's process; both sides' start at once, for importing takes as long as predicting."""
        if version is None:
            return None
        try:
            trial = self.trial(version)
            if trial.opening is not None and trial.opening.facts:
                self.facts.setdefault("through", {})[str(version.ref)] = trial.opening.facts
            return stack.enter_context(trial)
        except DeniedError:
            raise
        except (IntegrityError, UserError) as error:
            self.blamed(version, error)
            return None

    def trial(self, version: Version) -> Trial:
        """Its process, before it is started.

        Raises:
            IntegrityError, NotFoundError, UserError: it cannot be tried.
        """
        return Trial.of(version, self.registry, self.spec.limits)

    def decide(
        self, main: paired.Measured, further: Sequence[tuple[paired.Measured, float]], slices: Mapping[str, Mask]
    ) -> None:
        self.effect, found = paired.decide(main, further, slices, self.spec)
        self.findings += found

    def blamed(self, version: Version, error: LlmopsError) -> None:
        """A challenger that fails is refused; a champion that fails leaves nothing to compare with."""
        if version is self.new:
            self.findings.append(failed("challenger", error))
        else:
            self.findings.append(
                Finding("champion", "inconclusive", f"the champion fails: {error.what}", hint=error.hint)
            )


class _Rows(_Course):
    """Models, on held-out rows."""

    def run(self) -> Report:
        assert self.spec.data is not None
        started, main = datetime.now(UTC), metric(self.spec.metric)
        further = [(metric(guard.metric), guard.margin) for guard in self.spec.guardrails]
        heldout = read_heldout(self.spec.data, self.registry.state)
        slices = heldout.slices(self.spec.slices)
        with ExitStack() as stack:
            trials = [self.begin(stack, version) for version in (self.old, self.new)]
            old = self._predicted(self.old, trials[0], heldout)
            new = self._predicted(self.new, trials[1], heldout)
        if old is not None and new is not None:
            self._decide(main, further, (old, new), slices)
        return self.report(started, heldout.data)

    def _predicted(self, version: Version | None, trial: Trial | None, heldout: HeldOut) -> Judged | None:
        config, heuristic = self.spec.data, self.spec.baseline
        assert config is not None
        if version is None:
            assert heuristic is not None
            return baseline.predicted(heuristic, heldout, config)
        if trial is None:
            return None
        try:
            trial.load()
            output = trial.predict(heldout.features, config.batch_rows)
            missing = int(output.missing().sum())
            if missing:
                raise TrialError(f"{missing:,} of {output.rows:,} predictions are missing, NaN or infinite")
            return judge(output, heldout, config)
        except (TrialError, UserError) as error:
            self.blamed(version, error)
            return None

    def _decide(
        self,
        main: Metric,
        further: Sequence[tuple[Metric, float]],
        sides: tuple[Judged, Judged],
        slices: Mapping[str, Mask],
    ) -> None:
        old, new = sides
        for measure in (main, *(one for one, _ in further)):
            for version, side in ((self.old, old), (self.new, new)):
                if not measure.fits(side):
                    what = "the heuristic" if version is None else f"`{version.ref}`"
                    raise UserError(f"{what} does not give what `{measure.name}` needs", where="metric")
        self.decide(
            paired.measured_rows(main, old, new),
            [(paired.measured_rows(one, old, new), margin) for one, margin in further],
            slices,
        )
        self.figures["metrics"] = [
            {"side": who, **figure(measure, side if rows is None else side.only(rows), name, self.spec)}
            for measure in (main, *(one for one, _ in further))
            for name, rows in [(None, None), *slices.items()]
            for who, side in (("champion", old), ("challenger", new))
        ]


class _Questions(_Course):
    """Whatever answers, by itself or through something else, on a set of questions."""

    def trial(self, version: Version) -> Trial:
        assert self.spec.questions is not None
        return Trial.asked(version, self.registry, self.spec.limits, self.spec.questions.through)

    def run(self) -> Report:
        assert self.spec.questions is not None
        started = datetime.now(UTC)
        asked = read_questions(Path(self.spec.questions.file))
        scorer(self.spec.metric)
        with ExitStack() as stack:
            trials = [self.begin(stack, version) for version in (self.old, self.new)]
            old = self._answered(self.old, trials[0], asked)
            new = self._answered(self.new, trials[1], asked)
        if old is not None and new is not None:
            self._require_same_index(old, new)
            self._decide(asked, old, new)
        return self.report(started, asked.data)

    def _answered(self, version: Version | None, trial: Trial | None, asked: QuestionSet) -> list[Answered] | None:
        heuristic, config = self.spec.baseline, self.spec.questions
        assert config is not None
        if version is None:
            assert heuristic is not None
            return [Answered(each, baseline.answered(heuristic, each)) for each in asked.questions]
        if trial is None:
            return None
        try:
            trial.load()
            answered = ask_all(trial, asked.questions, config.groups)
        except TrialError as error:
            self.blamed(version, error)
            return None
        broken = [each for each in answered if each.failure is not None]
        if broken:
            assert broken[0].failure is not None
            self.blamed(version, broken[0].failure)
            return None
        return answered

    def _require_same_index(self, old: Sequence[Answered], new: Sequence[Answered]) -> None:
        """Two chains of one generation must have answered from one state of it."""
        heads = {}
        for who, version, answered in (("champion", self.old, old), ("challenger", self.new, new)):
            if version is not None:
                told = [each.answer for each in answered if each.answer is not None]
                heads[who] = head_of(told, where=str(version.ref))
        self.facts["index"] = heads
        first, second = heads.get("champion"), heads.get("challenger")
        if first and second and first["generation"] == second["generation"] and first["seq"] != second["seq"]:
            raise ConflictError(
                f"the index moved from {first['seq']} to {second['seq']} between the two chains",
                where=str(self.new.ref),
                hint="compare again while no refresh runs",
            )

    def _decide(self, asked: QuestionSet, old: Sequence[Answered], new: Sequence[Answered]) -> None:
        rows = np.asarray([applies(self.spec.metric, question) for question in asked.questions])
        if not rows.any():
            raise UserError(f"no question has what `{self.spec.metric}` needs", where=asked.data.table)
        table = HeldOut(asked.table(), asked.data, "")
        masks = {name: mask[rows] for name, mask in table.slices(self.spec.slices).items()}
        slices = {name: mask for name, mask in masks.items() if mask.any()}  # the others have nothing to be scored
        further = [
            (self._measured(guard.metric, old, new), guard.margin)
            for guard in self.spec.guardrails
            if self.old is not None or guard.metric not in costs  # a heuristic takes neither time nor money
        ]
        main = self._measured(self.spec.metric, old, new)
        self.decide(main, further, slices)
        self.figures["answers"] = _answers(asked.questions, old, new)

    def _measured(self, name: str, old: Sequence[Answered], new: Sequence[Answered]) -> paired.Measured:
        score = scorer(name)
        sides = (
            np.asarray(
                [
                    float(score(each.question, each.answer))
                    for each in side
                    if applies(name, each.question) and each.answer
                ]
            )
            for side in (old, new)
        )
        return paired.measured_scores(name, *sides, bad="high" if name in costs else "low")


def _answers(questions: Sequence[Question], old: Sequence[Answered], new: Sequence[Answered]) -> list[dict[str, Any]]:
    """Both answers to every question, for people to read side by side."""
    return [
        {
            "id": question.id,
            "question": question.question,
            "champion": before.answer.text[:500] if before.answer else None,
            "challenger": after.answer.text[:500] if after.answer else None,
        }
        for question, before, after in zip(questions, old, new, strict=True)
    ]
