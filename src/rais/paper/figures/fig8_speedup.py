"""Figure 8: the table of speed-ups as a picture.

One row a task and arm: the speed-up in examples at L* with its interval over seeds, and hollow the one at 2 L*; the
same in words with the number of seeds, and below it the hardware and what tempers the row. The line at 1 is uniform
SGD; tables/speedup.csv and levels.csv hold the numbers.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rais.paper.analysis import speedup as stats
from rais.paper.figures import style
from rais.paper.records.read import Records

ARMS = ("rais", "oracle")


@style.styled
def make(records: Records, task: str) -> Figure:
    """All tasks with speed-ups of the arms rais or oracle; `task` is one of them."""
    table = stats.speedup_table(records)
    table = table[table["arm"].isin(ARMS) & table["examples_speedup"].notna()].reset_index(drop=True)
    twice = stats.speedup_table(records, factor=2).set_index(["task", "arm"], drop=False)
    hardware = stats.final_table(records).set_index(["task", "arm"])["hardware"]
    figure = Figure(figsize=(9.6, 0.9 + 0.56 * len(table)))
    axes = figure.subplots()
    axes.axvline(1, color=style.look("uniform").color, lw=1, ls=style.look("uniform").line)
    for place, row in table.iterrows():
        earlier = twice.loc[(row["task"], row["arm"])]
        _draw(axes, place + 0.2, earlier, filled=False)
        _draw(axes, place, row, filled=True)
        words = f"{stats.speedup_text(row, 'examples')}, n = {row['n_seeds']}"
        if not np.isnan(earlier["examples_speedup"]):
            words += f"; at 2 L*: {stats.speedup_text(earlier, 'examples')}"
        axes.text(1.02, place, words, transform=axes.get_yaxis_transform(), va="center", fontsize=8.5)
        axes.text(
            1.02,
            place + 0.34,
            "; ".join([hardware[row["task"], row["arm"]], *stats.remarks_on_examples(row["status"])]),
            transform=axes.get_yaxis_transform(),
            va="center",
            fontsize=6.5,
            color=style.GREY,
        )
    axes.set_yticks(
        range(len(table)), [f"{row['task']}, {style.look(row['arm']).label}" for _, row in table.iterrows()]
    )
    axes.set_ylim(len(table) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.set(xlabel="speed-up over uniform SGD, examples (×); hollow: at 2 L*", ylabel="task, arm")
    axes.grid(axis="y", visible=False)
    return figure


def _draw(axes: Axes, place: float, row: pd.Series, *, filled: bool) -> None:
    """One speed-up in examples with its interval, where there is one."""
    look = style.look(row["arm"])
    if row["examples_low"] < row["examples_high"]:
        ends = [row["examples_low"], row["examples_high"]]
        axes.plot(ends, [place, place], color=look.color, ls="-", lw=1.6 if filled else 0.8)
    face = look.color if filled else "white"
    axes.plot(
        row["examples_speedup"], place, color=look.color, marker=look.marker, mfc=face, ms=6, ls="", clip_on=False
    )
