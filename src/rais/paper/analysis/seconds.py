"""Seconds to the target, end to end, and the parts of a step that they go to."""

from __future__ import annotations

import numpy as np
import pandas as pd

from rais.paper.analysis.intervals import median
from rais.paper.analysis.once import once
from rais.paper.analysis.speedup import run_table
from rais.paper.analysis.together import apart
from rais.paper.records.read import Records

# As the training loop names them: (PT) is in `sampler`, φ and r are in `gain`.
PHASES = ("forward", "backward", "step", "data", "norms", "sampler", "gain")
COLUMNS = ["task", "arm", "n_seeds", "seconds", *PHASES]


@once
def seconds_table(records: Records) -> pd.DataFrame:
    """One row a task and arm, columns COLUMNS: medians over the runs that reach the target, n_seeds of them, but no run
    `apart` from uniform's.

    seconds: `timed_seconds` until the loss is at the target. The phases are those seconds, shared out as the wall-clock
    of the whole run is; so the parts of a run add up to its seconds, their medians nearly so.
    """
    comparable = records.comparable
    table = run_table(comparable)
    table = table[np.isfinite(table["seconds_cost"]) & ~apart(table)]
    shares = {index: _shares(comparable.wide(comparable.runs.loc[index])) for index in table.index}
    parts = pd.DataFrame.from_dict(shares, orient="index", columns=list(PHASES), dtype=float)
    parts = parts.mul(table["seconds_cost"], axis=0).join(table[["task", "arm", "seconds_cost"]])
    rows = [
        {"task": task, "arm": arm, "n_seeds": len(runs), "seconds": median(runs["seconds_cost"])}
        | {phase: median(runs[phase]) for phase in PHASES}
        for task in comparable.tasks
        for arm in comparable.arms(task)
        if len(runs := parts[(parts["task"] == task) & (parts["arm"] == arm)].dropna())
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _shares(wide: pd.DataFrame) -> list[float]:
    """The share of each phase in a run's wall-clock; nan where it was not recorded."""
    names = [f"phase_{phase}" for phase in PHASES]
    if not set(names) <= set(wide.columns):
        return [np.nan] * len(PHASES)
    spent = wide[names].iloc[-1].to_numpy(float)
    return list(spent / spent.sum()) if spent.sum() > 0 else [np.nan] * len(PHASES)
