"""Seconds to the target, and where they go: one panel a task, one bar an arm, median over the seeds that get there.

On a CPU they are CPU seconds of the training steps; evaluations are not in them. Coloured are the norms of the loss
layer, the sampler with its solves of (PT), and the gain ratio with φ; plain SGD has there its own draws alone.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from rais.paper.analysis.seconds import PHASES, seconds_table
from rais.paper.figures import style
from rais.paper.figures.needs import Needs
from rais.paper.records.read import Records

COLORS = {
    **dict(zip(("forward", "backward", "step", "data"), ("#D9D9D9", "#BDBDBD", "#A3A3A3", "#EDEDED"), strict=True)),
    "norms": style.SKY,
    "sampler": style.VERMILLION,
    "gain": style.ORANGE,
}
NEEDS = Needs(
    experiments=("curves task=<task>",),
    tasks=("mnist", "digits", "cifar10_resnet8"),
    arms=("uniform", "rais"),
    tables={"seconds": seconds_table},
)


@style.styled
def make(records: Records, task: str) -> Figure:
    """A panel for every task of NEEDS with runs at the target; `task` is one of them."""
    table = seconds_table(records)
    tasks = [name for name in NEEDS.tasks_in(records) if name in set(table["task"])]
    if not tasks:
        figure = Figure(figsize=(8.2, 2.0))
        style.say(figure.subplots(), "no run at the target recorded the seconds of each phase")
        return figure
    counts = [(table["task"] == name).sum() for name in tasks]
    figure = Figure(figsize=(8.2, 1.2 + 0.55 * sum(counts) + 0.35 * len(tasks)))
    panels = figure.subplots(len(tasks), 1, squeeze=False, height_ratios=counts)[:, 0]
    for axes, name in zip(panels, tasks, strict=True):
        _draw(axes, table[table["task"] == name], name)
    handles = [Patch(color=COLORS[phase], label=phase) for phase in PHASES]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), handlelength=1.0)
    return figure


def _draw(axes: Axes, table: pd.DataFrame, task: str) -> None:
    places = np.arange(len(table))
    left = np.zeros(len(table))
    for phase in PHASES:
        axes.barh(places, table[phase], left=left, color=COLORS[phase], height=0.7)
        left += table[phase].to_numpy(float)
    for place, end, (_, row) in zip(places, left, table.iterrows(), strict=True):
        axes.text(end, place, f" {row['seconds']:.0f} s, {row['n_seeds']} seeds", va="center", fontsize=7.5)
    axes.set_yticks(places, [style.look(arm).label for arm in table["arm"]])
    axes.invert_yaxis()
    axes.set_xlim(right=1.18 * left.max())
    axes.set(title=task, xlabel=style.AXIS_LABELS["seconds"], ylabel="arm")
    axes.grid(axis="y", visible=False)
