"""What a run took and was worth: how fast, how much of the machine, how much of the time, and at what price.

`flops` counts what a model has to compute, `goodput` tells steps that count from those that were done again, `cost` is
money, `page` writes it all into the run's folder as report.json, report.md and report.svg.
"""
