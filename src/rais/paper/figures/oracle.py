"""What the best possible sampling gains.

The oracle, which draws in proportion to the true gradient norms, against uniform sampling: training loss by
iterations and by epochs equivalent, where the curves should fall on one another, and the gain ratio.
"""

from __future__ import annotations

from matplotlib.figure import Figure

from rais.paper.figures import style
from rais.paper.figures.needs import Needs
from rais.paper.records.read import Records

ARMS = ("uniform", "oracle", "rais", "smoothed_0.1")
NEEDS = Needs(
    experiments=("oracle", "oracle task=cifar10_2000"),
    origin="figure of the poster [seen]",
    tasks=("mnist", "mnist_6000", "cifar10_2000"),
    arms=("uniform", "oracle"),
    a_task_each=True,
)


@style.styled
def make(records: Records, task: str = "mnist_6000") -> Figure:
    """Three panels of the arms uniform, oracle and, where they were run, rais and smoothed."""
    runs = style.runs_by_arm(records.comparable.of(task))
    runs = {arm: runs[arm] for arm in ARMS if arm in runs}
    figure = Figure(figsize=(9.2, 2.9))
    axes = figure.subplots(1, 3)
    for panel, x, y, log in (
        (axes[0], "iteration", "train_loss", True),
        (axes[1], "epochs_equivalent", "train_loss", True),
        (axes[2], "epochs_equivalent", "gain_ratio", False),
    ):
        style.draw_arms(panel, runs, x, y, log=log)
    style.legend(figure, map(style.look, runs), loc="outside upper center", ncols=len(runs))
    return figure
