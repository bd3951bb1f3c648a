"""Loads the export of a folder as a server would, in a process of its own: ids on stdin, JSON on stdout."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from llmops.finetune.export.merge import load
from llmops.finetune.export.serve_verify import told
from llmops.finetune.quiet import quiet_transformers


def main() -> None:
    with quiet_transformers():
        import torch

        model = load(Path(sys.argv[1]), "auto")
        answer = told(model, torch.tensor(json.loads(sys.stdin.read())))
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
