"""What our engine costs over a bare PyTorch loop, what packing gains, and how long the quickstart takes.

    python benchmarks/finetune.py [--steps 60] [--only overhead packing quickstart] [--json FILE]

All sides of a comparison are in one process and take turns step by step, so that what else the machine does falls on
all of them; the ratio of a round's steps is what counts. Overhead: the same base, packed batches and optimizer by a
bare loop (with our attention within documents), our engine, and TRL's SFTTrainer as it comes. Ours does all it does in
a run: position, ledger, journal; no checkpoint is within the timing. Packing: real tokens a second of our engine over
the same documents, packed in rows of 512, and each in a row of its own, as many at once as hold the same number of real
tokens, padded to the longest of them. The documents are the questions and answers of LLMBar's sets where LLMOPS_DATA
has them, else words in numbers spread alike.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from llmops.core.state import StateConfig
from llmops.finetune.config import FinetuneConfig
from llmops.finetune.quiet import quiet_transformers

SKIPPED = 3
SHAPE = {
    "model_type": "llama", "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 1024,
}  # fmt: skip
WORDS = ("order", "paid", "ship", "green", "river", "stone", "paper", "light", "seven", "north", "quiet", "amber")


def documents() -> list[dict[str, Any]]:
    """Questions with their answers: real ones, or words whose number is spread like theirs (log-normal, sigma 1)."""
    source = Path(os.environ.get("LLMOPS_DATA", "")) / "judge_llmbar" / "pairs.jsonl"
    if os.environ.get("LLMOPS_DATA") and source.exists():
        pairs = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
        return [_chat(one["input"], one[key]) for one in pairs for key in ("output_1", "output_2")]
    chance = random.Random(0)

    def words() -> str:
        return " ".join(chance.choice(WORDS) for _ in range(min(400, max(3, round(chance.lognormvariate(3.9, 1.0))))))

    return [_chat(words(), words()) for _ in range(1800)]


def _chat(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def job(folder: Path, *, steps: int, packing: str = "bfd", tokens: int = 2048) -> FinetuneConfig:
    """A full fine-tuning of a model made from nothing, over rows of 512 tokens."""
    source = folder / "rows.jsonl"
    if not source.exists():
        source.write_text("".join(json.dumps(row) + "\n" for row in documents()))
    return FinetuneConfig.model_validate(
        {
            "name": "bench",
            "task": "pretrain",
            "model": {"config": SHAPE},
            "method": {"kind": "full"},
            "data": {"sources": [{"uri": str(source)}], "max_length": 512,
                     "on_overlong": "drop", "packing": packing, "heldout_share": 0},
            "train": {
                "global_tokens_per_step": tokens, "rows_per_device": tokens // 512, "lr": 1e-4,
                "schedule": "constant", "warmup_share": 0, "budget": {"steps": steps},
            },
            "checkpoint": {"every_steps": 10**6},
            "state": {"dir": str(folder / "state")},
        }
    )  # fmt: skip


def prepared(config: FinetuneConfig) -> Any:
    from llmops.core.identity import LOCAL
    from llmops.finetune.train import ready

    return ready(config, principal=LOCAL, listen=lambda event: None)


class Baton:
    """Lets one of several threads run at a time, a step each in turn, and times the steps."""

    def __init__(self, names: list[str]) -> None:
        self._names, self._now, self._changed = names, 0, threading.Condition()
        self._started: dict[str, float] = {}
        self.seconds: dict[str, list[float]] = {name: [] for name in names}

    def begin(self, name: str) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._names[self._now % len(self._names)] == name)
        self._started[name] = time.perf_counter()

    def end(self, name: str) -> None:
        """A step is done: note its time, let the next one run, and wait for one's turn."""
        self.seconds[name].append(time.perf_counter() - self._started[name])
        with self._changed:
            self._now += 1
            self._changed.notify_all()
        self.begin(name)

    def leave(self, name: str) -> None:
        with self._changed:
            place = self._names.index(name)
            self._now = place
            self._names.remove(name)
            self._changed.notify_all()


def ours(prepared: Any, folder: Path, done: Callable[[], None]) -> None:
    """Our engine with its journal."""
    _counted(prepared, folder, [], done)


def bare(prepared: Any, folder: Path, done: Callable[[], None]) -> None:
    """The least loop that does the same: batches, forward, backward, clip, update."""
    import torch

    from llmops.finetune.data.packing import collate
    from llmops.finetune.engines.attention import places
    from llmops.finetune.engines.loss import tensors
    from llmops.finetune.engines.parallel import adamw
    from llmops.finetune.engines.supervised import ready_model

    model = ready_model(prepared)
    optimizer = adamw(list(model.parameters()), prepared.config.train)
    feed = prepared.data.feed(prepared.config, prepared.plan.rows_per_step)
    for _ in range(prepared.plan.steps):
        batch = collate(feed.take().rows, 0, prepared.plan.width)
        found = model(
            input_ids=torch.from_numpy(batch.input_ids),
            position_ids=torch.from_numpy(batch.position_ids),
            labels=torch.from_numpy(batch.labels),
            use_cache=False,
            **places(tensors(batch, "cpu")),
        )
        found.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        found.loss.item()
        done()


def peer(prepared: Any, folder: Path, done: Callable[[], None]) -> None:
    """TRL's SFTTrainer on the same documents, packed by itself, with its defaults but for saving and the device."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from llmops.finetune.engines.supervised import ready_model

    rows = prepared.data.rows
    texts = Dataset.from_dict({"input_ids": [rows.arrays(place)[0].tolist() for place in range(len(rows))]})

    class Ends(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            done()

    plan = prepared.plan
    settings = SFTConfig(
        output_dir=str(folder / "sft"), max_steps=plan.steps, per_device_train_batch_size=plan.rows_per_rank,
        gradient_accumulation_steps=plan.accumulation, packing=True, packing_strategy="bfd", padding_free=False,
        max_length=plan.width, learning_rate=1e-4, lr_scheduler_type="constant", report_to="none",
        save_strategy="no", disable_tqdm=True, use_cpu=True, bf16=False, gradient_checkpointing=False,
        optim="adamw_torch_fused",
    )  # fmt: skip
    model = ready_model(prepared)
    model.set_attn_implementation("sdpa")  # its default
    trainer = SFTTrainer(
        model=model, args=settings, train_dataset=texts, processing_class=prepared.tokenizer,
        callbacks=[Ends()],
    )  # fmt: skip
    with contextlib.redirect_stdout(sys.stderr):
        trainer.train()


def overhead(folder: Path, steps: int) -> dict[str, Any]:
    """Ratios to the bare loop's step of the same round."""
    ways: dict[str, Callable[[Any, Path, Callable[[], None]], None]] = {"bare": bare, "ours": ours, "trl": peer}
    with quiet_transformers():
        import deepspeed  # noqa: F401 - TRL's imports are not to be timed
        import trl  # noqa: F401

        made = prepared(job(folder, steps=steps))
        taken = in_turns({name: lambda done, way=way: way(made, folder, done) for name, way in ways.items()})
    return {
        "bare_ms": statistics.median(taken["bare"]) * 1000,
        "ours": _interval([one / base for one, base in zip(taken["ours"], taken["bare"], strict=True)]),
        "trl": _interval([one / base for one, base in zip(taken["trl"], taken["bare"], strict=True)]),
    }


def in_turns(ways: dict[str, Callable[[Callable[[], None]], None]]) -> dict[str, list[float]]:
    """Seconds of each step of each way, in a thread each, one step at a time; the first few are left out."""
    baton = Baton(list(ways))
    problems: list[BaseException] = []

    def run(name: str) -> None:
        baton.begin(name)
        try:
            ways[name](lambda: baton.end(name))
        except BaseException as error:  # noqa: BLE001 - a thread's own boundary: raised again below
            problems.append(error)
        finally:
            baton.leave(name)

    threads = [threading.Thread(target=run, args=(name,)) for name in ways]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]
    return {name: found[SKIPPED:] for name, found in baton.seconds.items()}


def packing(folder: Path, steps: int) -> dict[str, Any]:
    """Real tokens a second, packed and padded; both learn from about as many real tokens in a step."""
    tokens: dict[str, list[int]] = {"bfd": [], "none": []}
    with quiet_transformers():
        packed = prepared(job(folder, steps=steps))
        total = packed.data.statistics.total
        at_once = max(1, round(2048 / (total.tokens / total.rows)))
        made = {"bfd": packed, "none": prepared(job(folder, steps=steps, packing="none", tokens=at_once * 512))}
        taken = in_turns({way: partial(_counted, one, folder, tokens[way]) for way, one in made.items()})
    steps_of = {way: list(zip(tokens[way][SKIPPED:], taken[way], strict=True)) for way in made}
    lengths = sorted(packed.data.rows.lengths.tolist())
    return {
        "packed": _rate(steps_of["bfd"]), "apart": _rate(steps_of["none"]),
        "ratio": _gain(steps_of["bfd"], steps_of["none"]), "documents": len(lengths), "at_once": at_once,
        "lengths": {share: lengths[int(share / 100 * (len(lengths) - 1))] for share in (10, 50, 90)},
    }  # fmt: skip


def _rate(steps: list[tuple[int, float]]) -> float:
    """Tokens over seconds of all steps together, as a run's: a batch with one long document costs what it costs."""
    return sum(tokens for tokens, _ in steps) / sum(seconds for _, seconds in steps)


def _gain(packed: list[tuple[int, float]], apart: list[tuple[int, float]]) -> dict[str, float]:
    """The ratio of both rates, with a 95% interval by bootstrap over rounds."""
    chance, rounds = random.Random(0), range(len(packed))
    drawn = []
    for _ in range(2000):
        some = chance.choices(rounds, k=len(rounds))
        drawn.append(_rate([packed[one] for one in some]) / _rate([apart[one] for one in some]))
    drawn.sort()
    return {"ratio": _rate(packed) / _rate(apart), "low": drawn[49], "high": drawn[1949], "rounds": len(rounds)}


def _counted(made: Any, folder: Path, tokens: list[int], done: Callable[[], None]) -> None:
    """Our engine; the real tokens of each step are noted."""
    from llmops.finetune import jobs
    from llmops.finetune.runs import open_run

    def listen(event: Any) -> None:
        if event.kind == "step":
            tokens.append(event.tokens)
            done()

    run = open_run(StateConfig(dir=folder / "runs"), name="bench", task="pretrain", identity=uuid.uuid4().hex)
    jobs.train(made, run, listen)
    shutil.rmtree(run.path)


def quickstart(folder: Path) -> dict[str, Any]:
    """`llmops finetune configs/finetune/quickstart.yaml` from nothing, as a command."""
    import subprocess

    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "llmops.cli.main", "finetune", "configs/finetune/quickstart.yaml", "--json",
         "--set", f"state.dir={folder / 'quickstart'}"],
        check=True, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    record = json.loads(done.stdout)
    result = json.loads((folder / "quickstart" / "finetune" / record["run_id"] / "result.json").read_text())
    (match,) = [one for one in result["evaluation"]["scores"] if one["metric"] == "exact_match"]
    return {
        "seconds": seconds,
        "before": statistics.mean(match["before"]),
        "after": statistics.mean(match["after"]),
        "examples": len(match["after"]),
        "version": record["version"],
    }


def _interval(ratios: list[float]) -> dict[str, float]:
    """Median, with a 95% interval by bootstrap over rounds."""
    chance = random.Random(0)
    drawn = sorted(statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(2000))
    return {"ratio": statistics.median(ratios), "low": drawn[49], "high": drawn[1949], "rounds": len(ratios)}


def table(found: dict[str, Any]) -> str:
    lines = ["| what | figure | bar |", "|---|---|---|"]
    if "overhead" in found:
        one = found["overhead"]
        for name, words, bar in (("ours", "our engine", "<= 1.03"), ("trl", "SFTTrainer (TRL), same run", "")):
            figure = f"{one[name]['ratio']:.3f} [{one[name]['low']:.3f}, {one[name]['high']:.3f}]"
            lines.append(f"| step time over a bare loop ({one['bare_ms']:.0f} ms): {words} | {figure} | {bar} |")
    if "packing" in found:
        one = found["packing"]
        ratio, lengths = one["ratio"], one["lengths"]
        spread = "/".join(str(length) for length in lengths.values())
        figure = f"{ratio['ratio']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}] x"
        what = f"packing, {one['documents']:,} chats of {spread} tokens (10th, 50th, 90th of 100)"
        lines.append(
            f"| {what}: real tokens a second, over {one['at_once']} at once padded to their longest "
            f"| {figure} ({one['packed']:,.0f} against {one['apart']:,.0f}) | >= 1.8 x |"
        )
    if "quickstart" in found:
        one = found["quickstart"]
        match = f"{one['before']:.0%} -> {one['after']:.0%} exact match of {one['examples']}"
        lines.append(f"| quickstart, from nothing to `{one['version']}` | {one['seconds']:.0f} s, {match} | < 180 s |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--only", nargs="*", default=["overhead", "packing", "quickstart"])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if "overhead" in given.only:
            found["overhead"] = overhead(folder, given.steps)
        if "packing" in given.only:
            found["packing"] = packing(folder, 2 * given.steps // 3)
        if "quickstart" in given.only:
            found["quickstart"] = quickstart(folder)
    print(table(found))
    if given.json:
        given.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
