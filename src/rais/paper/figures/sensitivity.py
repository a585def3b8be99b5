"""What becomes of RAIS when one of its settings is changed.

One column a setting: the number of visits |D|, the rate α of the gain ratio's moving averages, the features, the
minibatch size m. Above the epochs of examples to the target, every seed a dot; below the share of a step that the
sampler takes. The headline runs of the sweep's seeds are the default value, marked by a dotted line.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rais.paper.analysis import sensitivity
from rais.paper.analysis.intervals import median
from rais.paper.figures import style
from rais.paper.figures.needs import Needs
from rais.paper.records.read import Records

PANELS = {"visits": "visits $|D|$", "alpha": r"rate $\alpha$", "features": "features", "batch_size": "minibatch $m$"}
NEEDS = Needs(
    experiments=tuple(f"sweep_{sweep}" for sweep in PANELS),
    tasks=("mnist",),
    arms=("rais",),
    kind="variants",
    labels=tuple(f"{sweep}_" for sweep in PANELS),
    tables={"sensitivity": sensitivity.sensitivity_table},
)


@style.styled
def make(records: Records, task: str = "mnist") -> Figure:
    """Two rows (epochs to the target, share of the sampler) by a column a setting."""
    table = sensitivity.seeds_table(records.of(task))
    table["percent"] = 100 * table["sampler_share"]
    figure = Figure(figsize=(11.0, 4.8))
    grid = figure.subplots(2, len(PANELS), sharey="row", sharex="col")
    for (cost, share), sweep in zip(grid.T, PANELS, strict=True):
        _draw_sweep(cost, share, table[table["sweep"] == sweep], sweep)
        share.set_xlabel(PANELS[sweep])
    grid[0, 0].set_ylabel("epochs to the target")
    grid[1, 0].set_ylabel(style.AXIS_LABELS["sampler_share"])
    for axes in grid[:, 0]:
        axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
    shown = [arm for arm in style.ARMS if arm in set(table[table["sweep"].isin(PANELS)]["arm"])]
    style.legend(figure, map(style.look, shown), loc="outside upper center", ncols=len(shown))
    return figure


def _draw_sweep(cost: Axes, share: Axes, rows: pd.DataFrame, sweep: str) -> None:
    """One column of panels; where nobody has run the sweep, the experiment that does."""
    if rows.empty:
        for axes in (cost, share):
            axes.set_xticks([])
            style.say(axes, f"not run:\nexperiment=\nsweep_{sweep}")
        return
    values = list(dict.fromkeys(rows["value"]))
    try:
        places = {value: float(value) for value in values}
        cost.set_xscale("log")
    except ValueError:
        places = {value: float(place) for place, value in enumerate(values)}
    for arm, of_arm in rows.groupby("arm", sort=False):
        look = style.look(arm)
        points = {value: of_value for value, of_value in of_arm.groupby("value", sort=False)}
        for axes, name in ((cost, "epochs_to_target"), (share, "percent")):
            x = [places[value] for value in points]
            style.joined(axes, x, [median(of_value[name]) for of_value in points.values()], look)
            for place, of_value in zip(x, points.values(), strict=True):
                style.dots(axes, place, of_value[name], look)
    for value, place in places.items():
        style.write_tally_of(cost, place, rows[rows["value"] == value])
    for axes in (cost, share):
        if sensitivity.SWEEPS[sweep] in places:
            axes.axvline(places[sensitivity.SWEEPS[sweep]], color=style.GREY, lw=0.8, ls=(0, (1, 2)), zorder=0)
        style.name_places(axes, list(places.values()), [value.replace("_", "\n") for value in values])
    cost.tick_params(labelbottom=False)
