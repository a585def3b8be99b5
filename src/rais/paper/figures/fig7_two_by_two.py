"""Figure 7: both changes are needed, the two by two of sampling and learning-rate multiplier.

Uniform or RAIS's draws, with the multiplier at 1 or that of RAIS: the curves of the four arms by examples
used, and their training loss at the number of examples at which, for the same seed, the rais arm ended.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from rais.paper.analysis import speedup as stats
from rais.paper.figures import style
from rais.paper.records.read import Records

CELLS = {
    ("uniform", "1"): "uniform",
    ("uniform", "RAIS"): "uniform_rais_multiplier",
    ("RAIS", "1"): "rais_multiplier_off",
    ("RAIS", "RAIS"): "rais",
}
TABLE_COLUMNS = [
    "task",
    "draws",
    "multiplier",
    "arm",
    "n_seeds",
    "epochs",
    "train_loss",
    "train_loss_low",
    "train_loss_high",
    "ended_before",
    "diverged",
]


@style.styled
def make(records: Records, task: str = "mnist") -> Figure:
    """Two panels: the four training-loss curves, and the annotated 2×2."""
    runs = style.runs_by_arm(records.comparable.of(task))
    runs = {arm: runs[arm] for arm in CELLS.values() if arm in runs}
    figure = Figure(figsize=(8.6, 3.6))
    curves, cells = figure.subplots(1, 2, width_ratios=(1.35, 1))
    style.draw_arms(curves, runs, "epoch", "train_loss", log=True)
    style.legend(figure, map(style.look, runs), loc="outside upper center", ncols=len(runs))
    _draw_cells(cells, two_by_two_table(records).query("task == @task"))
    return figure


def two_by_two_table(records: Records) -> pd.DataFrame:
    """Training loss of the four arms when the rais arm of the same seed ended, one row a task and cell.

    Columns: task, draws, multiplier, arm, n_seeds (pairs), epochs (mean of those examples / n), train_loss
    and its bootstrap interval train_loss_low, train_loss_high (nats; log-linear between evaluations),
    ended_before (runs that had stopped by then, counted with their last loss), diverged (runs left out of
    the mean). Only tasks with all four arms.
    """
    compared = records.comparable
    rows = []
    for task in compared.tasks:
        if not set(CELLS.values()) <= set(compared.arms(task)):
            continue
        rais = compared.of(task, "rais")
        ends = {
            run["seed"]: rais.wide(run)["examples"].iloc[-1]
            for _, run in rais.runs.iterrows()
            if run["status"] == "done"
        }
        for (draws, multiplier), arm in CELLS.items():
            cell = _cell(compared.of(task, arm), ends)
            rows.append({"task": task, "draws": draws, "multiplier": multiplier, "arm": arm, **cell})
    return pd.DataFrame(rows, columns=TABLE_COLUMNS)


def _cell(records: Records, ends: dict[int, int]) -> dict[str, float]:
    """One cell: the runs of `records` whose seed is in `ends`, each at the number of examples given there."""
    losses, epochs, ended_before, diverged = [], [], 0, 0
    for _, run in records.runs[records.runs["seed"].isin(ends)].iterrows():
        if run["status"] == "diverged":
            diverged += 1
            continue
        wide, examples = records.wide(run), ends[run["seed"]]
        losses.append(np.exp(np.interp(examples, wide["examples"], np.log(wide["train_loss"]))))
        epochs.append(examples / run["n"])
        ended_before += int(wide["examples"].iloc[-1] < examples)
    low, high = stats.bootstrap_interval(losses)
    return {
        "n_seeds": len(losses),
        "epochs": float(np.mean(epochs)) if epochs else np.nan,
        "train_loss": float(np.mean(losses)) if losses else np.nan,
        "train_loss_low": low,
        "train_loss_high": high,
        "ended_before": ended_before,
        "diverged": diverged,
    }


def _draw_cells(axes: Axes, table: pd.DataFrame) -> None:
    """The table as a grid of four cells, darker for a lower loss."""
    loss = table["train_loss"].to_numpy().reshape(2, 2)
    axes.imshow(np.log(loss), cmap=LinearSegmentedColormap.from_list("loss", ["#C9D9E6", "#F3F6F9"]))
    for place, (_, cell) in zip(np.ndindex(2, 2), table.iterrows(), strict=True):
        row, column = place
        loss_text, detail = _texts(cell)
        axes.text(column, row - 0.1, loss_text, ha="center", va="center", fontsize=14)
        axes.text(column, row + 0.14, detail, ha="center", va="center", fontsize=7.5)
        handle = style.look(cell["arm"]).handle()
        handle.set_data([column - 0.14, column, column + 0.14], [row + 0.35] * 3)
        handle.set_markevery([1])
        axes.add_line(handle)
    axes.set(xticks=[0, 1], xticklabels=["1", "RAIS's"], yticks=[0, 1], yticklabels=["uniform", "RAIS"])
    axes.set(xlabel="learning-rate multiplier", ylabel="draws")
    axes.set_title(f"training loss after {table['epochs'].mean():.2f} epochs")
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)


def _texts(cell: pd.Series) -> tuple[str, str]:
    """What one cell says: its loss, and the interval and the number of seeds below it."""
    n = f"n = {cell['n_seeds']}" + (f", {cell['diverged']} diverged" if cell["diverged"] else "")
    if np.isnan(cell["train_loss"]):
        return "–", n
    low, high = cell["train_loss_low"], cell["train_loss_high"]
    return f"{cell['train_loss']:.4f}", n if np.isnan(low) else f"[{low:.4f}, {high:.4f}], {n}"
