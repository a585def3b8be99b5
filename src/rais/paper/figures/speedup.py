"""The table of speed-ups as a picture: one row a task and arm, every seed a dot.

A dot is the cost of uniform with a seed over the cost of the arm with the same seed; the bar is the interval of the
ratio of medians, from eight seeds on, which the marker shows. Runs that do not reach the target are counted, not drawn.
The axis is logarithmic.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rais.paper.analysis import speedup as stats
from rais.paper.analysis.final import final_table
from rais.paper.analysis.intervals import SEEDS
from rais.paper.analysis.rises import rises_table, steadiness_table
from rais.paper.figures import style
from rais.paper.figures.needs import Needs
from rais.paper.records.read import Records

ARMS = ("rais", "rais_spaced", "oracle")
NEEDS = Needs(
    experiments=("curves task=<task>",),
    origin="20 % to more than 2× [seen]; the measure ours",
    arms=("uniform", "rais"),
    tables={
        "speedup": stats.speedup_table,
        "final": final_table,
        "steadiness": steadiness_table,
        "rises": rises_table,
    },
)


@style.styled
def make(records: Records, task: str) -> Figure:
    """All tasks with speed-ups of ARMS; `task` is one of them."""
    table = stats.speedup_table(records)
    table = table[table["arm"].isin(ARMS) & table["examples_speedup"].notna()].reset_index(drop=True)
    runs = stats.run_table(records.comparable)
    figure = Figure(figsize=(9.6, 0.9 + 0.5 * max(len(table), 1)))
    axes = figure.subplots()
    axes.axvline(1, color=style.look("uniform").color, lw=1, ls=style.look("uniform").line)
    ratios = [_ratios(runs, row) for _, row in table.iterrows()]
    style.ratio_axis(axes, "x", np.concatenate([*ratios, table[["examples_low", "examples_high"]].to_numpy().ravel()]))
    for place, row in table.iterrows():
        _draw(axes, place, row, ratios[place])
        words = f"{stats.speedup_text(row, 'examples')}; {row['reached']} of {row['n_seeds']} reach it"
        remarks = stats.remarks_on_examples(row)
        for below, text, size, color in ((-0.1, words, 8.5, style.BLACK), (0.26, remarks, 6.5, style.GREY)):
            beside = axes.get_yaxis_transform()
            axes.text(1.02, place + below, text, transform=beside, va="center", fontsize=size, color=color)
    axes.set_yticks(
        range(len(table)), [f"{row['task']}, {style.look(row['arm']).label}" for _, row in table.iterrows()]
    )
    axes.set_ylim(len(table) - 0.4, -0.6)
    axes.set(xlabel="speed-up over uniform SGD, examples (×)", ylabel="task, arm")
    axes.grid(axis="y", visible=False)
    return figure


def _ratios(runs: pd.DataFrame, row: pd.Series) -> np.ndarray:
    """The same-seed ratios of the arm of `row`, shape (pairs,)."""
    of_task = runs[runs["task"] == row["task"]]
    uniform, arm = (
        of_task[of_task["arm"] == name].set_index("seed")["examples_cost"] for name in ("uniform", row["arm"])
    )
    return (uniform / arm).dropna().to_numpy(float)


def _draw(axes: Axes, place: float, row: pd.Series, ratios: np.ndarray) -> None:
    """One row: its seeds as dots, the ratio of medians as marker, its interval as a bar."""
    look = style.look(row["arm"])
    if row["n_seeds"] >= SEEDS and np.isfinite([row["examples_low"], row["examples_high"]]).all():
        low = max(row["examples_low"], axes.get_xlim()[0])
        axes.plot([low, row["examples_high"]], [place, place], color=look.color, ls="-", lw=1.6)
    finite = ratios[np.isfinite(ratios) & (ratios > 0)]
    axes.plot(
        finite, place + np.linspace(0.1, 0.3, len(finite)), color=look.color, marker="o", ms=3, mew=0, ls="", alpha=0.6
    )
    if 0 < row["examples_speedup"] < np.inf:
        axes.plot(row["examples_speedup"], place, color=look.color, marker=look.marker, ms=6, ls="", clip_on=False)
