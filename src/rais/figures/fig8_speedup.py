"""Figure 8: the table of speed-ups as a picture.

One row a task and arm: the speed-up in examples with its interval over seeds, the same in words with the number of
seeds, and below it the hardware and what tempers the row. The line at 1 is uniform SGD; tables/speedup.csv holds the
numbers.
"""

from __future__ import annotations

from matplotlib.figure import Figure

from rais import stats
from rais.figures import style
from rais.load import Records

ARMS = ("rais", "oracle")


@style.styled
def make(records: Records, task: str) -> Figure:
    """All tasks with speed-ups of the arms rais or oracle; `task` is one of them."""
    table = stats.speedup_table(records)
    table = table[table["arm"].isin(ARMS) & table["examples_speedup"].notna()].reset_index(drop=True)
    hardware = stats.final_table(records).set_index(["task", "arm"])["hardware"]
    figure = Figure(figsize=(8.6, 0.9 + 0.52 * len(table)))
    axes = figure.subplots()
    axes.axvline(1, color=style.look("uniform").color, lw=1, ls=style.look("uniform").line)
    for place, row in table.iterrows():
        look = style.look(row["arm"])
        if row["examples_low"] < row["examples_high"]:
            axes.plot([row["examples_low"], row["examples_high"]], [place, place], color=look.color, ls="-", lw=1.6)
        axes.plot(row["examples_speedup"], place, color=look.color, marker=look.marker, ms=6, ls="")
        words = f"{stats.speedup_text(row, 'examples')}, n = {row['n_seeds']}"
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
    axes.set(xlabel="speed-up over uniform SGD, examples (×)", ylabel="task, arm")
    axes.grid(axis="y", visible=False)
    return figure
