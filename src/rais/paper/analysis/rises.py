"""Whether a run is steady: its largest weight, and the largest rise of its training loss between two evaluations."""

from __future__ import annotations

import numpy as np
import pandas as pd

from rais.paper.analysis.intervals import median
from rais.paper.analysis.once import once
from rais.paper.records.read import Records

AFTER = 1.0  # epochs of examples: the fall at the beginning is not looked at
TREBLED = 3.0
STEADINESS_COLUMNS = [
    *("task", "arm", "n_seeds", "largest_weight", "largest_rise", "largest_rise_low", "largest_rise_high"),
    *("uniform_largest_rise", "trebled"),
]
RISE_COLUMNS = [
    *("task", "arm", "variant", "seed", "epoch", "rise", "loss_before", "loss_after"),
    *("largest_weight", "gain_ratio", "learning_rate", "status"),
]


def largest_rise(wide: pd.DataFrame) -> tuple[float, int]:
    """The largest ratio of the training losses of two successive evaluations of `Records.wide`, and the row of the
    later one. Both are after the first epoch; (nan, −1) where there are not two. An infinite loss is an infinite
    rise."""
    late = wide[(wide["epoch"] >= AFTER) & wide["train_loss"].notna()]
    if len(late) < 2:
        return float("nan"), -1
    loss = late["train_loss"].to_numpy(float)
    ratio = np.divide(loss[1:], loss[:-1], out=np.full(len(loss) - 1, np.inf), where=np.isfinite(loss[:-1]))
    k = int(ratio.argmax())
    return float(ratio[k]), int(late.index[k + 1])


def steadiness_table(records: Records) -> pd.DataFrame:
    """How steady each arm was, one row a task and arm of the headline runs, columns STEADINESS_COLUMNS.

    largest_weight: the largest weight 1/(n p) of any draw of any run. largest_rise: median over seeds, with the
    smallest and the largest; beside it uniform's median. trebled: runs in which the loss more than trebled
    (rises_table).
    """
    runs = with_rises(records.comparable)
    uniform = runs[runs["arm"] == "uniform"].groupby("task")["rise"].median()
    rows = [
        {"task": task, "arm": arm, **steadiness(of_arm), "uniform_largest_rise": uniform.get(task, np.nan)}
        for (task, arm), of_arm in runs.groupby(["task", "arm"])
    ]
    return pd.DataFrame(rows, columns=STEADINESS_COLUMNS)


def steadiness(runs: pd.DataFrame) -> dict[str, float]:
    """n_seeds, largest_weight, largest_rise, its ends and trebled, as in `steadiness_table`, of rows of
    `with_rises`."""
    rise = runs["rise"]
    return {
        "n_seeds": len(runs),
        "largest_weight": runs["run_largest_weight"].max(),
        "largest_rise": median(rise),
        "largest_rise_low": rise.min(),
        "largest_rise_high": rise.max(),
        "trebled": int((rise > TREBLED).sum()),
    }


@once
def rises_table(records: Records) -> pd.DataFrame:
    """Every complete run, headline or variant, in which the loss more than trebled, columns RISE_COLUMNS.

    largest_weight (since the evaluation before), gain_ratio and learning_rate are those recorded at the evaluation that
    shows the rise: the beginning of the search for its cause, a weight or a step. A run that was made twice, once to be
    measured more closely, is listed once.
    """
    complete = records.where(records.runs["status"].isin(("done", "diverged")))
    runs = with_rises(complete)
    risen = runs[runs["rise"] > TREBLED].sort_values(RISE_COLUMNS[:4])
    twice = risen.duplicated(["task", "arm", "seed", "epoch", "loss_before", "loss_after"])
    return risen.loc[~twice, RISE_COLUMNS].reset_index(drop=True)


@once
def with_rises(records: Records) -> pd.DataFrame:
    """`records.runs` with rise, the largest one of each run, what was recorded there (RISE_COLUMNS), and
    run_largest_weight, the largest weight of the whole run. One row a run."""
    rows = []
    for _, run in records.runs.iterrows():
        wide = records.wide(run)
        rise, place = largest_rise(wide)
        row = run.to_dict() | {"rise": rise, "run_largest_weight": wide.get("largest_weight", pd.Series(np.nan)).max()}
        if place >= 0:
            later = wide.loc[place]
            row |= {
                name: later.get(name, np.nan) for name in ("epoch", "largest_weight", "gain_ratio", "learning_rate")
            }
            row |= {"loss_after": later["train_loss"], "loss_before": later["train_loss"] / rise}
        rows.append(row)
    return pd.DataFrame(
        rows,
        index=records.runs.index,
        columns=list(dict.fromkeys([*records.runs, *RISE_COLUMNS, "run_largest_weight"])),
    )
