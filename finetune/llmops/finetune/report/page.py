"""The report of a run: figures for programs, a page for people, and plots that follow light and dark.

report.json   all figures      report.md   the page      report.svg   loss, learning rate, tokens/s, memory
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llmops.core.files import write_atomic
from llmops.core.web.plots import HEIGHT, WIDTH, Line, line_plot
from llmops.finetune.config import FinetuneConfig
from llmops.finetune.report.cost import devices, spent
from llmops.finetune.report.flops import measured_peak, peak, per_token
from llmops.finetune.report.goodput import goodput
from llmops.finetune.runs import RunFolder

FILES = ("report.json", "report.md", "report.svg")
_POINTS = 200
_STYLE = """<style>
.plot { --ink: #374151; --grid: #e5e7eb; --accent: #1b64b8; --paper: #fff }
@media (prefers-color-scheme: dark) { .plot { --ink: #d1d5db; --grid: #374151; --accent: #7cb4f5; --paper: #111827 } }
.paper { fill: var(--paper) } .grid { stroke: var(--grid) } .tick, .title { fill: var(--ink); font: 11px sans-serif }
.title { font-weight: 600 } .line { fill: none; stroke: var(--accent); stroke-width: 1.5 } .dot { fill: var(--accent) }
</style>"""


@dataclass(frozen=True)
class Device:
    """What was computed on: its name as PyTorch gives it, or `cpu`."""

    name: str
    precision: Literal["fp32", "bf16"] = "bf16"


CPU = Device("cpu", "fp32")


def write(
    folder: RunFolder,
    config: FinetuneConfig,
    shape: Mapping[str, Any],
    *,
    attended: float | None = None,
    recomputes: bool = False,
    on: Device = CPU,
) -> dict[str, Any]:
    """Write the report of a run into its folder, and give its figures.

    Args:
        shape: of the base: the keys of its config.json.
        attended: mean length of the documents; default: a row, so that packed runs are counted too high.
        recomputes: whether gradient checkpointing was on.
    """
    from llmops.finetune.journal import read_events, read_metrics

    steps = read_metrics(folder)
    record = folder.record()
    time = goodput(record, steps, read_events(folder))
    cost = per_token(shape, config, attended=attended or config.data.max_length, recomputes=recomputes)
    most = measured_peak(on.precision) if on.name == CPU.name else peak(on.name)
    figures = _figures(steps, config, time.useful_s, (cost.model, cost.hardware, cost.label), most)
    held = max(time.wall_s, 1e-9)
    figures |= {
        "run": record.run_id,
        "task": record.task,
        "method": config.method.kind,
        "device": on.name,
        "goodput": time.as_json(),
        "replayed_steps": record.replayed_steps,
        "cost": spent(config, seconds=held, supervised=figures["supervised_tokens"]).as_json(),
    }
    folder.write("report.json", figures)
    write_atomic(folder.path / "report.md", page(figures).encode())
    write_atomic(folder.path / "report.svg", plots(steps).encode())
    return figures


def page(figures: Mapping[str, Any]) -> str:
    """The figures as a page of Markdown."""
    time, cost = figures["goodput"], figures["cost"]
    label = figures["flops_label"]
    rows = [
        ("steps", f"{figures['steps']:,}"),
        ("tokens, of which supervised", f"{figures['tokens']:,}, {figures['supervised_tokens']:,}"),
        ("tokens/s, supervised tokens/s", f"{_short(figures['tokens_s'])}, {_short(figures['supervised_tokens_s'])}"),
        ("loss, first and last tenth", f"{_short(figures['loss_first'])}, {_short(figures['loss_last'])}"),
        (f"MFU ({label} FLOPs a token)", _percent(figures["mfu"])),
        ("HFU (with what is computed twice)", _percent(figures["hfu"])),
        ("peak memory", _bytes(figures["peak_memory_bytes"])),
        ("time in steps, whole time", f"{time['useful_s']:.1f} s, {time['wall_s']:.1f} s"),
        ("goodput, of steps alone", f"{_percent(time['goodput'])}, {_percent(time['goodput_of_steps'])}"),
        ("attempts, steps done again", f"{time['attempts']}, {figures['replayed_steps']}"),
        ("cost", _money(cost["usd"])),
        ("cost of a million supervised tokens", _money(cost["usd_per_million_supervised"])),
    ]
    table = "".join(f"| {name} | {value} |\n" for name, value in rows)
    head = f"# {figures['run']}\n\n{figures['task']} by {figures['method']} on {figures['device']}.\n\n"
    return f"{head}| | |\n|---|---|\n{table}\n![loss, learning rate, tokens/s, memory](report.svg)\n"


def plots(steps: Sequence[Mapping[str, Any]]) -> str:
    """Four plots over the steps, in one SVG that needs nothing beside it."""
    thinned = _thinned(steps)
    labels = [f"step {one['step']}" for one in thinned]
    wanted: list[tuple[str, str, Callable[[float], str]]] = [
        ("loss", "loss", _short),
        ("learning rate", "lr", _short),
        ("tokens/s", "tokens_s", _short),
        ("peak memory", "peak_memory_bytes", _bytes),
    ]
    pieces = []
    for place, (title, key, shown) in enumerate(wanted):
        line = Line(title, [None if one.get(key) is None else float(one[key]) for one in thinned])
        drawn = str(line_plot(title, labels, [line], shown)).replace(
            "<svg ",
            f'<svg x="{place % 2 * WIDTH}" y="{place // 2 * (HEIGHT + 24) + 24}" width="{WIDTH}" height="{HEIGHT}" ',
        )
        y = place // 2 * (HEIGHT + 24) + 18
        pieces.append(f'<text class="title" x="{place % 2 * WIDTH + 52}" y="{y}">{title}</text>{drawn}')
    wide, tall = 2 * WIDTH, 2 * (HEIGHT + 24)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" class="plot" viewBox="0 0 {wide} {tall}" width="{wide}">'
    return f'{head}{_STYLE}<rect class="paper" width="{wide}" height="{tall}"/>{"".join(pieces)}</svg>\n'


def _figures(
    steps: Sequence[Mapping[str, Any]],
    config: FinetuneConfig,
    useful_s: float,
    cost: tuple[float, float, str],
    most: float | None,
) -> dict[str, Any]:
    tokens = sum(int(one["tokens"]) for one in steps)
    supervised = sum(int(one["supervised_tokens"]) for one in steps)
    rate = tokens / useful_s if useful_s else 0.0
    tenth = max(1, len(steps) // 10)
    losses = [float(one["loss"]) for one in steps]
    can = None if most is None else most * devices(config)
    return {
        "steps": len(steps),
        "tokens": tokens,
        "supervised_tokens": supervised,
        "tokens_s": rate,
        "supervised_tokens_s": supervised / useful_s if useful_s else 0.0,
        "loss_first": sum(losses[:tenth]) / tenth if losses else None,
        "loss_last": sum(losses[-tenth:]) / tenth if losses else None,
        "flops_label": cost[2],
        "flops_per_token": cost[0],
        "peak_flops": can,
        "mfu": None if can is None else rate * cost[0] / can,
        "hfu": None if can is None else rate * cost[1] / can,
        "peak_memory_bytes": max((int(one.get("peak_memory_bytes") or 0) for one in steps), default=0) or None,
    }


def _thinned(steps: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """At most as many points as can be seen: means of neighbouring steps."""
    size = max(1, -(-len(steps) // _POINTS))
    return [_mean(steps[begin : begin + size]) for begin in range(0, len(steps), size)]


def _mean(steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    seconds = sum(float(one["seconds"]) for one in steps)
    found: dict[str, Any] = {"step": steps[-1]["step"], "tokens_s": sum(one["tokens"] for one in steps) / seconds}
    for key in ("loss", "lr", "peak_memory_bytes"):
        values = [float(one[key]) for one in steps if one.get(key) is not None]
        found[key] = sum(values) / len(values) if values else None
    return found


def _short(value: float | None) -> str:
    if value is None:
        return "unknown"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1%}"


def _bytes(value: float | None) -> str:
    return "unknown" if not value else f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


def _money(value: float | None) -> str:
    return "no price was named" if value is None else f"${value:,.4g}"
