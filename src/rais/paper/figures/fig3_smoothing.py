"""Figure 3: how much smoothing, if it is to be chosen by hand.

Smoothed sampling over δ against RAIS, which learns its smoothing, and uniform sampling: speed-up, final training
loss, and the learning curves. Runs that diverged and runs that never were at L* are counted above the points; they
have a speed-up of 0, and those that diverged no final loss.
"""

from __future__ import annotations

import re

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rais.paper.analysis import speedup as stats
from rais.paper.figures import style
from rais.paper.records.read import Records

REFERENCES = ("uniform", "rais")
POINTS = style.Look("smoothed", style.SKY, "-", "s", 1.4)


@style.styled
def make(records: Records, task: str = "mnist") -> Figure:
    """Three panels: speed-up and final loss against δ, and the training loss of every δ."""
    compared = records.comparable.of(task)
    deltas = _deltas(compared.arms(task))
    table = _table(compared)
    references = [arm for arm in REFERENCES if arm in table.index]
    figure = Figure(figsize=(9.6, 5.2))
    grid = figure.add_gridspec(2, 2, width_ratios=(1.1, 1))
    speedup = figure.add_subplot(grid[0, 0])
    _draw(speedup, table, deltas, references, "speedup")
    speedup.tick_params(labelbottom=False)
    for place, arm in enumerate([*deltas, *(["rais"] if "rais" in references else [])]):
        style.write_tally(speedup, place, *table.loc[arm, ["diverged", "never"]])
    loss = figure.add_subplot(grid[1, 0], sharex=speedup)
    _draw(loss, table, deltas, references, "final_train_loss")
    loss.set_xlabel("δ of smoothed sampling")
    curves = figure.add_subplot(grid[:, 1])
    runs = style.runs_by_arm(compared)
    shown = [*references, *deltas]
    style.draw_arms(curves, {arm: runs[arm] for arm in shown}, "epoch", "train_loss", log=True)
    style.legend(figure, map(style.look, shown), loc="outside upper center", ncols=4)
    return figure


def _deltas(arms: list[str]) -> dict[str, float]:
    """δ of every arm of plain smoothed sampling, in increasing order."""
    found = {arm: re.fullmatch(r"smoothed_([\d.]+(?:e-?\d+)?)", arm) for arm in arms}
    return dict(sorted(((arm, float(m.group(1))) for arm, m in found.items() if m), key=lambda pair: pair[1]))


def _table(compared: Records) -> pd.DataFrame:
    """By arm: speedup and final_train_loss with their intervals, diverged, never."""
    speedup = stats.speedup_table(compared).set_index("arm")
    final = stats.final_table(compared).set_index("arm")
    table = final[["final_train_loss", "final_train_loss_low", "final_train_loss_high"]].copy()
    for name, source in (("speedup", "examples_speedup"), ("speedup_low", "examples_low")):
        table[name] = speedup[source]
    table["speedup_high"] = speedup["examples_high"]
    tallies = {arm: stats.tally(runs) for arm, runs in stats.run_table(compared).groupby("arm")}
    table[["diverged", "never"]] = [tallies[arm] for arm in table.index]
    return table


def _draw(axes: Axes, table: pd.DataFrame, deltas: dict[str, float], references: list[str], name: str) -> None:
    """Even places for the values of δ, since 0 has none on a logarithmic axis, and one for RAIS."""
    for arm in references:
        style.reference(axes, table.loc[arm], name, style.look(arm))
    style.points(axes, range(len(deltas)), table.loc[list(deltas)], name, POINTS)
    names = [f"{delta:g}" for delta in deltas.values()]
    if "rais" in references:
        style.points(axes, [len(deltas)], table.loc[["rais"]], name, style.look("rais"))
        names.append("RAIS")
    style.name_places(axes, range(len(names)), names)
    axes.set(xlim=(-0.5, len(names) - 0.5), ylabel=style.AXIS_LABELS[name])
    axes.set_ylim(bottom=0)
