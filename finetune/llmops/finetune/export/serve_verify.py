"""Whether what was written says what was trained: a fresh process loads the files and says the same tokens.

The trained model answers probes here, greedily; the process of `serving_process` is shown the same ids. Merged weights
have to say every token alike; of weights in fewer bits it is measured how often the next token stays the same, and how
far its probabilities move.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from llmops.core.errors import UnavailableError
from llmops.finetune.preflight import Check
from llmops.finetune.quiet import quiet_transformers

NEW_TOKENS = 16
AGREEMENT = 0.9
"""Least share of next tokens that weights in fewer bits have to say alike; less is a warning."""
_WAIT_S = 600


def served_alike(model: Path, base: Path | None, exported: Path, *, exact: bool) -> Check:
    """Compare a trained model with an export of it.

    Args:
        base: of an adapter.
        exact: whether one different token is a failure.

    Raises:
        UnavailableError: the process did not load the export; its last words are in the error.
    """
    wanted = _trained(model, base)
    found = _asked(exported, wanted["ids"])
    pairs = list(zip(_flat(wanted["next"]), _flat(found["next"]), strict=True))
    share = sum(one == other for one, other in pairs) / len(pairs)
    drift = _drift(wanted["logprobs"], found["logprobs"])
    figures = {"tokens": len(pairs), "alike": share, "kl_nats": drift}
    what = f"a fresh process says {share:.1%} of {len(pairs)} tokens alike, {drift:.1e} nats apart"
    if exact:
        good = share == 1.0
        return Check(
            "export.served", "pass" if good else "fail", what, "" if good else "do not serve this export", figures
        )
    hint = "" if share >= AGREEMENT else "take int8, or serve the merged weights"
    return Check("export.served", "pass" if share >= AGREEMENT else "warn", what, hint, figures)


def told(model: Any, ids: Any) -> dict[str, Any]:
    """The likeliest next token after each id, and how likely each token of a few thousand is after the last."""
    import torch

    with torch.inference_mode():
        scores = torch.log_softmax(model(input_ids=ids).logits.float(), dim=-1)
    return {"next": scores.argmax(dim=-1).tolist(), "logprobs": scores[:, -1].tolist()}


def _trained(model: Path, base: Path | None) -> dict[str, Any]:
    with quiet_transformers():
        import torch

        from llmops.finetune.export.merge import load, load_type, probe_ids

        loaded = load(base or model, load_type(base or model))
        if base is not None:
            from peft import PeftModel

            loaded = PeftModel.from_pretrained(loaded, str(model)).eval()
        prompts = probe_ids(loaded.config.vocab_size)
        with torch.inference_mode():
            ids = loaded.generate(
                input_ids=prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=NEW_TOKENS,
                min_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0,
            )  # fmt: skip
        return {"ids": ids.tolist(), **told(loaded, ids)}


def _asked(folder: Path, ids: list[list[int]]) -> dict[str, Any]:
    command = [sys.executable, "-m", "llmops.finetune.export.serving_process", str(folder)]
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and module
            command, input=json.dumps(ids), capture_output=True, text=True, timeout=_WAIT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"the export was not loaded within {_WAIT_S} s", where=str(folder)) from error
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"code {done.returncode}"]
        raise UnavailableError(f"the export cannot be loaded: {last[0]}", where=str(folder), code="not_loadable")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _flat(rows: list[list[int]]) -> list[int]:
    return [one for row in rows for one in row]


def _drift(wanted: list[list[float]], found: list[list[float]]) -> float:
    """Mean Kullback-Leibler divergence of the next token's probabilities, in nats."""
    from math import exp

    each = [
        sum(exp(one) * (one - other) for one, other in zip(row, other_row, strict=True))
        for row, other_row in zip(wanted, found, strict=True)
    ]
    return max(0.0, sum(each) / len(each))
