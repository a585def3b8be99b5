"""How runs ended and what they took, one row a task and arm, from the records alone."""

from __future__ import annotations

import pandas as pd

from rais.paper.analysis.intervals import median
from rais.paper.analysis.once import once
from rais.paper.analysis.speedup import hardware, run_table
from rais.paper.records.read import Records

MEASURED = ("final_train_loss", "test_error", "examples", "seconds", "duration_seconds")
COLUMNS = [
    *("task", "arm", "n_seeds", "diverged"),
    *(f"{name}{end}" for name in MEASURED for end in ("", "_low", "_high")),
    "hardware",
]


@once
def final_table(records: Records) -> pd.DataFrame:
    """What each arm ended with, one row a task and arm: medians over seeds, lowest and highest in *_low and *_high.

    final_train_loss (nats) and test_error (fraction): runs that did not diverge. examples, seconds (timed
    region) and duration_seconds (whole run, evaluations included): every complete run. hardware: as recorded.
    """
    table = run_table(records.comparable)
    rows = []
    for (task, arm), runs in table.groupby(["task", "arm"]):
        row = {"task": task, "arm": arm, "n_seeds": len(runs), "diverged": int((runs["status"] == "diverged").sum())}
        for name in MEASURED:
            row |= {name: median(runs[name]), f"{name}_low": runs[name].min(), f"{name}_high": runs[name].max()}
        rows.append(row | {"hardware": hardware(runs)})
    return pd.DataFrame(rows, columns=COLUMNS)
