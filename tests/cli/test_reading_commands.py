"""Commands that only read leave a folder as it is, and where there is nothing yet they say so, and what to run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from llmops.cli import main as entry
from llmops.core.keys import TOKEN_VARIABLE

CHANGING = {
    *("accounts add", "accounts disable", "accounts enable", "accounts groups", "accounts password"),
    *("accounts sign-out", "access grant", "access revoke", "approve", "data snapshot", "finetune export"),
    *("finetune loop", "finetune prove-resume", "finetune resume", "finetune run", "finetune search", "forget"),
    *("gateway compile", "gateway forgive", "gateway keys create", "gateway keys revoke", "gateway register"),
    *("gateway run", "ingest delete", "ingest move", "ingest refresh", "ingest restore", "init", "keys create"),
    *("keys revoke", "models compare", "models register", "models repair", "models validate", "promote", "rollback"),
    *("serve", "up", "workflow cancel", "workflow resume", "workflow run", "workflow schedule"),
}
"""Every other command only reads; a new one does until it is named here."""

PLANS = [
    "ingest refresh --verify",
    "ingest delete docs/a.md --reason wrong --plan",
    "ingest restore docs/a.md --plan",
    "ingest move --plan",
    "forget docs/a.md --plan",
    "forget --requester key:a --plan",
    "models register a.b none --plan",
    "promote a.b/1 --plan",
    "rollback a.b --plan",
    "models repair --plan",
]
"""What those that change something only tell, where that is asked for."""

GATEWAY = Path(__file__).parents[2] / "configs/gateway.yaml"


def leaves(group: click.Group, above: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command that is no group, by its words."""
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        if isinstance(found, click.Group):
            yield from leaves(found, f"{above}{name} ")
        else:
            yield above + name, found


def asked(words: str, command: click.Command) -> list[str]:
    """A reading command with whatever it must be told."""
    told = words.split()
    for parameter in command.params:
        if isinstance(parameter, click.Argument) and (parameter.required or words == "chat"):
            choices = parameter.type.choices if isinstance(parameter.type, click.Choice) else ["dev.docs.chat"]
            told.append(str(next(iter(choices))))
    return told


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


COMMANDS = dict(leaves(entry.cli))
READING = [asked(words, command) for words, command in COMMANDS.items() if words not in CHANGING]


def test_the_commands_that_change_something_are_known() -> None:
    assert CHANGING - COMMANDS.keys() == set()
    assert len(READING) > 20


@pytest.fixture(params=["an empty folder", "a new project", "a new project, with a key"])
def folder(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    if request.param != "an empty folder":
        assert entry.run(["init"]) == 0
        (tmp_path / "configs/gateway.yaml").write_bytes(GATEWAY.read_bytes())
        capsys.readouterr()
    if "key" in request.param:
        monkeypatch.setenv(TOKEN_VARIABLE, f"lk_{'0' * 16}_{'x' * 43}")
    return tmp_path


def test_reading_leaves_a_folder_as_it_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(folder)
    for words in [*READING, *(plan.split() for plan in PLANS)]:
        code = entry.run(words)
        told = capsys.readouterr()
        assert tree(folder) == before, words
        assert code in (0, 1), (words, told.err)
        assert told.out.strip() or told.err.strip(), words
        assert code == 0 or "hint:" in told.err or words[0] == "doctor", (words, told.err)
