"""What each of the two changes does: the two by two of sampling and learning-rate multiplier.

Uniform or RAIS's draws, with the multiplier at 1 or that of RAIS: the curves of the four arms by examples
used, and their training loss at the number of examples at which, for the same seed, the rais arm ended.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from rais.paper.analysis.two_by_two import CELLS, two_by_two_table
from rais.paper.figures import style
from rais.paper.figures.needs import Needs
from rais.paper.records.read import Records

NEEDS = Needs(
    experiments=("two_by_two",),
    tasks=("mnist", "digits"),
    arms=tuple(CELLS.values()),
    tables={"two_by_two": two_by_two_table},
)


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


def _draw_cells(axes: Axes, table: pd.DataFrame) -> None:
    """The table as a grid of four cells, darker for a lower loss."""
    loss = table["train_loss"].to_numpy(float).reshape(2, 2)
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
    axes.set_title(f"{table['task'].iloc[0]}: training loss after {table['epochs'].median():.1f} epochs")
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)


def _texts(cell: pd.Series) -> tuple[str, str]:
    """What one cell says: its loss, and the range and the number of seeds below it."""
    n = f"n = {cell['n_seeds']}" + (f", {cell['diverged']} diverged" if cell["diverged"] else "")
    if np.isnan(cell["train_loss"]):
        return "–", n
    return f"{cell['train_loss']:.4f}", f"{cell['train_loss_low']:.4f} to {cell['train_loss_high']:.4f}\n{n}"
