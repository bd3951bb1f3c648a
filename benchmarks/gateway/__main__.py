"""The gateway next to LiteLLM, Portkey and nginx in one run: what a request, a chunk and a stream cost.

    python -m benchmarks.gateway [--requests 1000000] [--seconds 5] [--json FILE]

The gateway under test has core 0; the mock upstream, the load generator and the drainer have core 1. Ours runs with a
virtual key, limits, budgets, prices, payload log to the real spool and metrics; the cache is off, and every body
holds a nonce. `LLMOPS_BENCH_REQUESTS` gives the long run another length, 20 million at most. Needs `LLMOPS_BENCH`
(mock.c and lg.c) and gcc; a peer that cannot be installed is named and left out.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.gateway.gateways import MODEL, PEERS, as_json, ours, tls_end
from benchmarks.gateway.measure import PACES, Figures, Growth, Paced, long_run, measured, paced, rate, slow_streams
from benchmarks.gateway.tools import BUILD, Load, Mock, UnavailableError, build_tools, mock, write_bodies

BARS = {"requests_per_s": 25_000.0, "cpu_us": 40.0, "p50_us": 100.0, "p99_us": 1000.0, "chunk_us": 16.0, "rss_mb": 60.0}

MOST_REQUESTS = 20_000_000


def say(text: str) -> None:
    print(f"   {text}", file=sys.stderr, flush=True)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Everything, one after the other."""
    mock_program, lg = build_tools()
    found: dict[str, Any] = {"peers": [], "missing": []}
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=BUILD))
    try:
        body = write_bodies(folder, MODEL)
        with mock(mock_program) as upstream:
            direct = Load(lg, upstream.ports["plain"], body)
            at_64, at_4 = direct.run(64, options.seconds), direct.run(4, options.seconds)
            found["direct"] = {"requests_per_s": at_64["rps"], "p50_us": at_4["p50"], "p99_us": at_4["p99"]}
            found["direct_paced"] = paced(direct, options.seconds)
            if "llmops" not in options.without:
                found |= our_figures(folder, upstream, lg, body, options)
            for name, opened in PEERS.items():
                if name in options.without:
                    continue
                say(name)
                try:
                    with opened(upstream.ports["plain"]) as gateway:
                        found["peers"].append(measured(gateway, lg, body, options.seconds))
                except UnavailableError as error:
                    found["missing"].append(f"{name}: {error}")
    finally:
        shutil.rmtree(folder)
    return found


def our_figures(folder: Path, upstream: Mock, lg: Path, body: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Ours: the row, upstream TLS, slow streams, and the long run; each with a fresh state."""
    from llmops.gateway.compiled import HOME, digest

    found: dict[str, Any] = {}
    plain = f"http://127.0.0.1:{upstream.ports['plain']}/v1"
    say("llmops")
    with ours(folder / "plain", plain) as gateway:
        found["ours"] = measured(gateway, lg, body, options.seconds)
    shutil.rmtree(folder / "plain")
    if (HOME / digest()).is_dir():
        say("llmops, compiled")
        with ours(folder / "compiled", plain, compiled=True) as gateway:
            found["compiled"] = measured(gateway, lg, body, options.seconds)
        shutil.rmtree(folder / "compiled")
    else:
        found["missing"] = [*found.get("missing", ()), "llmops, compiled: `make fast` was not run on these sources"]
    say("llmops, traced")
    with ours(folder / "traced", plain, job={"tracing": {"exporter": "file"}}) as gateway:
        found["traced_cpu_us"] = rate(gateway, gateway.load(lg, body), 64, options.seconds)[1]
    shutil.rmtree(folder / "traced")
    say("llmops, upstream TLS")
    try:
        with ExitStack() as stack:
            port, certificate = stack.enter_context(tls_end(upstream.ports["plain"]))
            url = f"https://127.0.0.1:{port}/v1"
            gateway = stack.enter_context(ours(folder / "tls", url, tls={"ca_file": str(certificate)}))
            found["tls_cpu_us"] = rate(gateway, gateway.load(lg, body), 64, options.seconds)[1]
    except UnavailableError as error:
        found["tls_missing"] = str(error)
    say(f"llmops, {options.streams} slow streams")
    with ours(folder / "streams", f"http://127.0.0.1:{upstream.ports['slow']}/v1") as gateway:
        found["streams"] = slow_streams(gateway, options.streams)
    if options.requests:
        say(f"llmops, {options.requests:,} requests")
        with ours(folder / "long", plain, compiled="compiled" in found) as gateway:
            found["growth"] = long_run(gateway, lg, body, upstream, options.requests)
    return found


def table(found: dict[str, Any]) -> str:
    """The section: ratios first."""
    direct = found["direct"]
    rows: list[Figures] = [*(found[name] for name in ("ours", "compiled") if name in found), *found["peers"]]
    lines = [
        f"Gateway on core 0; mock upstream and load generator in C on core 1; 941 B to 1,214 B; 64 connections, for "
        f"the added time 4; streams of 200 chunks. Direct to the mock: {direct['requests_per_s']:,.0f} requests/s, p50 "
        f"{direct['p50_us']:.0f} us, p99 {direct['p99_us']:.0f} us at 4 connections. Ours with key, limits, budgets, "
        "prices, payload log and metrics on; the peers as they come, without those.",
        "",
        "| x CPU of ours | gateway | requests/s | CPU us a request | added p50 us | added p99 us | CPU us a chunk | "
        "MB at start | MB after | start s |",
        "|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    base = rows[0].cpu_us if rows else 1.0
    for row in rows:
        lines.append(
            f"| {row.cpu_us / base:.2f} | {row.name} | {row.requests_per_s:,.0f} | {row.cpu_us:,.1f} | "
            f"{row.p50_us - direct['p50_us']:,.0f} | {row.p99_us - direct['p99_us']:,.0f} | {_or_dash(row.chunk_us)} | "
            f"{row.rss_start_mb:.0f} | {row.rss_after_mb:.0f} | {row.start_s:.2f} |"
        )
    lines += ["", *paced_table(rows, found["direct_paced"])]
    if "ours" in found:
        lines += ["", *against_bars(found)]
    problems = [row.problem for row in rows if row.problem]
    lines += [f"\nNot measured: {' '.join(missing.split())}." for missing in (*found["missing"], *problems)]
    return "\n".join(lines)


def _or_dash(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:,.1f}"


def paced_table(rows: list[Figures], direct: dict[int, Paced]) -> list[str]:
    """What a gateway adds for callers that do not wait for each other."""
    lines = [
        "Above, each of the 4 connections asks again as soon as it is answered, so that a request waits for the three "
        "before it: its time is four times the gateway's work for one. Here requests come at a pace, over the same 4 "
        "connections, each timed from when it was due: added p50 / p99 in us, and the share that found none free.",
        "",
        "| gateway | " + " | ".join(f"{pace:,} a second" for pace in PACES) + " |",
        "|---|" + "---:|" * len(PACES),
    ]
    for row in rows:
        cells = []
        for pace in PACES:
            own, base = row.paced.get(pace), direct.get(pace)
            if own is None or base is None:
                cells.append("does not keep up")
                continue
            share = own.dropped / (own.dropped + own.sent)
            cells.append(f"{own.p50_us - base.p50_us:,.0f} / {own.p99_us - base.p99_us:,.0f}, {share:.1%}")
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return lines


def against_bars(found: dict[str, Any]) -> list[str]:
    """Our figures as parts of what they were to be; compiled where that was measured, and plain."""
    lines = _bars(found, found["ours"], "plain Python")
    if "compiled" in found:
        lines = [*_bars({"direct": found["direct"]}, found["compiled"], "compiled"), "", *lines]
    return [*lines, *_wholeness(found)]


def _bars(found: dict[str, Any], ours_: Figures, how: str) -> list[str]:
    direct = found["direct"]
    rows = [
        (
            "requests a second",
            ours_.requests_per_s / BARS["requests_per_s"],
            f"{ours_.requests_per_s:,.0f}",
            ">= 25,000",
        ),
        ("CPU us a request", ours_.cpu_us / BARS["cpu_us"], f"{ours_.cpu_us:.1f}", "<= 40"),
        ("added p50 us", (ours_.p50_us - direct["p50_us"]) / 100, f"{ours_.p50_us - direct['p50_us']:.0f}", "<= 100"),
        (
            "added p99 us",
            (ours_.p99_us - direct["p99_us"]) / 1000,
            f"{ours_.p99_us - direct['p99_us']:.0f}",
            "<= 1,000",
        ),
        ("CPU us a streamed chunk", ours_.chunk_us / BARS["chunk_us"], f"{ours_.chunk_us:.1f}", "<= 16"),
        ("resident MB after the load", ours_.rss_after_mb / BARS["rss_mb"], f"{ours_.rss_after_mb:.0f}", "<= 60"),
        ("seconds to the first answer, one worker", ours_.start_s / 0.5, f"{ours_.start_s:.2f}", "<= 0.5"),
    ]
    if "traced_cpu_us" in found:
        more = found["traced_cpu_us"] - ours_.cpu_us
        rows.append(("CPU us that tracing adds to a request, every one sampled", more / 10, f"{more:.1f}", "<= 10"))
    if "tls_cpu_us" in found:
        ratio = found["tls_cpu_us"] / ours_.cpu_us
        rows.append(("CPU with upstream TLS, of that without", ratio / 2, f"{ratio:.2f}", "<= 2"))
    if "streams" in found:
        streams = found["streams"]
        at_once = f"kB a stream, {streams['streams']:,} at once"
        rows.append((at_once, streams["kb_each"] / 40, f"{streams['kb_each']:.1f}", "<= 40"))
    lines = [f"| of the bar | {how} | figure | bar |", "|---:|---|---:|---:|"]
    return lines + [f"| {ratio:.2f} | {what} | {figure} | {bar} |" for what, ratio, figure, bar in rows]


def _wholeness(found: dict[str, Any]) -> list[str]:
    """That nothing was lost, of streams, counts and rows."""
    streams = found["streams"]
    lines = [
        "",
        f"Slow streams: {streams['whole']:,} of {streams['streams']:,} whole, {streams['lost_chunks']} chunks lost.",
    ]
    if "growth" in found:
        growth: Growth = found["growth"]
        sizes = ", ".join(f"{size:.1f}" for size in growth.rss_mb)
        how = ", compiled" if "compiled" in found else ""
        same = "the same" if growth.mock == growth.counted == growth.rows else "NOT the same"
        lines += [
            "",
            f"{growth.requests[-1]:,} requests{how}, the spool drained beside them: resident MB after each eighth "
            f"{sizes}. Counted by the mock {growth.mock:,}, by the gateway {growth.counted:,}, rows in the table "
            f"{growth.rows:,}: {same}.",
        ]
    if "tls_missing" in found:
        lines += ["", f"TLS not measured: {found['tls_missing']}."]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked = os.environ.get("LLMOPS_BENCH_REQUESTS", "1000000")
    parser.add_argument("--requests", type=int, default=int(asked), help="length of the long run; 0 leaves it out")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each other measurement")
    parser.add_argument("--streams", type=int, default=1000, help="slow streams at once")
    parser.add_argument("--without", nargs="*", default=[], metavar="NAME", help="leave out llmops, or a peer")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    options.requests = min(options.requests, MOST_REQUESTS)
    try:
        found = run(options)
    except UnavailableError as error:
        print(f"Not measured here: {error}.")
        return
    if options.json:
        plain = {name: _plain(value) for name, value in found.items()}
        options.json.write_text(as_json(plain) + "\n", encoding="utf-8")
    print(table(found))


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    return asdict(value) if isinstance(value, Figures | Growth | Paced) else value


if __name__ == "__main__":
    main()
