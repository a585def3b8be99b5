"""Where the possible gain is lost: one panel a task, from the best that any sampling could do down to what RAIS takes.

Each line is one number at the same moments of a run, on a logarithmic axis, and the band between two lines is what is
lost on the step from one to the next: because an example's past says little of its next norm, because the set could be
better, because ρ is estimated too low, or because the gradient is not all noise. The widest band names the cause.

symbol    code             unit
ρ         oracle_rho, hindsight_rho, true_rho, rho      1, see analysis/headroom.py
r         gain_ratio       1
"""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from rais.paper.analysis import headroom
from rais.paper.analysis.curves import median_curve
from rais.paper.figures import style
from rais.paper.figures.needs import Needs
from rais.paper.records.read import Records

TASKS = ("mnist", "digits", "cifar10_small", "cifar10_resnet8", "rot_mnist")
LINES = {
    "oracle_rho": style.Look("ρ of the oracle", style.BLUE, "-", "s"),
    "hindsight_rho": style.Look("ρ of the best set, in hindsight", style.GREEN, (0, (7, 1.5, 1.2, 1.5)), "^"),
    "true_rho": style.Look("ρ in use", style.BLACK, (0, (5, 1.6)), "o"),
    "rho": style.Look("ρ estimated", style.PURPLE, (0, (1, 1.2)), "v"),
    "gain_ratio": style.Look("gain ratio r", style.VERMILLION, "-", "D", 1.8),
}
BANDS = {
    "memory": ("no memory: the past says little of the next norm", style.SKY),
    "set": ("bad set", style.GREEN),
    "estimate": ("bad estimate", style.PURPLE),
    "noise": ("the gradient is not all noise: φ < 1", style.ORANGE),
}
NEEDS = Needs(
    experiments=("headroom task=<task>",),
    arms=("rais",),
    kind="headroom",
    tables={"headroom": headroom.headroom_table},
)


@style.styled
def make(records: Records, task: str) -> Figure:
    """Panels of TASKS and of others with such runs, in that order, and the legend; `task` is one of them."""
    runs = records.headroom
    found = NEEDS.tasks_in(records)
    tasks = [*(name for name in TASKS if name in found), *(name for name in found if name not in TASKS)]
    columns = min(3, len(tasks) + 1)
    rows = -(-(len(tasks) + 1) // columns)
    figure = Figure(figsize=(3.9 * columns, 3.4 * rows))
    panels = figure.subplots(rows, columns, squeeze=False).flat
    verdicts = headroom.headroom_table(records).set_index(["task", "arm"])["verdict"]
    for name in tasks:
        axes = next(panels)
        _draw(axes, [headroom.moments(runs, run) for _, run in runs.of(name, "rais").runs.iterrows()])
        said = verdicts.get((name, "rais"), "nothing was drawn with importance")
        axes.set_title(f"{name}\n" + "\n".join(textwrap.wrap(said, 52)), fontsize=8)
    corner = next(panels)
    corner.axis("off")
    handles = [look.handle() for look in LINES.values()]
    handles += [Patch(color=color, alpha=0.3, lw=0, label=label) for label, color in BANDS.values()]
    corner.legend(handles=handles, loc="center left")
    for axes in panels:
        axes.axis("off")
    return figure


def _draw(axes: Axes, moments: list[pd.DataFrame]) -> None:
    """Medians over seeds, the steps between them as bands."""
    moments = [table for table in moments if len(table)]
    above: tuple[np.ndarray, np.ndarray] | None = None
    for name, look in LINES.items():
        curves = [(table["epochs_equivalent"], table[name]) for table in moments if table[name].notna().all()]
        if not curves:
            continue
        grid, median, _, _ = median_curve(curves, log=True)
        if above is not None and headroom.STAGES[name] in BANDS:
            upper = np.interp(grid, *above)
            color = BANDS[headroom.STAGES[name]][1]
            axes.fill_between(grid, median, upper, where=upper > median, color=color, alpha=0.3, lw=0)
        axes.plot(grid, median, color=look.color, ls=look.line, lw=look.width)
        above = grid, median
    axes.axhline(1, color=style.GREY, lw=0.8, zorder=0)
    axes.set(xlabel=style.AXIS_LABELS["epochs_equivalent"], ylabel="second moment of uniform / of the sampled")
    axes.set_xlim(left=0)
    style.log_axis(axes)
