"""The report's figures against sums done by hand; its plots are a document that opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import orjson
import pytest

from llmops.core.errors import GateFailedError
from llmops.core.state import StateConfig
from llmops.finetune.config import FinetuneConfig
from llmops.finetune.report import page
from llmops.finetune.report.cost import forecast
from llmops.finetune.report.flops import measured_peak, peak, per_token
from llmops.finetune.runs import RunFolder, open_run

LLAMA = {
    "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "intermediate_size": 14336, "vocab_size": 128256, "tie_word_embeddings": False,
}  # fmt: skip
MULTIPLIED = 8_030_261_248 - 128256 * 4096
"""Weights of Llama 3 8B, without its table of embeddings."""


def job(kind: str = "lora", **sections: Any) -> FinetuneConfig:
    values = {"model": {"path": "m"}, "data": {"sources": [{"uri": "a"}]}, "method": {"kind": kind}, **sections}
    return FinetuneConfig.model_validate(values)


def test_flops_of_a_model_that_everybody_knows() -> None:
    attention = 32 * 4096 * 4096
    full = per_token(LLAMA, job("full"), attended=4096)
    assert (full.label, full.model, full.hardware) == ("6N", 6 * MULTIPLIED + 12 * attention, full.model)
    again = per_token(LLAMA, job("full"), attended=4096, recomputes=True)
    assert again.hardware - again.model == 2 * MULTIPLIED + 4 * attention
    lora = per_token(LLAMA, job("lora"), attended=0)
    adapter = 16 * 32 * (2 * (4096 + 4096) + 2 * (4096 + 1024) + 3 * (4096 + 14336))
    assert (lora.label, lora.model) == ("4N", 4 * MULTIPLIED + 2 * adapter)


def test_peaks_are_found_by_the_devices_own_name() -> None:
    assert peak("NVIDIA H100 80GB HBM3") == 989.4e12
    assert peak("NVIDIA H100 PCIe") == 756e12
    assert peak("NVIDIA A10G") == 70e12
    assert peak("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak("NVIDIA GB200") == 2500e12
    assert peak("NVIDIA B200") == 2250e12
    assert peak("NVIDIA L40S") == 362e12
    for unknown in ("Abacus 3000", "NVIDIA RTX A1000", "NVIDIA L400", "AMD Instinct MI300A"):
        assert peak(unknown) is None  # and not the one whose name begins alike
    assert measured_peak(size=128, within_s=0.01) > 0


def test_a_training_beyond_its_limits_is_refused_before_it_starts() -> None:
    priced = job(launch={"gpus": 8, "price_per_gpu_h": 2.0}, limits={"usd": 10, "hours": 2})
    will = forecast(priced, tokens=10**9, supervised=10**8, flops_per_token=3.5e10, peak=1e15, mfu=0.35)
    assert will.hours == pytest.approx(1e9 * 3.5e10 / (0.35e15 * 8) / 3600)
    assert will.usd == pytest.approx(will.hours * 8 * 2)
    assert will.usd_per_million_supervised == pytest.approx((will.usd or 0) / 100)
    with pytest.raises(GateFailedError, match=r"limits.hours is 2"):
        will.require(priced)
    with pytest.raises(GateFailedError, match=r"cost \$55.56, limits.usd is 10"):
        will.require(job(launch=priced.launch.model_dump(), limits={"usd": 10}))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """1,000 steps of 2 s, of which the second attempt did 50 again, in 4,000 s."""
    folder = open_run(StateConfig(dir=tmp_path), name="a", task="sft", identity="0" * 64)
    record = folder.record().as_json()
    record |= {"started_at": "2026-01-01T00:00:00+00:00", "updated_at": "2026-01-01T01:06:40+00:00"}
    folder.write("run.json", record | {"attempts": 2, "replayed_steps": 50, "trained_s": 2100.0})
    lines = [
        {"step": step, "loss": 4 / step**0.5, "lr": 1e-4, "tokens": 8000, "supervised_tokens": 2000, "seconds": 2.0,
         "peak_memory_bytes": 3 << 30, "attempt": 1}
        for step in range(1, 1001)
    ]  # fmt: skip
    folder.metrics.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    return folder


def test_the_report_of_a_run(run: RunFolder) -> None:
    priced = job(launch={"gpus": 1, "price_per_gpu_h": 3.6})
    found = page.write(run, priced, LLAMA, attended=512, on=page.Device("NVIDIA H100 80GB HBM3"))
    assert found["tokens_s"] == 4000
    assert found["supervised_tokens_s"] == 1000
    assert found["mfu"] == pytest.approx(4000 * per_token(LLAMA, priced, attended=512).model / 989.4e12)
    assert found["goodput"]["goodput"] == 0.5
    assert found["goodput"]["replayed_s"] == 100
    assert found["goodput"]["goodput_of_steps"] == pytest.approx(2000 / 2100)
    assert found["cost"]["usd"] == pytest.approx(4000 / 3600 * 3.6)
    assert found["cost"]["usd_per_million_supervised"] == pytest.approx(2.0)
    assert run.read("report.json") == found
    text = (run.path / "report.md").read_text()
    assert "| goodput, of steps alone | 50.0%, 95.2% |" in text
    assert "MFU (4N FLOPs a token)" in text


def test_the_plots_open_without_anything_beside_them(run: RunFolder) -> None:
    page.write(run, job(), LLAMA, on=page.Device("unheard of"))
    drawn = ElementTree.parse(run.path / "report.svg").getroot()
    lines = drawn.findall(".//{*}polyline")
    assert len(lines) == 4
    assert all(len(line.attrib["points"].split()) == 200 for line in lines)
    assert "prefers-color-scheme: dark" in (run.path / "report.svg").read_text()


def test_a_run_without_a_step_has_a_report(tmp_path: Path) -> None:
    folder = open_run(StateConfig(dir=tmp_path), name="a", task="sft", identity="0" * 64)
    found = page.write(folder, job(), LLAMA, on=page.Device("unheard of"))
    assert (found["steps"], found["tokens_s"], found["mfu"]) == (0, 0.0, None)
    assert "unknown" in (folder.path / "report.md").read_text()
