"""Files for a launcher, and the command that hands them in. Knows no launcher."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from llmops.core.errors import NotFoundError, StorageError, UnavailableError
from llmops.core.files import write_atomic

_WAIT_S = 120
_UNCHANGED = re.compile(r"^(trainjob|rayjob)\S* unchanged$", re.MULTILINE)


@dataclass(frozen=True)
class Artefact:
    """What a launcher is given.

    Args:
        command: hands the files in, `{folder}` standing for where they lie; of several nodes' hands, None: a person
            runs `start` on each of them.
        start: what to say of how it begins.
        id_pattern: finds the id of the job in what the command prints.
        again: takes a job away that the cluster has already, where handing it in once more would change nothing.
    """

    files: dict[str, str]
    command: tuple[str, ...] | None
    start: str
    watch: str | None = None
    id_pattern: str | None = None
    again: str | None = None


@dataclass(frozen=True)
class Submitted:
    """What came of handing in: where the files lie, the cluster's id of the job, what to do next."""

    files: tuple[Path, ...]
    job_id: str | None
    said: str
    next: str

    def as_json(self) -> dict[str, Any]:
        return {"files": list(map(str, self.files)), "job_id": self.job_id, "said": self.said, "next": self.next}


def hand_in(artefact: Artefact, folder: Path) -> Submitted:
    """Write the files, run the command.

    Raises:
        NotFoundError, UnavailableError: as `launch.submit`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in artefact.files.items():
            write_atomic(folder / name, text.encode(), mode=0o755 if text.startswith("#!") else 0o644)
    except OSError as error:
        raise StorageError(
            f"the files cannot be written: {error.strerror}",
            where=str(folder),
            hint="launch.shared_dir has to be a folder that this machine may write to, too",
        ) from error
    files = tuple(folder / name for name in artefact.files)
    if artefact.command is None:
        return Submitted(files, None, "", artefact.start.format(folder=folder))
    again = artefact.again and f"where the cluster has this job already, and it is to start again: {artefact.again}"
    said = _run([part.format(folder=folder) for part in artefact.command], folder, again)
    if artefact.again is not None and _UNCHANGED.search(said):
        raise UnavailableError(
            f"the cluster has this job already: {said.splitlines()[-1]}",
            hint=again,
            code="job_there_already",
        )
    found = re.search(artefact.id_pattern, said) if artefact.id_pattern else None
    job_id = found[1] if found else None
    return Submitted(files, job_id, said, (artefact.watch or artefact.start).format(id=job_id or "", folder=folder))


def as_yaml(head: str, *documents: dict[str, Any]) -> str:
    """Documents of one file; texts of several lines stay readable."""
    return head + "---\n".join(yaml.dump(one, Dumper=_Dumper, sort_keys=False, width=120) for one in documents)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def _run(command: list[str], folder: Path, again: str | None) -> str:
    program = shutil.which(command[0])
    if program is None:
        raise NotFoundError(
            f"`{command[0]}` is not on this machine",
            where=str(folder),
            hint=f"the files are written; where it is, run: {shlex.join(command)}",
        )
    try:
        done = subprocess.run(  # noqa: S603 - the launcher's own command, without a shell
            [program, *command[1:]], capture_output=True, text=True, timeout=_WAIT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(
            f"`{command[0]}` did not answer in {_WAIT_S} s", hint=f"the files are written: {shlex.join(command)}"
        ) from error
    if done.returncode != 0:
        last = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise UnavailableError(f"`{command[0]}` refused: {' '.join(last)}", where=str(folder), hint=again)
    return done.stdout.strip()
