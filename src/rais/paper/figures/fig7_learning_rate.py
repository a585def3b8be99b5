"""Figure 7, learning rate: whether plain SGD was given a good one.

Uniform SGD's final training loss and test error against multiples of the learning rate that all arms share, with
RAIS at the default for reference. A comparison with SGD means little where the best multiple lies far from 1.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rais.paper.analysis import sensitivity
from rais.paper.analysis import speedup as stats
from rais.paper.figures import style
from rais.paper.records.read import Records


@style.styled
def make(records: Records, task: str = "mnist") -> Figure:
    """Two panels on logarithmic axes: final training loss and test error."""
    table = sensitivity.sensitivity_table(records.of(task))
    rows = table[(table["sweep"] == "lr") & (table["arm"] == "uniform") & (table["n_seeds"] > 0)]
    final = stats.final_table(records.of(task))
    rais = final[final["arm"] == "rais"]
    figure = Figure(figsize=(8.2, 3.4))
    loss, error = figure.subplots(1, 2)
    _draw(loss, rows, rais, "final_train_loss")
    _draw(error, _in_percent(rows), _in_percent(rais), "test_error")
    shown = ["uniform", *(["rais"] if len(rais) else [])]
    style.legend(figure, map(style.look, shown), loc="outside upper center", ncols=2)
    return figure


def _draw(axes: Axes, rows: pd.DataFrame, rais: pd.DataFrame, name: str) -> None:
    multiples = rows["value"].astype(float) / float(sensitivity.SWEEPS["lr"])
    axes.set_xscale("log")
    style.points(axes, multiples, rows, name, style.look("uniform"))
    for _, row in rais.iterrows():
        style.reference(axes, row, name, style.look("rais"))
    for multiple, diverged in zip(multiples, rows["diverged"], strict=True):
        style.write_tally(axes, multiple, diverged, never=0)
    style.name_places(axes, multiples, [f"{multiple:.3g}×" for multiple in multiples])
    axes.set(xlabel="multiple of the default learning rate", ylabel=style.AXIS_LABELS[name])
    style.log_axis(axes)


def _in_percent(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(**{column: 100 * rows[column] for column in rows if column.startswith("test_error")})
