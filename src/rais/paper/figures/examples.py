"""Which examples RAIS draws.

From a traced run: the training images that it drew least and most often once p was learned, how the norms of a
fixed subset spread during training, and how unevenly the draws fall on the examples. Of several seeds the lowest is
shown in pictures.

symbol    code        shape          unit
          drawn       (n,)           draws with importance
n·share   relative    (n,)           1, draws of an example over those of an average one
‖·‖       norms       (evals, K)     norm of the loss layer's gradient
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from rais.paper.figures import style
from rais.paper.figures.needs import Needs
from rais.paper.records.read import Records

COLUMNS = 12
ROW, CAPTION, PANELS = 0.95, 0.35, 3.4  # inches: a row of images, what is above them, the panels
NEEDS = Needs(
    experiments=("examples",),
    origin="prioritises challenging examples [seen], the grid [recalled]",
    arms=("rais",),
    kind="traced",
    a_task_each=True,
)
BANDS = ((0.05, 0.95), (0.25, 0.75))


@style.styled
def make(records: Records, task: str) -> Figure:
    """Rows of images, seldom drawn ones above and often drawn ones below, and two panels."""
    traced = records.traced.of(task, "rais")
    runs = traced.runs.sort_values(["variant", "seed"])
    arrays = [traced.examples(run) for _, run in runs.iterrows()]
    first = arrays[0]
    k = len(first["index"]) // 2
    rows = -(-k // COLUMNS)
    height = 2 * (rows * ROW + CAPTION)
    figure = Figure(figsize=(9.2, height + PANELS))
    pictures, panels = figure.subfigures(2, 1, height_ratios=(height, PANELS))
    halves = pictures.subfigures(2, 1)
    for half, places, title in zip(halves, (slice(0, k), slice(k, 2 * k)), ("seldom", "often"), strict=True):
        half.suptitle(f"drawn {title}: label, draws relative to an average example", fontsize=9)
        _draw_images(half.subplots(rows, COLUMNS, squeeze=False), first, places)
    norms, lorenz = panels.subplots(1, 2)
    _draw_norms(norms, first["epoch"], first["norms"])
    _draw_lorenz(lorenz, [each["drawn"] for each in arrays])
    return figure


def concentration(drawn: ArrayLike) -> tuple[NDArray, NDArray]:
    """Share of the examples, the most drawn ones first, and share of all draws that fell on them: two of (n + 1,).

    drawn: draws of each example, shape (n,), at least one in all.
    """
    falling = np.sort(np.asarray(drawn, float))[::-1]
    return np.linspace(0, 1, len(falling) + 1), np.concatenate([[0], np.cumsum(falling) / falling.sum()])


def _draw_images(grid: NDArray, arrays: dict[str, NDArray], places: slice) -> None:
    """One half of the images, (c, h, w) each, with label and n·share below."""
    relative = len(arrays["drawn"]) * arrays["drawn"] / max(arrays["drawn"].sum(), 1)
    for axes in grid.flat:
        axes.axis("off")
    for axes, example, image in zip(grid.flat, arrays["index"][places], arrays["images"][places], strict=False):
        axes.imshow(image.transpose(1, 2, 0).squeeze(), cmap="gray_r", vmin=0, vmax=255)
        axes.text(
            0.5,
            -0.06,
            f"{arrays['labels'][example]},  {relative[example]:{'.2g' if relative[example] < 1 else '.1f'}}×",
            transform=axes.transAxes,
            ha="center",
            va="top",
            fontsize=7.5,
        )


def _draw_norms(axes: Axes, epoch: NDArray, norms: NDArray) -> None:
    """Median and quantile bands of the norms, shape (evals, K), by epochs."""
    for (low, high), alpha in zip(BANDS, (0.15, 0.3), strict=True):
        edges = np.quantile(norms, [low, high], axis=1)
        axes.fill_between(
            epoch, *edges, color=style.BLUE, alpha=alpha, lw=0, label=f"{100 * low:g} to {100 * high:g} %"
        )
    axes.plot(epoch, np.median(norms, axis=1), color=style.BLUE, lw=1.6, label="median")
    axes.plot(epoch, norms.mean(axis=1), color=style.BLACK, ls=(0, (5, 1.6)), label="mean")
    style.log_axis(axes, top=1.3 * norms.max())
    axes.set_ylim(bottom=max(np.quantile(norms, BANDS[0][0]) / 2, 1e-9))
    axes.set(xlabel=style.AXIS_LABELS["epoch"], ylabel="loss-layer norm")
    axes.set_xlim(left=0)
    axes.legend(loc="best")


def _draw_lorenz(axes: Axes, drawn: list[NDArray]) -> None:
    """Share of the draws that went to the most drawn examples: RAIS by seed, and what chance alone does."""
    axes.set(xlabel="most drawn examples (% of the training set)", ylabel="share of all draws (%)")
    if not all(draws.any() for draws in drawn):
        style.say(axes, "nothing was drawn with importance")
        return
    for draws in drawn:
        share, of_draws = concentration(draws)
        axes.plot(100 * share, 100 * of_draws, color=style.look("rais").color, lw=1.4)
    n, total = len(drawn[0]), int(drawn[0].sum())
    even = np.random.default_rng(0).multinomial(total, np.full(n, 1 / n))
    share, of_draws = concentration(even)
    axes.plot(100 * share, 100 * of_draws, color=style.BLACK, ls=(0, (5, 1.6)))
    seeds = f"RAIS ({len(drawn)} seed{'s' * (len(drawn) > 1)})"
    handles = [style.Look(seeds, style.look("rais").color, "-", "", 1.4)]
    handles.append(style.Look("as many uniform draws, with replacement", style.BLACK, (0, (5, 1.6)), ""))
    style.legend(axes, handles, loc="lower right")
    axes.set(xlim=(0, 100), ylim=(0, 100))
