"""What a setting changes: the speed-ups of sweeps, from the records alone.

A sweep's runs carry a variant, `<sweep>_<value>`; the headline runs of the task are the value they have by default,
those of the sweep's seeds alone, so that all values are compared on the same seeds. Speed-ups are those of speedup.py.
"""

from __future__ import annotations

import re

import pandas as pd

from rais.paper.analysis.intervals import median
from rais.paper.analysis.speedup import ENDS, SPEEDUPS, run_table, speedup_row
from rais.paper.records.read import COMPLETE, Records

# What can be swept, with the value that the headline runs on MNIST have.
SWEEPS = {
    "visits": "20000",
    "alpha": "0.01",
    "batch_size": "32",
    "features": "all",
    "outliers": "none",
}
COLUMNS = [
    *("task", "sweep", "value", "arm", "n_seeds", "reached", "uniform", *SPEEDUPS),
    *(f"{name}{end}" for name in ENDS for end in ("", "_low", "_high")),
    *("diverged", "status"),
]


def sensitivity_table(records: Records) -> pd.DataFrame:
    """What a setting changes, one row a task, sweep, value and arm, columns COLUMNS.

    A variant `<sweep>_<value>` is one value of a sweep of SWEEPS, the headline runs of the same seeds are another, the
    default.
    n_seeds, reached, examples_*, seconds_*: as in `speedup_table`, against the uniform runs of the same variant where
    there are any (`uniform`: own), else the headline ones (`uniform`: headline). Medians over seeds with the lowest and
    the highest: gain_ratio (the last one), final_train_loss (nats), test_error (fraction), of runs that did not
    diverge; sampler_share, the part of the seconds that the sampler and the gain ratio take. An arm without a variant
    in a sweep has no rows there. [ours]
    """
    listed = records.where(~records.runs["diagnostic"])
    points = seeds_table(listed)
    rows = []
    for (task, sweep, value, arm), of_point in points.groupby(["task", "sweep", "value", "arm"], sort=False):
        variant, of_task = of_point["variant"].iloc[0], listed.of(task)
        point = _row(of_task.where(_of_sweep(of_task.runs, sweep)), arm, variant)
        rows.append({"task": task, "sweep": sweep, "value": value, "arm": arm, **point})
    return pd.DataFrame(rows, columns=COLUMNS)


def seeds_table(records: Records) -> pd.DataFrame:
    """The complete runs behind `sensitivity_table`, in its order: `run_table` with the columns sweep and value, a run
    of the default value once for every sweep of its task and arm."""
    complete = records.where(records.runs["status"].isin(COMPLETE) & ~records.runs["diagnostic"])
    table = run_table(complete)
    found = []
    for task in complete.tasks:
        of_task = table[table["task"] == task]
        for sweep, default in SWEEPS.items():
            of_sweep = of_task[_of_sweep(of_task, sweep)]
            arms = [arm for arm in complete.arms(task) if of_sweep["variant"][of_sweep["arm"] == arm].ne("").any()]
            values = {v: (sweep_of(v) or ("", default))[1] for v in of_sweep["variant"].unique()}
            for variant in sorted(values, key=lambda v, values=values: _value_order(default, values[v])):
                for arm in arms:
                    runs = of_sweep[(of_sweep["arm"] == arm) & (of_sweep["variant"] == variant)]
                    found.append(runs.assign(sweep=sweep, value=values[variant]))
    return pd.concat(found) if found else table.iloc[:0].assign(sweep="", value="")


def sweep_of(variant: str) -> tuple[str, str] | None:
    """(sweep, value) of a label such as `batch_size_64`; None where it begins with no sweep of SWEEPS."""
    names = [name for name in SWEEPS if variant.startswith(f"{name}_")]
    return (names[0], variant[len(names[0]) + 1 :]) if names else None


def _of_sweep(runs: pd.DataFrame, sweep: str) -> pd.Series:
    """Which runs of one task are of a sweep: those of its variants, and the headline runs with their seeds."""
    swept = runs["variant"].map(lambda variant: (sweep_of(variant) or ("",))[0] == sweep)
    return swept | (runs["variant"].eq("") & runs["seed"].isin(runs.loc[swept, "seed"]))


def _row(records: Records, arm: str, variant: str) -> dict[str, object]:
    """One point of a sweep among the runs of one task, variant "" being the default."""
    runs = records.runs
    complete = runs["status"].isin(COMPLETE)
    asked = runs["arm"].eq(arm) & runs["variant"].eq(variant)
    uniform = runs["arm"].eq("uniform") & complete
    has_own = bool(variant) and (uniform & runs["variant"].eq(variant)).any()
    uniform &= runs["variant"].eq(variant if has_own else "")
    table = run_table(records.where((asked & complete) | uniform))
    points, baseline = asked.reindex(table.index), uniform.reindex(table.index)
    row = speedup_row(table[points], table[baseline], int((asked & ~complete).sum()))
    for name in ENDS:
        values = table.loc[points, name]
        row |= {name: median(values), f"{name}_low": values.min(), f"{name}_high": values.max()}
    diverged = int((table.loc[points, "status"] == "diverged").sum())
    return row | {"uniform": "own" if has_own else "headline", "diverged": diverged}


def _value_order(default: str, value: str) -> tuple[bool, float, bool, str]:
    """Numbers by size, then words, the default first."""
    number = re.match(r"[\d.]+(e-?\d+)?", value)
    return number is None, float(number.group()) if number else 0.0, value != default, value
