"""savvi's canary test and ville's A/B test on drawn requests, looked at in batches. Run by `peers.run_peer`."""

import json
import sys

import numpy as np
from savvi.multinomial import Multinomial
from ville import AsymptoticABTest

job = json.load(sys.stdin)
batch, alpha = job["batch"], job["alpha"]
looks = np.arange(batch, job["requests"] + 1, batch)


def savvi_alarm(counts, share):
    """Its canary release test is this one over the arms of bad outcomes; its own loop draws intervals by a solver."""
    test = Multinomial(alpha, np.array([1 - share, share]))
    for look, bad in zip(looks, counts, strict=True):
        if bad.any():
            test.update(bad)
        if test.calculate_p_value() <= alpha and test.theta[1] > share:
            return int(look)
    return None


def ville_alarm(outcomes, treated, share):
    """Two-sided at 2 alpha, of which only the harmful side is asked."""
    test = AsymptoticABTest(alpha=2 * alpha, propensity=share).fit(outcomes, treated)
    found = np.flatnonzero(test.lower_[looks - 1] > 0)
    return int(looks[found[0]]) if found.size else None


alarms = {"savvi": [], "ville": []}
for champion, challenger, share in job["cases"]:
    rng = np.random.default_rng(job["seed"])
    found = {"savvi": [], "ville": []}
    for _ in range(job["runs"]):
        treated = rng.random(job["requests"]) < share
        bad = rng.random(job["requests"]) < np.where(treated, challenger, champion)
        arms = [(bad & side).reshape(-1, batch).sum(axis=1) for side in (~treated, treated)]
        found["savvi"].append(savvi_alarm(np.stack(arms, axis=1), share))
        found["ville"].append(ville_alarm(bad.astype(float), treated.astype(float), share))
    for name, column in found.items():
        alarms[name].append(column)
json.dump(alarms, sys.stdout)
