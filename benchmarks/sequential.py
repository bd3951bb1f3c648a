"""How often sequential tests alarm without cause, and how soon with one: ours beside the usual ones and two packages.

`python -m benchmarks.sequential [--runs N]`. One-sided harm at alpha = .05, a look every 100 of 20,000 requests. The
methods of this file see the same traffic; the packages draw theirs.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers import PeerUnavailableError, run_peer
from llmops.registry.stats import clopper_pearson
from llmops.registry.stats.binomial import log_e
from llmops.registry.stats.events import advance, log_wealth, purses
from llmops.registry.stats.means import BURN_IN, mixture_log_e, mixture_variance

PACKAGES = ("savvi==0.3.1", "ville==0.1.0", "numpy==2.4.6", "scipy==1.17.1", "matplotlib==3.11.2")
ALPHA, BATCH, REQUESTS, SEED = 0.05, 100, 20_000, 0
BURDEN = -math.log(ALPHA)
EQUAL = [(rate, rate, share) for rate in (0.30, 0.01) for share in (0.5, 0.1, 0.01)]
HARM = {
    (0.30, 0.33, 0.5): 6_000,
    (0.30, 0.40, 0.1): 1_600,
    (0.01, 0.05, 0.1): 1_200,
    (0.01, 0.05, 0.01): 8_000,
    (0.01, 0.20, 0.01): 1_400,
}
"""The best median of an earlier measurement of five methods, for each case; the bar is 1.1 times that."""

Case = tuple[float, float, float]
Counts = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]


def traffic(case: Case, runs: int) -> Counts:
    """(champion n, bad, challenger n, bad) of each batch."""
    champion, challenger, share = case
    rng = np.random.default_rng(SEED)
    theirs = rng.binomial(BATCH, share, size=(runs, REQUESTS // BATCH))
    ours = BATCH - theirs
    return ours, rng.binomial(ours, champion), theirs, rng.binomial(theirs, challenger)


def event_e(counts: Counts, share: float) -> NDArray[Any]:
    n, bad, challenger_n, challenger_bad = counts
    purse, seen = np.broadcast_to(purses(share), (len(n), len(purses(share)))), np.zeros(len(n))
    found = np.empty(n.shape)
    for look in range(n.shape[1]):
        arms = (bad[:, look], n[:, look], challenger_bad[:, look], challenger_n[:, look])
        purse = advance(purse, (seen, BATCH * look), arms, share)
        seen = seen + bad[:, look] + challenger_bad[:, look]
        found[:, look] = log_wealth(purse)
    return found >= BURDEN


def asymptotic(counts: Counts, share: float) -> NDArray[Any]:
    z, information, enough = _z(counts)
    return (mixture_log_e(z, information, mixture_variance(10_000 * share * (1 - share), 2 * ALPHA)) >= BURDEN) & enough


def bad_only(counts: Counts, share: float) -> NDArray[Any]:
    """Beta-binomial e-process over the arms of the bad outcomes."""
    _, bad, _, challenger_bad = (np.cumsum(count, axis=1) for count in counts)
    total = bad + challenger_bad
    found = np.empty(total.shape)
    for look in range(total.shape[1]):
        for n in np.unique(total[:, look]):
            rows = total[:, look] == n
            found[rows, look] = log_e(challenger_bad[rows, look], int(n), share, "above", 100.0)
    return found >= BURDEN


def msprt(counts: Counts, share: float) -> NDArray[Any]:
    """Johari et al.'s mixture test with each arm's own variance, two-sided as published, at 2 alpha for one side."""
    n, bad, challenger_n, challenger_bad = (np.cumsum(count, axis=1).astype(float) for count in counts)
    with np.errstate(divide="ignore", invalid="ignore"):
        rates = bad / n, challenger_bad / challenger_n
        variance = rates[0] * (1 - rates[0]) / n + rates[1] * (1 - rates[1]) / challenger_n
        tau2 = 0.1**2 * rates[0] * (1 - rates[0])
        gap = rates[1] - rates[0]
        found = 0.5 * np.log(variance / (variance + tau2)) + gap**2 * tau2 / (2 * variance * (variance + tau2))
    return (np.nan_to_num(found) >= -math.log(2 * ALPHA)) & (gap > 0)


def naive_z(counts: Counts, share: float) -> NDArray[Any]:
    z, _, _ = _z(counts)
    return z >= 1.6449


def _z(counts: Counts) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    n, bad, challenger_n, challenger_bad = (np.cumsum(count, axis=1) for count in counts)
    information = n * challenger_n / (n + challenger_n)
    rate = (bad + challenger_bad) / (n + challenger_n)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (challenger_bad / challenger_n - bad / n) * np.sqrt(information / (rate * (1 - rate)))
    return np.nan_to_num(z), information, np.minimum(n, challenger_n) >= BURN_IN


METHODS: dict[str, Callable[[Counts, float], NDArray[Any]]] = {
    "event e-process": event_e,
    "asymptotic CS": asymptotic,
    "bad outcomes only": bad_only,
    "mSPRT": msprt,
    "naive z": naive_z,
}


def first(alarms: NDArray[Any]) -> NDArray[Any]:
    return np.where(alarms.any(axis=1), (alarms.argmax(axis=1) + 1.0) * BATCH, math.inf)


def measure(runs: int) -> dict[str, list[NDArray[Any]]]:
    """Method to the requests at which it alarmed, case by case."""
    cases = [*EQUAL, *HARM]
    found: dict[str, list[NDArray[Any]]] = {name: [] for name in METHODS}
    for case in cases:
        print(f"   {case}", file=sys.stderr, flush=True)
        counts = traffic(case, runs)
        for name, method in METHODS.items():
            found[name].append(first(method(counts, case[2])))
    return found


def peers(runs: int) -> dict[str, list[NDArray[Any]]]:
    job = {"cases": [*EQUAL, *HARM], "runs": runs, "seed": SEED, "alpha": ALPHA, "batch": BATCH, "requests": REQUESTS}
    told = run_peer("sequential", PACKAGES, "peer_sequential.py", job)
    return {
        name: [np.array([math.inf if at is None else at for at in column], dtype=float) for column in columns]
        for name, columns in told.items()
    }


def table(found: dict[str, list[NDArray[Any]]], runs: int) -> str:
    names = list(found)
    lines = [
        f"One-sided harm, alpha .05, a look every 100 of 20,000 requests, {runs:,} runs a case. False alarms where the "
        "arms are equal; in brackets the 99% lower bound, which the bar wants at .05 or below; bold where it is not.\n",
        f"| of alpha | equal arms | {' | '.join(names)} |",
        "|---:|---|" + "---:|" * len(names),
    ]
    for place, (rate, _, share) in enumerate(EQUAL):
        alarmed = [np.isfinite(found[name][place]) for name in names]
        cells = [false_alarms(hits) for hits in alarmed]
        lines.append(f"| {alarmed[0].mean() / ALPHA:.2f} | {rate:.2f}, canary {share:.0%} | {' | '.join(cells)} |")
    lines += [
        "\nMedian requests until harm is found, and the share of runs in which it was. The bar is 1.1 times the best "
        "median of any method that an earlier measurement (400 runs) found for that case.\n",
        f"| of the best before | harm | best before | {' | '.join(names)} |",
        "|---:|---|---:|" + "---:|" * len(names),
    ]
    for place, ((champion, challenger, share), best) in enumerate(HARM.items(), start=len(EQUAL)):
        medians = [float(np.median(found[name][place])) for name in names]
        power = [np.isfinite(found[name][place]).mean() for name in names]
        cells = [f"{'never' if math.isinf(m) else f'{m:,.0f}'} ({p:.0%})" for m, p in zip(medians, power, strict=True)]
        what = f"{champion:.2f} to {challenger:.2f}, canary {share:.0%}"
        lines.append(f"| {medians[0] / best:.2f} | {what} | {best:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def false_alarms(alarmed: NDArray[Any]) -> str:
    least = clopper_pearson(int(alarmed.sum()), len(alarmed), 0.02)[0]
    text = f"{alarmed.mean():.3f} ({least:.3f})"
    return f"**{text}**" if least > ALPHA else text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2_000)
    runs = parser.parse_args().runs
    found = measure(runs)
    note = (
        "\nmSPRT is Johari et al.'s with each arm's own variance. savvi is two-sided at alpha and sees bad outcomes "
        "only, ville one-sided at alpha with its defaults."
    )
    try:
        found |= peers(runs)
    except PeerUnavailableError as error:
        note += f"\n\nNot measured: {error}."
    print(table(found, runs) + "\n" + note)
    return 0


if __name__ == "__main__":
    sys.exit(main())
