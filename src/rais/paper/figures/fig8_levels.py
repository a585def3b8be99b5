"""Figure 8, levels: the speed-up by the loss that is asked for.

The speed-ups of the table are taken at L*, the loss that uniform SGD ends with. Here is what they are at multiples of
it, on the way there, one line a task: RAIS on the left, the oracle on the right.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rais.paper.analysis import levels
from rais.paper.figures import style
from rais.paper.records.read import Records

TICKS = (100, 30, 10, 5, 3, 2, 1)


@style.styled
def make(records: Records, task: str) -> Figure:
    """A panel for each of the arms rais and oracle that there is, all tasks in it; `task` is one of them."""
    table = levels.levels_table(records)
    arms = [arm for arm in levels.ARMS if arm != "uniform" and arm in set(table["arm"])]
    figure = Figure(figsize=(1.6 + 4.2 * len(arms), 4.2))
    for axes, arm in zip(figure.subplots(1, len(arms), squeeze=False)[0], arms, strict=True):
        _draw(axes, table[table["arm"] == arm], style.look(arm).label)
    shown = [name for name in records.tasks if name in set(table[table["arm"].isin(arms)]["task"])]
    style.legend(figure, map(style.look, shown), loc="outside upper center", ncols=len(shown))
    return figure


def _draw(axes: Axes, rows: pd.DataFrame, title: str) -> None:
    axes.set_xscale("log")
    for task, of_task in rows.groupby("task"):
        style.points(axes, of_task["factor"], of_task, "examples_speedup", style.look(task), ends="examples")
    axes.axhline(1, color=style.look("uniform").color, lw=0.8, zorder=0)
    style.name_places(axes, TICKS, [f"{tick:g}" for tick in TICKS])
    axes.set(xlim=(130, 0.85), xlabel="loss asked for, in units of $L^*$", ylabel=style.AXIS_LABELS["speedup"])
    axes.set_ylim(bottom=0)
    axes.set_title(title)
