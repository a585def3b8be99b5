"""The speed-up by the loss that is asked for: when an arm gains.

The speed-ups of the table are taken at the target of each task. Here is what they are at multiples of it, on the way
there, one line a task: RAIS, its evenly spaced draws, and the oracle. Both axes are logarithmic; where the median run
does not get to a loss, the line has a gap.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rais.paper.analysis import by_loss
from rais.paper.analysis.intervals import SEEDS
from rais.paper.figures import style
from rais.paper.figures.needs import Needs
from rais.paper.records.read import Records

TICKS = (100, 30, 10, 5, 3, 2, 1)
NEEDS = Needs(experiments=("curves task=<task>",), arms=("uniform", "rais"), tables={"by_loss": by_loss.by_loss_table})


@style.styled
def make(records: Records, task: str) -> Figure:
    """A panel for each arm of by_loss.ARMS that there is, all tasks in it; `task` is one of them."""
    table = by_loss.by_loss_table(records)
    arms = [arm for arm in by_loss.ARMS if arm != "uniform" and arm in set(table["arm"])]
    figure = Figure(figsize=(1.6 + 3.6 * max(len(arms), 1), 4.2))
    panels = figure.subplots(1, max(len(arms), 1), squeeze=False, sharey=True)[0]
    for axes, arm in zip(panels, arms, strict=False):
        _draw(axes, table[table["arm"] == arm], style.look(arm).label)
    if not arms:
        style.say(panels[0], "no task has a target")
        return figure
    panels[0].set_ylabel(style.AXIS_LABELS["speedup"])
    style.ratio_axis(panels[0], "y", table.loc[table["arm"].isin(arms), ["examples_speedup", "examples_high"]].stack())
    shown = [name for name in records.tasks if name in set(table[table["arm"].isin(arms)]["task"])]
    style.legend(figure, map(style.look, shown), loc="outside upper center", ncols=min(len(shown), 6))
    return figure


def _draw(axes: Axes, rows: pd.DataFrame, title: str) -> None:
    axes.set_xscale("log")
    for task, of_task in rows.groupby("task"):
        look, known = style.look(task), of_task[np.isfinite(of_task["examples_speedup"])]
        known = known.replace({"examples_speedup": {0: np.nan}})
        axes.plot(known["factor"], known["examples_speedup"], color=look.color, ls=look.line, marker=look.marker)
        banded = known[(known["n_seeds"] >= SEEDS) & np.isfinite(known[["examples_low", "examples_high"]]).all(axis=1)]
        axes.fill_between(
            banded["factor"], banded["examples_low"], banded["examples_high"], color=look.color, alpha=0.15, lw=0
        )
    axes.axhline(1, color=style.look("uniform").color, lw=0.8, zorder=0)
    style.name_places(axes, TICKS, [f"{tick:g}" for tick in TICKS])
    axes.set(xlim=(130, 0.85), xlabel="loss asked for, in units of the target")
    axes.set_title(title)
