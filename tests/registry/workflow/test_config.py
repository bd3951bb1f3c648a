"""What is wrong with a workflow's file is told with its place and what was meant, before anything runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue
from tests.support.workflows import task, write

from llmops.core.errors import ConfigError
from llmops.registry.workflow import load_job, targets
from llmops.registry.workflow.graph import ancestors, needs_of
from llmops.registry.workflow.references import references, substitute

FILE = """\
job: workflow
name: fraud
params:
  seed: 7
  model: {type: string, default: xgb, choices: [xgb, lr]}
  must: {type: integer}
tasks:
  - name: train
    run: a.b:train
    with: {seed: "${params.seed}"}
  - name: validate
    with:
      version: ${train.version}
  - name: approval_risk
    with: {version: "${train.version}", group: risk}
  - name: deploy
    needs: [approval_risk, validate]
"""


@pytest.mark.parametrize(
    ("old", "new", "told", "place", "hint"),
    [
        ("needs: [app", "neds: [app", "unknown key `tasks.3.neds`", "17:5", "did you mean `needs`?"),
        ("with: {seed", "wiht: {seed", "unknown key `tasks.0.wiht`", "10:5", "did you mean `with`?"),
        ("${params.seed}", "${params.sed}", "`params` has no `sed`", "10:12", "did you mean `seed`?"),
        (
            "version: ${train.version}",
            "version: ${trian.version}",
            "there is no task `trian`",
            "13:7",
            "did you mean `train`?",
        ),
        (
            "version: ${train.version}",
            "version: ${deploy.x}",
            "`deploy` has not run when `validate` starts",
            "13:7",
            "add it to `needs`",
        ),
        ("version: ${train.version}", "version: ${train version}", "is not a reference", "13:7", "write ${task.key}"),
        (
            "version: ${train.version}",
            "version: ${secrets.x}",
            "there is no task `secrets`",
            "13:7",
            "by reference, env:NAME",
        ),
        (
            "risk, validate]",
            "risk, valdate]",
            "needs `valdate`, which is none of the tasks",
            "17:28",
            "did you mean `validate`?",
        ),
        ("risk, validate]", "risk, deploy]", "the task `deploy` needs itself", "17:28", ""),
        ("name: deploy", "name: train", "two tasks are called `train`", "16:5", ""),
        ("name: deploy", "name: params", "`params` is a word of its own", "16:5", "otherwise"),
        ("name: deploy", "name: depoly", "`depoly` is no built-in task", "16:5", "did you mean `deploy`?"),
        ("run: a.b:train", "run: a.b", "no installed task is called `a.b`", "9:5", "package.module:function"),
        ("name: train", "name: Train", "string should match pattern", "8:5", ""),
        ("default: xgb", "default: x", "the default is not one of xgb, lr", "5:3", ""),
        ("seed: 7", "seed: 2020-01-01", "params.seed", "4:3", ""),
        (
            "    run: a.b:train",
            "    run: a.b:train\n    needs: [deploy]",
            "wait for each other: train -> deploy ->",
            "10:5",
            "",
        ),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, old: str, new: str, told: str, place: str, hint: str) -> None:
    file = tmp_path / "w.yaml"
    assert old in FILE
    file.write_text(FILE.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        load_job(file, environment={})
    assert told in caught.value.what
    assert caught.value.where == f"{file}:{place}"
    assert hint in (caught.value.hint or "")


def test_the_file_of_the_mistakes_is_right(tmp_path: Path) -> None:
    file = tmp_path / "w.yaml"
    file.write_text(FILE)
    file.write_text(FILE.replace("  seed: 7", '  seed: 7\n  day: ""'))
    job = load_job(file, ("params.day=2026-01-05",), environment={})
    assert job.given == {"day": "2026-01-05"}
    file.write_text(FILE)
    job = load_job(file, ("params.must=3", "env=staging"), environment={})
    assert job.params() == {"seed": 7, "model": "xgb", "must": 3}
    assert job.config.env == "staging"
    assert needs_of(job.config.tasks)["validate"] == ("train",)
    assert ancestors(needs_of(job.config.tasks), "deploy") == {"train", "validate", "approval_risk"}


@pytest.mark.parametrize(
    ("overrides", "environment", "told", "where"),
    [
        ((), {}, "the parameter `must` (integer) has no value", "w.yaml"),
        (("params.must=x",), {}, "the parameter `must` is of type string, not integer", "--set params.must"),
        (("params.must=1.5",), {}, "is of type number, not integer", "--set params.must"),
        (("params.mus=1",), {}, "unknown parameter `mus`", "--set params.mus"),
        (("params.must=1", "params.model=nn"), {}, "is not one of xgb, lr", "--set params.model"),
        ((), {"LLMOPS_PARAMS__MUST": "x"}, "is of type string", "environment variable LLMOPS_PARAMS__MUST"),
        (("params.must=[",), {}, "the value cannot be read", "--set params.must"),
    ],
)
def test_a_wrong_parameter_is_told_with_its_origin(
    tmp_path: Path, overrides: tuple[str, ...], environment: dict[str, str], told: str, where: str
) -> None:
    file = tmp_path / "w.yaml"
    file.write_text(FILE)
    with pytest.raises(ConfigError) as caught:
        load_job(file, overrides, environment).params()
    assert told in caught.value.what
    assert str(caught.value.where).endswith(where)


def test_parameters_come_from_the_environment_too(tmp_path: Path) -> None:
    file = tmp_path / "w.yaml"
    file.write_text(FILE)
    environment = {
        "LLMOPS_PARAMS__MUST": "3",
        "LLMOPS_PARAMS__SEED": "1",
        "LLMOPS_PARAMS__OTHER": "x",
        "LLMOPS_ENV": "prod",
    }
    job = load_job(file, ("params.seed=2",), environment)
    assert job.params() == {"seed": 2, "model": "xgb", "must": 3}
    assert job.config.env == "prod"


def test_a_secret_in_the_file_is_refused(tmp_path: Path) -> None:
    for more in (
        {"tasks": [task("a", given={"key": "sk-abcdefghij0123456789abcd"})]},
        {"tasks": [task("a")], "notify": [{"kind": "slack", "url": "https://hooks.slack.com/services/T/B/x"}]},
        {"tasks": [task("a")], "trigger": {"keys": {"alerts": "hush"}}},
        {"tasks": [task("a")], "params": {"key": "sk-abcdefghij0123456789abcd"}},
    ):
        with pytest.raises(ConfigError, match=r"secret|reference") as caught:
            load_job(write(tmp_path, **more), environment={})  # type: ignore[arg-type]
        assert "sk-abc" not in str(caught.value.what)


def test_handlers_have_no_order_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run in order, without `needs`"):
        load_job(write(tmp_path, [task("a")], on_failure=[task("b", needs=["a"])]), environment={})
    with pytest.raises(ConfigError, match="there is no task `failure`"):
        load_job(write(tmp_path, [task("a", given={"x": "${failure.what}"})]), environment={})


WORDS = st.text("abcxyz_", min_size=1, max_size=4)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("ab ${}.", max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(WORDS, VALUES, min_size=1, max_size=3), st.data())
def test_a_whole_reference_keeps_what_it_names(values: dict[str, JsonValue], data: Any) -> None:
    key = data.draw(st.sampled_from(sorted(values)))
    assert substitute({"x": [f"${{t.{key}}}"]}, {"t": values}) == {"x": [values[key]]}


@given(VALUES)
def test_escaped_text_comes_out_as_it_was(value: JsonValue) -> None:
    def escaped(one: JsonValue) -> JsonValue:
        if isinstance(one, str):
            return one.replace("${", "$${")
        if isinstance(one, list):
            return [escaped(item) for item in one]
        return {key: escaped(item) for key, item in one.items()} if isinstance(one, dict) else one

    hidden = escaped(value)
    assert list(references(hidden)) == []
    assert substitute(hidden, {}) == value


def test_a_module_is_found_without_importing_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In packages, in namespaces, and in the working folder, where a task's process looks first."""
    (tmp_path / "space" / "inner").mkdir(parents=True)
    (tmp_path / "space" / "inner" / "mine.py").write_text("raise RuntimeError('imported')")
    monkeypatch.chdir(tmp_path)
    for module in ("space.inner.mine", "json.decoder", "llmops.registry.workflow.context", "sys"):
        targets.require(f"{module}:x")
    for module in ("space.inner.other", "space.other.mine", "json.decoder.more", "nope"):
        with pytest.raises(ConfigError, match="there is no module"):
            targets.require(f"{module}:x")
    assert "space" not in sys.modules
