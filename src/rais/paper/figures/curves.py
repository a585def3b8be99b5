"""The learning curves of one task, all arms.

Training loss and test error by the epochs of examples used, by epochs equivalent, where the arms should
fall on one another, and by seconds of training; beside them the gain ratio.
"""

from __future__ import annotations

from matplotlib.figure import Figure

from rais.paper.figures import style
from rais.paper.figures.needs import Needs
from rais.paper.records.read import Records

NEEDS = Needs(
    experiments=("curves task=mnist", "curves task=digits", "curves task=<task>"),
    origin="figure of the poster [seen]",
    a_task_each=True,
)


def make(records: Records, task: str) -> Figure:
    """The curves of every arm of `task`."""
    runs = style.runs_by_arm(records.comparable.of(task))
    return curves({arm: runs[arm] for arm in records.comparable.arms(task)}, task)


@style.styled
def curves(runs: dict[str, list[style.Run]], title: str) -> Figure:
    """Two rows (training loss, test error) by three columns, the gain ratio and the legend, for `runs` by arm."""
    figure = Figure(figsize=(11.5, 5.8))
    grid = figure.add_gridspec(2, 4)
    for row, y in enumerate(("train_loss", "test_error")):
        left = None
        for column, x in enumerate(("epoch", "epochs_equivalent", "seconds")):
            axes = figure.add_subplot(grid[row, column], sharey=left)
            style.draw_arms(axes, runs, x, y, log=True)
            if left:
                axes.set_ylabel("")
                axes.tick_params(which="both", labelleft=False)
            left = left or axes
    style.draw_arms(figure.add_subplot(grid[0, 3]), runs, "epochs_equivalent", "gain_ratio")
    corner = figure.add_subplot(grid[1, 3])
    corner.axis("off")
    style.legend(corner, map(style.look, runs), loc="center", title=title)
    return figure
