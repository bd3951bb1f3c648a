"""Exports of a tiny model, loaded by fresh processes; faults that are planted are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from tests.support.tiny_lm import tiny_base, tiny_model, tiny_tokenizer
from tests.support.trained import NAME, base_in, job, trained

from llmops.cli.commands.finetune.export import command
from llmops.core.errors import GateFailedError, IntegrityError, UserError
from llmops.core.state import StateConfig
from llmops.finetune import registration
from llmops.finetune.export import RECORD, export, serve_verify
from llmops.finetune.export.merge import load, probe_ids
from llmops.finetune.export.prune import pruned, share_of
from llmops.finetune.export.quantise import pack, rounded
from llmops.finetune.export.serve_verify import told
from llmops.finetune.quiet import quiet_transformers
from llmops.registry import Registry


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with quiet_transformers():
        return tiny_base(tmp_path_factory.mktemp("base"))


def adapter(base: Path, folder: Path, *, scale: float = 0.2) -> Path:
    with quiet_transformers():
        import torch
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(1)
        made = get_peft_model(tiny_model(), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
        for name, weights in made.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weights, std=scale) if scale else None
        made.save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
    return folder


def test_a_merged_export_says_every_token_alike(base: Path, tmp_path: Path) -> None:
    done = export(adapter(base, tmp_path / "adapter"), base, tmp_path / "out")
    assert [check.verdict for check in done.checks.checks] == ["pass", "pass"]
    merged, served = (check.figures for check in done.checks.checks)
    assert merged["relative_error"] < 1e-4 < merged["adapter_moves"]
    assert served["alike"] == 1.0
    assert served["kl_nats"] < 1e-6
    assert (tmp_path / "out" / RECORD).exists()
    assert (tmp_path / "out" / "tokenizer.json").exists()
    assert not list(tmp_path.glob(".*"))


def test_four_bits_are_loaded_by_a_fresh_process_and_close(base: Path, tmp_path: Path) -> None:
    done = export(base, None, tmp_path / "out", bits="int4")
    quantised, served = (check.figures for check in done.checks.checks)
    assert 0 < quantised["relative_error"] < 0.15
    assert served["kl_nats"] < 0.015
    assert served["alike"] > 0.5
    assert done.size_bytes < 0.5 * (base / "model.safetensors").stat().st_size


def test_eight_bits_lose_next_to_nothing(base: Path, tmp_path: Path) -> None:
    done = export(base, None, tmp_path / "out", bits="int8", verify=False)
    assert 0 < done.figures["export.quantised"]["relative_error"] < 0.01
    with quiet_transformers():
        ids = probe_ids(320)
        before, after = (told(load(folder, "auto"), ids)["next"] for folder in (base, tmp_path / "out"))
    pairs = [pair for rows in zip(before, after, strict=True) for pair in zip(*rows, strict=True)]
    assert sum(one == other for one, other in pairs) / len(pairs) > 0.95


def test_an_adapter_that_does_nothing_is_refused_and_nothing_is_left(base: Path, tmp_path: Path) -> None:
    idle = adapter(base, tmp_path / "adapter", scale=0)
    with pytest.raises(GateFailedError, match="the adapter changes no logit of its base"):
        export(idle, base, tmp_path / "out", verify=False)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*"))


def here(folder: Path, ids: list[list[int]]) -> dict[str, Any]:
    """What a fresh process would say, without its start."""
    import torch

    with quiet_transformers():
        return told(load(folder, "auto"), torch.tensor(ids))


def test_an_export_that_says_something_else_is_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve_verify, "_asked", here)
    mine = adapter(base, tmp_path / "adapter")
    check = serve_verify.served_alike(mine, base, base, exact=True)  # the base itself, as if nothing was merged
    assert check.verdict == "fail"
    assert check.hint == "do not serve this export"
    assert check.figures["alike"] < 1.0


@pytest.mark.parametrize(("how", "share"), [("2:4", 0.5), ("0.3", 0.3)])
def test_the_smallest_weights_of_each_row_become_zero(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, share: float
) -> None:
    import torch
    from safetensors.torch import load_file

    monkeypatch.setattr(serve_verify, "_asked", here)
    done = export(adapter(base, tmp_path / "adapter"), base, tmp_path / "out", zeros=how)
    figures = done.figures["export.pruned"]
    assert figures["zeros"] == pytest.approx(share, abs=0.01)
    assert 0 < figures["relative_error"] < share
    assert done.figures["export.served"]["kl_nats"] > 0
    weight = load_file(tmp_path / "out" / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    if how == "2:4":
        assert ((weight.unflatten(1, (-1, 4)) != 0).sum(dim=2) == 2).all()
    row = torch.tensor([[0.1, -5.0, 3.0, 0.0, 2.0, -0.2, 0.1, 9.0]])
    gone = [0, 3, 5, 6] if how == "2:4" else [0, 3]  # of two that are alike the first
    assert (pruned(row, how) == 0).nonzero()[:, 1].tolist() == gone
    assert ((pruned(row, how) == row) | (pruned(row, how) == 0)).all()
    assert not list((tmp_path / "out").glob("step-*"))


def test_what_is_no_share_of_weights() -> None:
    import torch

    for how in ("1:2", "0", "1", "half", "nan"):
        with pytest.raises(UserError, match="no share of weights"):
            share_of(how)
    with pytest.raises(UserError, match="divide into no fours"):
        pruned(torch.ones(2, 6), "2:4")


def test_a_registered_version_is_exported_by_its_alias(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command, from the registry to what is loaded; another base under the same name is refused."""
    monkeypatch.setattr(serve_verify, "_asked", here)
    state, base = StateConfig(dir=tmp_path / "state"), base_in(tmp_path / "models")
    config = job(base, state={"dir": str(state.root)})
    with Registry(state) as registry:
        registration.register(trained(state, config), config, registry)
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_defaults=True) | {"job": "finetune"}))

    def made(*words: str) -> dict[str, Any]:
        name = "-".join(words).replace("/", "")
        asked = [f"{NAME}@challenger", *words, "--to", str(tmp_path / name), "--config", str(path), "--json"]
        found: dict[str, Any] = json.loads(CliRunner().invoke(command, asked, catch_exceptions=False).stdout)
        assert found["checks"]["passed"]
        return found["figures"]

    merged = made("--merge")
    assert merged["export.merged"]["relative_error"] < 1e-4
    assert merged["export.served"]["alike"] == 1.0
    assert made("--quantise", "int8")["export.quantised"]["relative_error"] < 0.01
    four = made("--quantise", "int4")
    assert four["merged"]
    assert four["export.quantised"]["relative_error"] < 0.15
    assert four["export.served"]["kl_nats"] < 0.1
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(IntegrityError, match="not the model that this adapter was trained on"):
        made("--merge")


def test_what_cannot_be_exported(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="whole already"):
        export(base, None, tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    with pytest.raises(UserError, match="not empty"):
        export(base, None, tmp_path / "full", bits="int8")


@pytest.mark.parametrize("bits", [4, 8])
def test_words_are_packed_as_compressed_tensors_reads_them(bits: int) -> None:
    with quiet_transformers():
        import torch
        from compressed_tensors.compressors.pack_quantized import pack_to_int32, unpack_from_int32

        values = torch.randint(-(1 << (bits - 1)), 1 << (bits - 1), (5, 96), generator=torch.Generator().manual_seed(3))
        values = values.to(torch.int8)
        packed = pack(values, bits)
        assert torch.equal(packed, pack_to_int32(values, bits))
        assert torch.equal(unpack_from_int32(packed, bits, torch.Size((5, 96))), values)


def test_the_scale_that_loses_least_loses_less_than_the_one_that_fits() -> None:
    import torch

    weight = torch.randn(16, 128, generator=torch.Generator().manual_seed(5))
    whole, scale = rounded(weight, 4, 32)
    lost = ((whole.float().unflatten(1, (-1, 32)) * scale.unsqueeze(2)).flatten(1) - weight).square().mean()
    fits = weight.unflatten(1, (-1, 32)).abs().amax(dim=2) / 7
    plain = (weight.unflatten(1, (-1, 32)) / fits.unsqueeze(2)).round().clamp(-8, 7) * fits.unsqueeze(2)
    assert lost < 0.95 * (plain.flatten(1) - weight).square().mean()
