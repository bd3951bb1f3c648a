"""The order of tasks: who needs whom, whether every name and reference leads somewhere, and what may run now.

Finds all problems of a configuration at once and points each at its place in the file. Knows names, not what tasks do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from llmops.core.errors import did_you_mean
from llmops.core.positions import Path_
from llmops.registry.workflow import targets
from llmops.registry.workflow.params import json_problem
from llmops.registry.workflow.references import Reference, references

if TYPE_CHECKING:
    from llmops.registry.workflow.config import TaskConfig, WorkflowConfig

RESERVED = ("params", "env", "run", "failure")
RUN_KEYS = ("id", "workflow")
FAILURE_KEYS = ("task", "what", "where", "hint", "code", "log")


@dataclass(frozen=True)
class Problem:
    """Something wrong, and where in the configuration."""

    at: Path_
    what: str
    hint: str | None = None


def check(config: WorkflowConfig) -> None:
    """Refuse a configuration whose tasks cannot run as they stand.

    Raises:
        ValidationError: every problem, each with its place.
    """
    found = list(_name_problems(config))
    found += _need_problems(config) if not found else []
    if not found and (circle := _circle(needs_of(config.tasks))):
        at = _index(config.tasks, circle[0])
        found = [Problem(("tasks", at, "needs"), f"these tasks wait for each other: {' -> '.join(circle)}")]
    found += _target_problems(config)
    if not found:
        found = list(_reference_problems(config))
    if found:
        raise ValidationError.from_exception_data("WorkflowConfig", [_detail(problem) for problem in found])


def needs_of(tasks: Sequence[TaskConfig]) -> dict[str, tuple[str, ...]]:
    """Whom each task needs directly; where it does not say, the task before it."""
    before: tuple[str, ...] = ()
    needs = {}
    for task in tasks:
        needs[task.name] = before if task.needs is None else task.needs
        before = (task.name,)
    return needs


def ancestors(needs: dict[str, tuple[str, ...]], name: str) -> set[str]:
    """Everything that has ended before `name` starts."""
    found: set[str] = set()
    waiting = list(needs[name])
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += needs[one]
    return found


def _name_problems(config: WorkflowConfig) -> Iterator[Problem]:
    seen: set[str] = set()
    for at, task in _all(config):
        if task.name in RESERVED:
            yield Problem((*at, "name"), f"`{task.name}` is a word of its own in references", "call the task otherwise")
        if task.name in seen:
            yield Problem((*at, "name"), f"two tasks are called `{task.name}`")
        seen.add(task.name)


def _need_problems(config: WorkflowConfig) -> Iterator[Problem]:
    names = {task.name for task in config.tasks}
    for index, task in enumerate(config.tasks):
        for position, need in enumerate(task.needs or ()):
            at = ("tasks", index, "needs", position)
            if need == task.name:
                yield Problem(at, f"the task `{need}` needs itself")
            elif need not in names:
                yield Problem(
                    at, f"the task `{task.name}` needs `{need}`, which is none of the tasks", did_you_mean(need, names)
                )
    for index, task in enumerate(config.on_failure):
        for key in ("needs", "when"):
            if getattr(task, key) is not None:
                yield Problem(("on_failure", index, key), f"tasks of `on_failure` run in order, without `{key}`")


def _target_problems(config: WorkflowConfig) -> Iterator[Problem]:
    for at, task in _all(config):
        problem = targets.problem(task.name, task.run)
        if problem:
            yield Problem((*at, "run" if task.run else "name"), *problem)


def _reference_problems(config: WorkflowConfig) -> Iterator[Problem]:
    needs = needs_of(config.tasks)
    for at, task in _all(config):
        handler = at[0] == "on_failure"
        before = {one.name for one in config.tasks} if handler else ancestors(needs, task.name)
        for reference in references(task.settings, (*at, "with")):
            yield from _look(config, task, reference, before, handler)
        if secret := json_problem(task.settings):
            yield Problem((*at, "with"), f"`with` {secret}")
        if task.when is not None:
            found = list(references(task.when, (*at, "when")))
            if len(found) != 1 or found[0].text != task.when.strip():
                yield Problem((*at, "when"), "`when` is one reference", "write `when: ${check.violated}`")
            for reference in found:
                yield from _look(config, task, reference, before, handler)


def _look(
    config: WorkflowConfig, task: TaskConfig, reference: Reference, before: set[str], handler: bool
) -> Iterator[Problem]:
    """What is wrong with one reference of one task."""
    if reference.path is None:
        yield Problem(
            reference.at, f"`{reference.text}` is not a reference", "write ${task.key}, ${params.name} or ${env}"
        )
        return
    root, rest = reference.path[0], reference.path[1:]
    known: dict[str, Sequence[str] | None] = {"params": list(config.params), "run": RUN_KEYS, "env": ()}
    if handler:
        known["failure"] = FAILURE_KEYS
    if root in known:
        keys = known[root] or ()
        if (root == "env") == bool(rest) or (root != "env" and rest[0] not in keys):
            what = (
                f"`{reference.text}`: `{root}` has no `{rest[0] if rest else ''}`"
                if rest
                else f"`{reference.text}` names nothing"
            )
            near = did_you_mean(rest[0], keys) if rest else None
            yield Problem(reference.at, what, near or (f"it has {', '.join(keys)}" if keys else None))
        return
    names = {one.name for one in config.tasks}
    if root not in names:
        hint = "give secrets by reference, env:NAME, without ${}" if root in ("secret", "secrets") else None
        yield Problem(
            reference.at, f"`{reference.text}`: there is no task `{root}`", hint or did_you_mean(root, {*names, *known})
        )
    elif root not in before:
        yield Problem(
            reference.at,
            f"`{reference.text}`: `{root}` has not run when `{task.name}` starts",
            f"add it to `needs` of `{task.name}`",
        )


def _circle(needs: dict[str, tuple[str, ...]]) -> list[str]:
    """Tasks that wait for each other, the first named again at the end; empty where there are none."""
    done: set[str] = set()
    for start, first in needs.items():
        path = [start]
        stack = [(start, iter(first))] if start not in done else []
        while stack:
            name, rest = stack[-1]
            following = next(rest, None)
            if following is None:
                done.add(name)
                stack.pop()
                path.pop()
            elif following in path:
                return [*path[path.index(following) :], following]
            elif following not in done:
                stack.append((following, iter(needs[following])))
                path.append(following)
    return []


def _all(config: WorkflowConfig) -> Iterator[tuple[tuple[str, int], TaskConfig]]:
    for section in ("tasks", "on_failure"):
        for index, task in enumerate(getattr(config, section)):
            yield (section, index), task


def _index(tasks: Sequence[TaskConfig], name: str) -> int:
    return next(index for index, task in enumerate(tasks) if task.name == name)


def _detail(problem: Problem) -> InitErrorDetails:
    # The text goes in as context: the error's template would read braces in it as places to fill.
    context = {"what": problem.what, "hint": problem.hint or ""}
    return InitErrorDetails(type=PydanticCustomError("workflow", "{what}", context), loc=problem.at, input=None)
