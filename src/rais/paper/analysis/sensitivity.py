"""What a setting changes: the speed-ups of sweeps, from the records alone.

A sweep's runs carry a variant, `<sweep>_<value>`; the headline runs of the task are the value they have by default.
Speed-ups are those of stats.py.
"""

from __future__ import annotations

import re

import pandas as pd

from rais.paper.analysis.speedup import ENDS, SPEEDUPS, mean_and_interval, run_table, speedup_row, tally
from rais.paper.records.read import COMPLETE, Records

# What can be swept, with the value that the headline runs on MNIST have.
SWEEPS = {
    "visits": "20000",
    "alpha": "0.003",
    "batch_size": "32",
    "features": "all",
    "lr": "3.4",
    "epochs": "10",
    "outliers": "none",
}
COLUMNS = [
    "task",
    "sweep",
    "value",
    "arm",
    "n_seeds",
    "uniform",
    *SPEEDUPS,
    *(f"twice_{part}" for part in ("speedup", "low", "high")),
    *(f"{name}{end}" for name in ENDS for end in ("", "_low", "_high")),
    "diverged",
    "never",
    "status",
]


def sensitivity_table(records: Records) -> pd.DataFrame:
    """What a setting changes, one row a task, sweep, value and arm, columns COLUMNS.

    A variant `<sweep>_<value>` is one value of a sweep of SWEEPS, the headline runs are another, the default.
    examples_*, seconds_*: the speed-ups of `speedup_table`, with L* and costs of the uniform runs of the same
    variant where there are any (`uniform`: own), else of the headline ones (`uniform`: headline). twice_*: those in
    examples at 2 L*, which fewer runs miss by chance. Means over seeds with their intervals: gain_ratio (the last
    one), final_train_loss (nats) and test_error (fraction), of runs that did not diverge; sampler_share, the part of
    the seconds that the sampler and the gain ratio take. n_seeds: complete runs; diverged, never: those of them that
    diverged, and that never were at L*. An arm without a variant in a sweep has no rows there. [ours]
    """
    listed = records.where(~records.runs["diagnostic"])
    rows = []
    for task, sweep in [(task, sweep) for task in listed.tasks for sweep in SWEEPS]:
        labels = [v for v in listed.of(task).runs["variant"].unique() if (sweep_of(v) or [""])[0] == sweep]
        variants = {default_of(listed.of(task), sweep): ""} | {sweep_of(label)[1]: label for label in labels}
        arms = listed.where(listed.runs["variant"].isin(labels)).arms(task)
        for value in sorted(variants, key=lambda value, sweep=sweep: _value_order(sweep, value)):
            for arm in arms:
                row = _row(listed.of(task), arm, variants[value])
                rows += [{"task": task, "sweep": sweep, "value": value, "arm": arm, **row}] if row else []
    return pd.DataFrame(rows, columns=COLUMNS)


def default_of(records: Records, sweep: str) -> str:
    """The value that the headline runs of one task have: of `epochs` theirs, else the one in SWEEPS."""
    headline = records.comparable.runs
    return f"{headline['epochs'].iloc[0]:g}" if sweep == "epochs" and len(headline) else SWEEPS[sweep]


def sweep_of(variant: str) -> tuple[str, str] | None:
    """(sweep, value) of a label such as `batch_size_64`; None where it begins with no sweep of SWEEPS."""
    names = [name for name in SWEEPS if variant.startswith(f"{name}_")]
    return (names[0], variant[len(names[0]) + 1 :]) if names else None


def _row(records: Records, arm: str, variant: str) -> dict[str, object]:
    """One point of a sweep among the runs of one task, variant "" being the default; empty where it was not run."""
    runs = records.runs
    asked = (runs["arm"] == arm) & (runs["variant"] == variant)
    if not asked.any():
        return {}
    uniform = (runs["arm"] == "uniform") & runs["status"].isin(COMPLETE)
    has_own = bool(variant) and (uniform & (runs["variant"] == variant)).any()
    uniform &= runs["variant"] == (variant if has_own else "")
    compared = records.where((asked & runs["status"].isin(COMPLETE)) | uniform)
    table, twice = run_table(compared), run_table(compared, factor=2)
    points, baseline = asked.reindex(table.index), uniform.reindex(table.index)
    diverged, never = tally(table[points])
    row = speedup_row(table[points], table[baseline], int(asked.sum()) - int(points.sum()))
    earlier = speedup_row(twice[points], twice[baseline], unfinished=0)
    row |= {f"twice_{part}": earlier[f"examples_{part}"] for part in ("speedup", "low", "high")}
    for name in ENDS:
        row |= mean_and_interval(table.loc[points, name].dropna(), name, name)
    return row | {"uniform": "own" if has_own else "headline", "diverged": diverged, "never": never}


def _value_order(sweep: str, value: str) -> tuple[bool, float, bool, str]:
    """Numbers by size, then words, the default first."""
    number = re.match(r"[\d.]+(e-?\d+)?", value)
    return number is None, float(number.group()) if number else 0.0, value != SWEEPS[sweep], value
