"""What each cure of the recipe does: runs of RAIS with one of them taken out, beside the whole recipe and uniform."""

from __future__ import annotations

import pandas as pd

from rais.paper.analysis.once import once
from rais.paper.analysis.rises import steadiness, with_rises
from rais.paper.analysis.speedup import SPEEDUPS, run_table, speedup_row
from rais.paper.records.read import COMPLETE, Records

LABEL = "without_"
COLUMNS = [
    *("task", "without", "n_seeds", "reached", *SPEEDUPS[:3], "final_train_loss", "test_error"),
    *("largest_weight", "largest_rise", "largest_rise_low", "largest_rise_high", "trebled", "status"),
]


@once
def ablation_table(records: Records) -> pd.DataFrame:
    """Speed-up, largest weight and largest rise of the loss, one row a task and cure taken out, columns COLUMNS.

    A variant `without_<cure>` of the arm rais is the recipe without it; `without` is "" for the whole recipe. Uniform's
    headline runs are what all are held against. Tasks without such a variant have no rows. [ours]
    """
    listed = records.where(~records.runs["diagnostic"])
    rows = []
    for task in listed.tasks:
        labels = sorted(label for label in listed.of(task).runs["variant"].unique() if label.startswith(LABEL))
        for label in ["", *labels] if labels else []:
            row = _row(listed.of(task), label)
            rows += [{"task": task, "without": label.removeprefix(LABEL), **row}] if row else []
    return pd.DataFrame(rows, columns=COLUMNS)


def _row(records: Records, variant: str) -> dict[str, object]:
    """The runs of RAIS with `variant` against the headline runs of uniform, of one task; empty where there are none."""
    runs = records.runs
    complete = runs["status"].isin(COMPLETE)
    asked = runs["arm"].eq("rais") & runs["variant"].eq(variant)
    uniform = runs["arm"].eq("uniform") & runs["variant"].eq("") & complete
    compared = records.where((asked & complete) | uniform)
    table = run_table(compared)
    points, baseline = asked.reindex(table.index), uniform.reindex(table.index)
    if not points.any():
        return {}
    unfinished = int((asked & ~complete).sum())
    return steadiness(with_rises(compared)[points]) | speedup_row(table[points], table[baseline], unfinished)
