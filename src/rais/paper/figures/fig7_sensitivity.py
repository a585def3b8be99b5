"""Figure 7, sensitivity: what becomes of the speed-up when a setting of RAIS is changed.

One column a setting: the number of visits |D|, the rate α of the gain ratio's moving averages, the features, the
minibatch size m. Above the speed-up with its interval at L* and, dashed, at 2 L*, which fewer runs miss by chance;
below the share of a step that the sampler takes. The headline runs are the default value, marked by a dotted line.
"""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rais.paper.analysis import sensitivity
from rais.paper.figures import style
from rais.paper.records.read import Records

PANELS = {"visits": "visits $|D|$", "alpha": r"rate $\alpha$", "features": "features", "batch_size": "minibatch $m$"}


@style.styled
def make(records: Records, task: str = "mnist") -> Figure:
    """Two rows (speed-up, share of the sampler) by a column a setting."""
    table = sensitivity.sensitivity_table(records.of(task))
    figure = Figure(figsize=(11.0, 4.8))
    grid = figure.subplots(2, len(PANELS), sharey="row", sharex="col")
    for (speedup, share), sweep in zip(grid.T, PANELS, strict=True):
        _draw_sweep(speedup, share, table[(table["sweep"] == sweep) & (table["n_seeds"] > 0)], sweep)
        share.set_xlabel(PANELS[sweep])
    grid[0, 0].set_ylabel(style.AXIS_LABELS["speedup"])
    grid[1, 0].set_ylabel(style.AXIS_LABELS["sampler_share"])
    for axes in grid[:, 0]:
        axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
    arms = [arm for arm in style.ARMS if arm in set(table[table["sweep"].isin(PANELS)]["arm"])]
    shown = [*map(style.look, arms), *(_earlier(arm) for arm in arms if arm != "uniform")]
    style.legend(figure, shown, loc="outside upper center", ncols=len(shown))
    return figure


def _earlier(arm: str) -> style.Look:
    """The look of an arm's speed-up at 2 L*."""
    look = style.look(arm)
    return replace(look, label=f"{look.label} at 2 L*", color=style.ORANGE, line=(0, (3, 1.5)), marker="o", width=1.2)


def _draw_sweep(speedup: Axes, share: Axes, rows: pd.DataFrame, sweep: str) -> None:
    """One column of panels; where nobody has run the sweep, the command that does."""
    if rows.empty:
        for axes in (speedup, share):
            axes.set_xticks([])
            style.say(axes, f"not run:\nexperiment=\nsweep_{sweep}")
        return
    values = list(dict.fromkeys(rows["value"]))
    try:
        places = {value: float(value) for value in values}
        speedup.set_xscale("log")
    except ValueError:
        places = {value: float(place) for place, value in enumerate(values)}
    for arm, of_arm in rows.groupby("arm", sort=False):
        x = of_arm["value"].map(places)
        percent = of_arm.assign(**{c: 100 * of_arm[c] for c in of_arm if c.startswith("sampler_share")})
        style.points(share, x, percent, "sampler_share", style.look(arm))
        if arm != "uniform":
            style.points(speedup, x, of_arm, "examples_speedup", style.look(arm), ends="examples")
            style.points(speedup, x, of_arm, "twice_speedup", _earlier(arm), ends="twice")
            for place, diverged, never in zip(x, of_arm["diverged"], of_arm["never"], strict=True):
                style.write_tally(speedup, place, diverged, never)
    for axes in (speedup, share):
        axes.axvline(places[sensitivity.SWEEPS[sweep]], color=style.GREY, lw=0.8, ls=(0, (1, 2)), zorder=0)
        style.name_places(axes, list(places.values()), [value.replace("_", "\n") for value in values])
    speedup.axhline(1, color=style.look("uniform").color, lw=0.8, zorder=0)
    speedup.tick_params(labelbottom=False)
