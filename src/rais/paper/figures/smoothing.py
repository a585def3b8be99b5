"""How much smoothing, if it is to be chosen by hand.

Smoothed sampling over δ against RAIS, which learns its smoothing, and uniform sampling, one row a task: epochs of
examples to the target, final training loss, and the learning curves. Every seed is a dot; runs that diverged, and
others that missed the target, are counted above them.
"""

from __future__ import annotations

import re

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rais.paper.analysis import speedup as stats
from rais.paper.figures import style
from rais.paper.figures.needs import Needs
from rais.paper.records.read import Records

REFERENCES = ("uniform", "rais")
POINTS = style.Look("smoothed", style.SKY, "-", "s", 1.4)
PANELS = {"epochs_to_target": "epochs to the target", "final_train_loss": style.AXIS_LABELS["final_train_loss"]}
NEEDS = Needs(
    experiments=("smoothing", "smoothing task=cifar10_small"),
    origin="figure of the poster [seen]",
    tasks=("mnist", "digits", "cifar10_small"),
    arms=("uniform", "smoothed_0.1"),
    a_task_each=True,
)


@style.styled
def make(records: Records, task: str = "mnist") -> Figure:
    """Three panels: examples to the target and final loss against δ, and the training loss of every δ."""
    compared = records.comparable.of(task)
    table = stats.run_table(compared)
    deltas = _deltas(compared.arms(task))
    references = [arm for arm in REFERENCES if arm in compared.arms(task)]
    figure = Figure(figsize=(9.6, 5.2))
    grid = figure.add_gridspec(2, 2, width_ratios=(1.1, 1))
    cost = figure.add_subplot(grid[0, 0])
    loss = figure.add_subplot(grid[1, 0], sharex=cost)
    for axes, name in ((cost, "epochs_to_target"), (loss, "final_train_loss")):
        _draw(axes, table, deltas, references, name)
    cost.tick_params(labelbottom=False)
    cost.set_ylim(bottom=0)
    style.log_axis(loss)
    for place, arm in enumerate([*deltas, *(["rais"] if "rais" in references else [])]):
        runs = table[table["arm"] == arm]
        style.write_tally_of(cost, place, runs)
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


def _draw(axes: Axes, table: pd.DataFrame, deltas: dict[str, float], references: list[str], name: str) -> None:
    """Even places for the values of δ, since 0 has none on a logarithmic axis, and one for RAIS."""
    values = {arm: runs[name].to_numpy(float) for arm, runs in table.groupby("arm")}
    for arm in references:
        style.reference(axes, values[arm], style.look(arm))
    style.joined(axes, range(len(deltas)), [style.median(values[arm]) for arm in deltas], POINTS)
    for place, arm in enumerate(deltas):
        style.dots(axes, place, values[arm], POINTS)
    names = [f"{delta:g}" for delta in deltas.values()]
    if "rais" in references:
        style.dots(axes, len(deltas), values["rais"], style.look("rais"))
        names.append("RAIS")
    style.name_places(axes, range(len(names)), names)
    axes.set(xlim=(-0.5, len(names) - 0.5), ylabel=PANELS[name])
