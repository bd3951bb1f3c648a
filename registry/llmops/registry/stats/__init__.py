"""What decides: sequential tests for live traffic, paired ones for held-out data, plans for both.

Pure functions and plain values over numpy; scipy's special functions are imported where they are used. Knows no asset,
no table and no clock.
"""

from llmops.registry.stats.binomial import clopper_pearson, sample_ratio_p, wilson
from llmops.registry.stats.conclusion import Conclusion, Verdict, combine
from llmops.registry.stats.events import EventProcess, Tally
from llmops.registry.stats.means import Cuped, MeanProcess, Moments
from llmops.registry.stats.multiple import benjamini_hochberg, bonferroni, e_bh
from llmops.registry.stats.paired import Rule, by_slice, mcnemar, paired_bootstrap, paired_permutation
from llmops.registry.stats.planning import Plan, Traffic, plan_events, plan_means, plan_paired
from llmops.registry.stats.quantiles import Histogram, QuantileProcess

__all__ = [
    "Conclusion",
    "Cuped",
    "EventProcess",
    "Histogram",
    "MeanProcess",
    "Moments",
    "Plan",
    "QuantileProcess",
    "Rule",
    "Tally",
    "Traffic",
    "Verdict",
    "benjamini_hochberg",
    "bonferroni",
    "by_slice",
    "clopper_pearson",
    "combine",
    "e_bh",
    "mcnemar",
    "paired_bootstrap",
    "paired_permutation",
    "plan_events",
    "plan_means",
    "plan_paired",
    "sample_ratio_p",
    "wilson",
]
