"""What each cure of the recipe does: RAIS with one of them taken out, beside the whole recipe.

Epochs of examples to the target, the largest weight of a run and the largest rise of its training loss, one row a task,
every run a dot; the broken line and its band are uniform SGD. A cure that does nothing shows as dots that do not move.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rais.paper.analysis.ablation import LABEL, ablation_table
from rais.paper.analysis.rises import with_rises
from rais.paper.analysis.speedup import run_table
from rais.paper.figures import style
from rais.paper.figures.needs import Needs
from rais.paper.records.read import COMPLETE, Records

PANELS = {
    "epochs_to_target": "epochs to the target",
    "run_largest_weight": "largest weight",
    "rise": "largest rise of the loss (×)",
}
NEEDS = Needs(
    experiments=("ablation task=<task>",),
    arms=("rais",),
    kind="variants",
    labels=(LABEL,),
    tables={"ablation": ablation_table},
)


@style.styled
def make(records: Records, task: str) -> Figure:
    """Three panels a task with runs of such variants; `task` is one of them."""
    tasks = NEEDS.tasks_in(records)
    figure = Figure(figsize=(11.0, 1.0 + 2.6 * len(tasks)))
    for row, name in zip(figure.subplots(len(tasks), 3, squeeze=False), tasks, strict=True):
        _draw_task(row, records.of(name), name)
    return figure


def _draw_task(row: np.ndarray, records: Records, task: str) -> None:
    runs = records.runs
    kept = runs["status"].isin(COMPLETE) & ~runs["diagnostic"] & runs["arm"].isin(("rais", "uniform"))
    kept &= (runs["variant"] == "") | (runs["variant"].str.startswith(LABEL) & (runs["arm"] == "rais"))
    table = run_table(records.where(kept))
    table = table.join(with_rises(records.where(kept))[["rise", "run_largest_weight"]])
    rais, uniform = (table[table["arm"] == arm] for arm in ("rais", "uniform"))
    variants = ["", *sorted(v for v in rais["variant"].unique() if v)]
    for axes, (column, label) in zip(row, PANELS.items(), strict=True):
        _draw(axes, [rais[rais["variant"] == v] for v in variants], uniform[column], column)
        places = [v.removeprefix(LABEL).replace("_", "\n") or "whole\nrecipe" for v in variants]
        style.name_places(axes, range(len(places)), places)
        axes.tick_params(axis="x", labelsize=7)
        axes.set(ylabel=label, xlabel=f"{task}: without")


def _draw(axes: Axes, points: list[pd.DataFrame], uniform: pd.Series, column: str) -> None:
    look = style.look("rais")
    if column != "run_largest_weight":
        style.reference(axes, uniform, style.look("uniform"))
    for place, runs in enumerate(points):
        style.dots(axes, place, runs[column], look)
        if column == "epochs_to_target":
            style.write_tally_of(axes, place, runs)
    if column != "epochs_to_target":
        style.log_axis(axes)
    axes.set_xlim(-0.5, len(points) - 0.5)
