"""What draws cost that are independent, and what evenly spaced ones give back.

Epochs of examples to the target for four ways to draw: uniform with replacement, uniform as plain SGD reshuffles, RAIS
with the paper's independent draws, RAIS with evenly spaced ones. One panel a task, every seed a dot.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rais.paper.analysis.speedup import run_table
from rais.paper.figures import style
from rais.paper.figures.needs import Needs
from rais.paper.records.read import Records

ARMS = {
    "uniform_with_replacement": "uniform,\nindependent",
    "uniform": "uniform,\nreshuffled",
    "rais": "RAIS,\nindependent",
    "rais_spaced": "RAIS,\nevenly spaced",
}
NEEDS = Needs(
    experiments=("spaced task=<task>", "with_replacement task=<task>"), arms=("uniform", "rais", "rais_spaced")
)


@style.styled
def make(records: Records, task: str) -> Figure:
    """A panel for every task with runs of `rais_spaced`; `task` is one of them."""
    tasks = NEEDS.tasks_in(records)
    table = run_table(records.comparable)
    figure = Figure(figsize=(1.0 + 3.0 * len(tasks), 3.6))
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    for axes, name in zip(panels, tasks, strict=True):
        _draw(axes, table[table["task"] == name], name)
    panels[0].set_ylabel("epochs to the target")
    return figure


def _draw(axes: Axes, table: pd.DataFrame, task: str) -> None:
    arms = [arm for arm in ARMS if arm in set(table["arm"])]
    for place, arm in enumerate(arms):
        runs = table[table["arm"] == arm]
        style.dots(axes, place, runs["epochs_to_target"], style.look(arm))
        style.write_tally_of(axes, place, runs)
    style.name_places(axes, range(len(arms)), [ARMS[arm] for arm in arms])
    axes.tick_params(axis="x", labelsize=7)
    axes.set(xlim=(-0.5, len(arms) - 0.5), xlabel=task)
    axes.set_ylim(bottom=0)
