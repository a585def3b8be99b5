"""Both changes are needed: the four arms of sampling and multiplier, at the place where RAIS ended."""

from __future__ import annotations

import numpy as np
import pandas as pd

from rais.paper.analysis.curves import interpolated
from rais.paper.analysis.intervals import median
from rais.paper.records.read import Records

CELLS = {
    ("uniform", "1"): "uniform",
    ("uniform", "RAIS"): "uniform_rais_multiplier",
    ("RAIS", "1"): "rais_multiplier_off",
    ("RAIS", "RAIS"): "rais",
}
COLUMNS = [
    *("task", "draws", "multiplier", "arm", "n_seeds", "epochs"),
    *("train_loss", "train_loss_low", "train_loss_high", "ended_before", "diverged"),
]


def two_by_two_table(records: Records) -> pd.DataFrame:
    """Training loss of the four arms when the rais arm of the same seed ended, one row a task and cell.

    Columns: task, draws, multiplier, arm, n_seeds (pairs), epochs (median of those examples / n), train_loss
    (median, nats, log-linear between evaluations) with the lowest and the highest of the seeds, ended_before (runs that
    had stopped by then, counted with their last loss), diverged (runs left out). Only tasks with all four arms.
    """
    compared = records.comparable
    rows = []
    for task in compared.tasks:
        if not set(CELLS.values()) <= set(compared.arms(task)):
            continue
        rais = compared.of(task, "rais")
        done = rais.runs[rais.runs["status"] == "done"]
        ends = {run["seed"]: rais.wide(run)["examples"].iloc[-1] for _, run in done.iterrows()}
        for (draws, multiplier), arm in CELLS.items():
            cell = _cell(losses_at(compared.of(task, arm), ends))
            rows.append({"task": task, "draws": draws, "multiplier": multiplier, "arm": arm, **cell})
    return pd.DataFrame(rows, columns=COLUMNS)


def losses_at(records: Records, ends: dict[int, int]) -> pd.DataFrame:
    """Of the runs of one arm whose seed is in `ends`, after as many examples as given there: seed, epochs, train_loss
    (nan for a diverged run), ended_before."""
    rows = []
    for _, run in records.runs[records.runs["seed"].isin(ends)].iterrows():
        wide, examples = records.wide(run), ends[run["seed"]]
        loss = interpolated(examples, wide["examples"], wide["train_loss"], log=True)
        row = {"seed": run["seed"], "epochs": examples / run["n"], "ended_before": wide["examples"].iloc[-1] < examples}
        rows.append(row | {"train_loss": float(loss) if run["status"] == "done" else np.nan})
    return pd.DataFrame(rows, columns=["seed", "epochs", "train_loss", "ended_before"])


def _cell(at: pd.DataFrame) -> dict[str, float]:
    known = at[at["train_loss"].notna()]
    loss = known["train_loss"]
    return {
        "n_seeds": len(known),
        "epochs": median(known["epochs"]),
        "train_loss": median(loss),
        "train_loss_low": loss.min(),
        "train_loss_high": loss.max(),
        "ended_before": int(known["ended_before"].sum()),
        "diverged": len(at) - len(known),
    }
