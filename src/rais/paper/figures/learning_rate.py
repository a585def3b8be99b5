"""Whether plain SGD was given a good learning rate: the pilots, from which the targets come.

Uniform SGD's training loss at three quarters of the budget with half, once and twice the learning rate that all arms
of a task share, every pilot a dot, for the tasks whose pilots tried them. A comparison with SGD means little if the
best multiple is not 1.
"""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rais.paper.analysis import pilots
from rais.paper.analysis.intervals import median
from rais.paper.figures import style
from rais.paper.figures.needs import Needs
from rais.paper.records.read import Records

NEEDS = Needs(
    experiments=("pilots task=<task>",),
    arms=("uniform",),
    tables={"pilots": pilots.pilot_table, "targets": pilots.target_table},
    pilots=True,
)


@style.styled
def make(records: Records, task: str) -> Figure:
    """A panel a task whose pilots tried several multiples, or each task if none did; `task` is one with pilots."""
    runs = pilots.pilot_runs(records)
    tried = runs.groupby("task")["learning_rate"].nunique()
    tasks = sorted(tried[tried > 1].index if (tried > 1).any() else tried.index)
    figure = Figure(figsize=(1.0 + 2.3 * len(tasks), 3.2))
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    for axes, name in zip(panels, tasks, strict=True):
        _draw(axes, runs[runs["task"] == name], name)
    panels[0].set_ylabel("training loss at ¾ of the budget (nats)")
    return figure


def _draw(axes: Axes, runs, task: str) -> None:
    look = style.look("uniform")
    rates = sorted(runs["learning_rate"].unique())
    places = range(len(rates))
    medians = []
    for place, rate in zip(places, rates, strict=True):
        losses = runs.loc[runs["learning_rate"] == rate, "loss"]
        medians.append(median(losses))
        style.dots(axes, place, losses, look)
        style.write_above(axes, place, style.tally(int(losses.isna().sum()), 0))
    style.joined(axes, places, medians, look)
    style.log_axis(axes)
    style.name_places(axes, places, [f"{rate:g}×" for rate in rates])
    axes.set(xlabel="multiple of the learning rate", xlim=(-0.5, len(rates) - 0.5))
    axes.set_title(task)
