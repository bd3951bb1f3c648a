"""Fetches the page's vendored scripts again and checks them against their record; `--update` renews the record.

    python serving/vendor.py            # what is checked in is what the registry publishes
    python serving/vendor.py --update   # after changing a version in vendor.json

Needs `npm`, which only downloads the packages: nothing of them is run.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

VENDOR = Path(__file__).parent / "llmops" / "serving" / "web" / "vendor"
RECORD = VENDOR / "vendor.json"


def fetch(package: str, version: str, folder: Path) -> tarfile.TarFile:
    """The package's archive, as `npm pack` gives it."""
    packed = subprocess.run(  # noqa: S603 - names and versions of our own record
        ["npm", "pack", f"{package}@{version}", "--json", "--ignore-scripts"],  # noqa: S607
        cwd=folder, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return tarfile.open(folder / json.loads(packed.stdout)[0]["filename"])


def renew(entry: dict[str, Any]) -> list[str]:
    """Put the entry's files in place; tells which of them differ from the record."""
    with tempfile.TemporaryDirectory() as folder, fetch(entry["package"], entry["version"], Path(folder)) as archive:
        script = archive.extractfile(f"package/{entry['path']}")
        licence = archive.extractfile("package/LICENSE")
        if script is None or licence is None:
            return [f"{entry['package']}: no {entry['path']} or no LICENSE"]
        content = script.read()
        (VENDOR / entry["file"]).write_bytes(content)
        (VENDOR / entry["licence_file"]).write_bytes(licence.read())
    digest = sha256(content).hexdigest()
    if digest == entry["sha256"]:
        return []
    before, entry["sha256"] = entry["sha256"], digest
    return [f"{entry['file']}: {digest}, recorded was {before}"]


def main(arguments: list[str]) -> int:
    """0 where everything is as recorded, or was renewed by `--update`."""
    record = json.loads(RECORD.read_text())
    differences = [difference for entry in record for difference in renew(entry)]
    print("\n".join(differences) or f"{len(record)} scripts are as recorded")
    if "--update" in arguments:
        RECORD.write_text(json.dumps(record, indent=2) + "\n")
        return 0
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
