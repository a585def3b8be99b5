"""Where the possible gain is lost, from runs that recorded it at every evaluation (training/diagnose.py).

Five numbers at one moment, each at most about as large as the one before: what the oracle would have, what the best
uncertainty set knows in hindsight, what the p in use has, what the run believes it has, and the multiplier it takes.
The step from one to the next has one cause, and its share of the way from the oracle down to 1 says how much it costs.

symbol    code             unit
ρ         oracle_rho       1, (mean v²)/(mean v)²: no p does better
          hindsight_rho    1, p of (PT) solved on all n pairs (s_i, v_i) of that moment: what the features can tell
          true_rho         1, the p in use
          rho, rho_slow    1, estimated: the smaller of two averages, and the slow one
r         gain_ratio       1 + φ(ρ − 1)
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from rais.paper.analysis.intervals import median
from rais.paper.analysis.once import once
from rais.paper.records.read import Records

# From the oracle down to the multiplier, and what is lost on the step to each from the one before.
STAGES = {
    "oracle_rho": "oracle",
    "hindsight_rho": "memory",
    "true_rho": "set",
    "rho": "estimate",
    "gain_ratio": "noise",
}
LOSSES = {
    "memory": "the past says little of the next norm",
    "set": "the set could be better",
    "estimate": "ρ is estimated too low",
    "noise": "the gradient is not all noise (φ < 1)",
}
LITTLE = 1.5  # an oracle's ρ below it leaves little to gain
COLUMNS = [
    *("task", "arm", "n_seeds", "evaluations", *STAGES, "rho_slow", "phi"),
    *("estimated_over_true", "slow_over_true", *(f"lost_to_{cause}" for cause in LOSSES), "verdict"),
]


def moments(records: Records, run: pd.Series) -> pd.DataFrame:
    """The evaluations of one diagnosed run at which its p was no longer uniform, a row each as in `Records.wide`, with
    estimated_over_true, slow_over_true and lost_to_* (shares of log oracle_rho; negative where a step gains)."""
    wide = records.wide(run)
    for name in (*STAGES, "rho_slow", "phi"):
        if name not in wide:
            wide[name] = np.nan
    wide = wide[(wide["true_rho"] - 1).abs() > 1e-9].copy()
    wide["estimated_over_true"] = wide["rho"] / wide["true_rho"]
    wide["slow_over_true"] = wide["rho_slow"] / wide["true_rho"]
    stages = list(STAGES)
    for above, below in zip(stages[:-1], stages[1:], strict=True):
        lost = np.log(wide[above]) - np.log(wide[below])
        wide[f"lost_to_{STAGES[below]}"] = lost / np.log(wide["oracle_rho"])
    return wide


@once
def headroom_table(records: Records) -> pd.DataFrame:
    """One row a task and arm with diagnosed runs, columns COLUMNS: medians over all `moments` of all seeds.

    evaluations: how many those are. lost_to_*: the share of the way from the oracle's ρ to 1, in logarithms, that each
    cause takes. verdict: little headroom, or the largest of the four.
    """
    runs = records.headroom
    rows = []
    for (task, arm), of_arm in runs.runs.groupby(["task", "arm"]):
        table = pd.concat([moments(runs, run) for _, run in of_arm.iterrows()])
        if table.empty:
            continue
        named = {name: median(table[name]) for name in COLUMNS[4:-1]}
        row = {"task": task, "arm": arm, "n_seeds": of_arm["seed"].nunique(), "evaluations": len(table), **named}
        rows.append(row | {"verdict": verdict(row)})
    return pd.DataFrame(rows, columns=COLUMNS)


def verdict(row: dict[str, float]) -> str:
    """In a few words, where the gain of a row of `headroom_table` is lost."""
    if row["oracle_rho"] < LITTLE:
        return f"little headroom: the oracle has ρ = {row['oracle_rho']:.2g}"
    lost = {cause: row[f"lost_to_{cause}"] for cause in LOSSES if not np.isnan(row[f"lost_to_{cause}"])}
    if not lost:
        return ""
    worst = max(lost, key=lost.__getitem__)
    return f"{LOSSES[worst]}: {100 * lost[worst]:.0f} % of the way from ρ = {row['oracle_rho']:.2g} to 1"
