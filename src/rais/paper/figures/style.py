"""One look for every arm in every figure, and what all figures share.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart; line styles and markers
differ too, so that a print in grey still reads. Figures are made without pyplot and hold no date, so that
the same records give the same files.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogFormatter, NullLocator
from numpy.typing import ArrayLike

from rais.paper.analysis.curves import median_curve
from rais.paper.analysis.speedup import timed_seconds
from rais.paper.analysis.together import apart
from rais.paper.records.read import Records

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#7F7F7F"

RC = {
    "axes.grid": True,
    "axes.labelsize": 9,
    "axes.linewidth": 0.7,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.handlelength": 3.2,
    "lines.dash_capstyle": "butt",
    "lines.markersize": 4.2,
    "pdf.fonttype": 42,
    "savefig.dpi": 150,
    "xtick.labelsize": 8,
    "xtick.major.width": 0.7,
    "ytick.labelsize": 8,
    "ytick.major.width": 0.7,
    "ytick.minor.width": 0.5,
}

AXIS_LABELS = {
    "iteration": "iterations",
    "epoch": "epochs (examples used / n)",
    "epochs_equivalent": r"epochs equivalent ($\hat t\,m/n$)",
    "seconds": "seconds, of runs made together",
    "train_loss": "training loss (nats)",
    "test_error": "test error (%)",
    "gain_ratio": "gain ratio $r$",
    "speedup": "speed-up, examples (×)",
    "final_train_loss": "final training loss (nats)",
    "sampler_share": "sampler's share of a step (%)",
    "relative_radius": "radius / centre of the set",
    "outlier_share": "share of drawn examples limited",
    "outlier_bias": "length taken off / length of all",
}


@dataclass(frozen=True)
class Look:
    """How one arm, variant, task or estimator is drawn everywhere."""

    label: str
    color: str
    line: Any
    marker: str
    width: float = 1.3

    def handle(self) -> Line2D:
        """A legend entry."""
        return Line2D([], [], label=self.label, color=self.color, ls=self.line, marker=self.marker, lw=self.width)


ARMS = {
    "uniform": Look("uniform", BLACK, (0, (5, 1.6)), "o"),
    "oracle": Look("oracle", BLUE, (0, (7, 1.5, 1.2, 1.5)), "s"),
    "smoothed_0": Look("smoothed, δ = 0", SKY, (0, (1, 2.2)), "x"),
    "smoothed_0.001": Look("smoothed, δ = 0.001", SKY, (0, (3, 2)), "v"),
    "smoothed_0.01": Look("smoothed, δ = 0.01", SKY, (0, (9, 2)), "^"),
    "smoothed_0.1": Look("smoothed, δ = 0.1", GREEN, (0, (9, 1.5, 3, 1.5)), "P"),
    "smoothed_0.3": Look("smoothed, δ = 0.3", GREEN, (0, (3, 1.2, 1, 1.2, 1, 1.2)), "d"),
    "rais": Look("RAIS", VERMILLION, "-", "D", 1.8),
    "rais_spaced": Look("RAIS, evenly spaced", VERMILLION, (0, (4, 1)), "h"),
    "rais_multiplier_off": Look("RAIS, multiplier 1", PURPLE, (0, (2.2, 1.1)), "<"),
    "rais_multiplier_root": Look("RAIS, √r", BLUE, (0, (8, 1.5, 1, 1.5)), "X"),
    "uniform_rais_multiplier": Look("uniform, RAIS's multiplier", ORANGE, (0, (1, 0.9)), ">"),
    "uniform_with_replacement": Look("uniform, with replacement", BLACK, (0, (2, 2.5)), "*"),
}
VARIANTS = {
    "with_augmentation": Look("with augmentation", BLUE, (0, (5, 1.6)), "s"),
    "with_batch_norm": Look("with batch normalisation", GREEN, (0, (7, 1.5, 1.2, 1.5)), "^"),
    "with_dropout": Look("with dropout", ORANGE, (0, (1, 1.2)), "v"),
    "with_momentum": Look("with momentum", PURPLE, (0, (3, 1.2, 1, 1.2, 1, 1.2)), "P"),
    "unprotected": Look("RAIS, unprotected", ORANGE, (0, (2.2, 1.1)), "o"),
    "protected": Look("RAIS, protected", BLUE, (0, (12, 1.5)), "X"),
}
TASKS = {
    "digits": Look("digits", GREEN, "-", "s"),
    "digits_adamw": Look("digits_adamw", GREEN, (0, (1, 1.2)), "s"),
    "mnist": Look("mnist", BLUE, "-", "o"),
    "mnist_adamw": Look("mnist_adamw", BLUE, (0, (1, 1.2)), "o"),
    "mnist_6000": Look("mnist_6000", SKY, (0, (5, 1.6)), "v"),
    "rot_mnist": Look("rot_mnist", PURPLE, (0, (7, 1.5, 1.2, 1.5)), "^"),
    "svhn": Look("svhn", ORANGE, (0, (2.2, 1.1)), "<"),
    "cifar10": Look("cifar10", VERMILLION, "-", "D"),
    "cifar10_small": Look("cifar10_small", VERMILLION, (0, (1, 1.2)), "P"),
    "cifar10_2000": Look("cifar10_2000", ORANGE, (0, (3, 1.2)), "h"),
    "cifar10_resnet8": Look("cifar10_resnet8", BLACK, "-", "p"),
    "cifar100": Look("cifar100", BLACK, (0, (9, 2)), "X"),
}
TRUTH = Look("true value", BLACK, "-", "o", 1.6)
ESTIMATORS = {
    "exact": Look("exact", BLUE, (0, (5, 1.6)), "s"),
    "half_batch": Look("half batches", ORANGE, (0, (7, 1.5, 1.2, 1.5)), "^"),
    "consecutive": Look("consecutive steps", PURPLE, (0, (1, 1.2)), "v"),
}


class PlainLogFormatter(LogFormatter):
    """Plain numbers, such as 0.2, at those minor ticks that LogFormatter chooses to name."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


@dataclass(frozen=True)
class Run:
    """The curve of one run, one row an evaluation (see Records.wide), and what decides how it is drawn."""

    diverged: bool
    wide: pd.DataFrame


@dataclass(frozen=True)
class Curve:
    """One metric of one run: x and y of shape (evaluations,), finite."""

    arm: str
    diverged: bool
    x: np.ndarray
    y: np.ndarray


def look(name: str) -> Look:
    """The look of an arm, variant or task; one that is not listed is grey, its line and marker follow from its name."""
    known = ARMS | VARIANTS | TASKS
    if name in known:
        return known[name]
    digest = hashlib.sha256(name.encode()).digest()
    line = (0, (2 + digest[0] % 8, 1 + digest[1] % 3, 1, 1 + digest[2] % 3))
    return Look(name.replace("_", " "), GREY, line, "*Xph8"[digest[3] % 5])


def styled(make: Callable[..., Figure]) -> Callable[..., Figure]:
    """Let `make` draw under this file's settings, whatever the caller's are."""

    @wraps(make)
    def with_settings(*args: Any, **kwargs: Any) -> Figure:
        with matplotlib.rc_context({**matplotlib.rcParamsDefault, **RC}):
            return make(*args, **kwargs)

    return with_settings


def save(figure: Figure, stem: Path, formats: Sequence[str] = ("png",)) -> list[Path]:
    """Write stem.png (150 dpi), or stem.pdf too, without a date or a version in them; returns the paths."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(f"{stem.name}.{form}") for form in formats]
    nameless = {".png": {"Software": None}, ".pdf": {"CreationDate": None, "Creator": None, "Producer": None}}
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **RC}):
        for path in paths:
            figure.savefig(path, metadata=nameless[path.suffix])
            figure.set_layout_engine("none")  # laid out once: the second pass would take longer than the drawing
    return paths


def draw(axes: Axes, curves: list[tuple[Any, Any]], look: Look, *, log: bool = False) -> None:
    """One line: the median of `curves`, pairs (x, y) a seed, in the band of their range; markers at six even places."""
    grid, median, low, high = median_curve(curves, log=log)
    axes.fill_between(grid, low, high, color=look.color, alpha=0.18, lw=0)
    axes.plot(grid, median, color=look.color, ls=look.line, lw=look.width)
    places = np.searchsorted(grid, np.linspace(grid[0], grid[-1], 7)[1:])
    axes.plot(grid[places], median[places], color=look.color, ls="", marker=look.marker)


def runs_by_arm(records: Records, by: str = "arm") -> dict[str, list[Run]]:
    """Every run of the records of one task with its curve, by arm or by another column: test errors in percent, seconds
    those that are compared (timed_seconds), nan of a run that was made apart from uniform's."""
    runs: dict[str, list[Run]] = {}
    untimed = apart(records.runs)
    for index, row in records.runs.iterrows():
        wide = records.wide(row)
        wide["seconds"] = np.nan if untimed[index] else timed_seconds(row, wide)
        if "test_error" in wide:
            wide["test_error"] *= 100
        runs.setdefault(row[by], []).append(Run(row["status"] == "diverged", wide))
    return runs


def draw_arms(axes: Axes, runs: dict[str, list[Run]], x: str, y: str, *, log: bool = False) -> None:
    """The curves of `y` against `x` of each arm or variant: a median in the band of its seeds, and diverged runs as
    thin lines. If there is nothing to draw, the axes say so."""
    drawn = []
    for arm, members in runs.items():
        members = [run for run in members if y in run.wide]
        curves = [Curve(arm, run.diverged, *_finite(run.wide, x, y, positive=log)) for run in members]
        drawn += [curve for curve in curves if len(curve.x)]
        means = [(curve.x, curve.y) for curve in curves if len(curve.x) and not curve.diverged]
        if means:
            draw(axes, means, look(arm), log=log)
    axes.set(xlabel=AXIS_LABELS[x], ylabel=AXIS_LABELS[y])
    if not drawn:
        say(axes, "no runs made together" if x == "seconds" else f"no {AXIS_LABELS[y]} recorded")
        return
    axes.set_xlim(left=0)
    if log:
        log_axis(axes, top=_early_level(runs, y))
    for curve in drawn:
        if curve.diverged:
            _draw_diverged(axes, curve)


def log_axis(axes: Axes, top: float | None = None) -> None:
    """A logarithmic y axis with plain numbers, up to `top` if given: a diverging run must not squeeze the rest."""
    axes.set_yscale("log")
    axes.set_ylim(top=top)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(PlainLogFormatter(minor_thresholds=(2.2, 0.6)))


def dots(axes: Axes, x: float, values: ArrayLike, look: Look) -> None:
    """Every seed a dot: `values` (seeds,) at the place `x`, beside each other, and their median as a larger marker.

    What is not finite is not drawn; a median of seeds of which half are infinite is neither.
    """
    known = np.sort(np.asarray(values, float))
    known = known[np.isfinite(known)]
    spread = np.linspace(-0.12, 0.12, len(known)) if len(known) > 1 else np.zeros(len(known))
    places = x * np.exp(spread / 3) if axes.get_xscale() == "log" else x + spread
    axes.plot(places, known, color=look.color, marker=look.marker, ls="", ms=3, alpha=0.55, mew=0)
    if np.isfinite(median(values)):
        axes.plot(
            [x], [median(values)], color=look.color, marker=look.marker, ls="", ms=6.5, mec="white", mew=0.8, zorder=3
        )


def median(values: ArrayLike) -> float:
    """The median of the values that are known, infinite ones among them; nan for none."""
    known = np.asarray(values, float)
    known = known[~np.isnan(known)]
    return float(np.median(known)) if len(known) else float("nan")


def joined(axes: Axes, x: ArrayLike, medians: ArrayLike, look: Look) -> None:
    """A thin line through the medians of neighbouring places."""
    axes.plot(x, medians, color=look.color, ls=look.line, lw=0.8 * look.width, zorder=1)


def reference(axes: Axes, values: ArrayLike, look: Look) -> None:
    """A level line across the axes at the median of `values` (seeds,), in the band of their range."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    if len(values):
        axes.axhspan(values.min(), values.max(), color=look.color, alpha=0.12, lw=0)
        axes.axhline(np.median(values), color=look.color, ls=look.line, lw=look.width)


def write_tally_of(axes: Axes, x: float, runs: pd.DataFrame) -> None:
    """The tally of rows `runs` of `run_table` above the axes at `x`, of several arms each under its name. A run that
    diverged before the target is no other miss."""
    arms = runs["arm"].unique()
    lines = []
    for arm in arms:
        of_arm = runs[runs["arm"] == arm]
        diverged = of_arm["status"] == "diverged"
        missed = np.isinf(of_arm["epochs_to_target"]) & ~diverged
        name = f"{look(arm).label}: " if len(arms) > 1 else ""
        lines += [name + line for line in tally(int(diverged.sum()), int(missed.sum()))]
    write_above(axes, x, lines)


def tally(diverged: int, missed: int) -> list[str]:
    """How many runs diverged, and how many did not reach the target; nothing where all did."""
    return [f"{diverged} diverged"] * bool(diverged) + [f"{missed} missed"] * bool(missed)


def write_above(axes: Axes, x: float, lines: Sequence[str]) -> None:
    """Small lines above the axes, centred at `x` of its data."""
    axes.text(x, 1.01, "\n".join(lines), transform=axes.get_xaxis_transform(), ha="center", va="bottom", fontsize=6.5)


def name_places(axes: Axes, places: Sequence[float], names: Sequence[str]) -> None:
    """Ticks of the x axis at these places alone, under these names."""
    axes.set_xticks(places, names)
    axes.xaxis.set_minor_locator(NullLocator())


def ratio_axis(axes: Axes, which: Literal["x", "y"], values: Iterable[float]) -> None:
    """The axis `which` holds ratios: logarithmic, from 0.7 or the smallest of the positive `values` to the largest,
    with ticks at powers of two."""
    positive = [value for value in values if 0 < value < float("inf")]
    low, high = min([0.7, *positive]) / 1.1, max([1.5, *positive]) * 1.1
    axes.set(**{f"{which}scale": "log", f"{which}lim": (low, high)})
    powers = range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)
    axis = getattr(axes, f"{which}axis")
    axis.set_ticks([2.0**power for power in powers], [f"{2.0**power:g}" for power in powers])
    axis.set_minor_locator(NullLocator())


def say(axes: Axes, text: str) -> None:
    """Words in place of curves."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY, wrap=True)
    axes.tick_params(which="both", length=0, labelleft=False, labelbottom=False)
    axes.grid(False)


def legend(target: Axes | Figure, looks: Iterable[Look], **kwargs: Any) -> Legend:
    """A legend of `looks`, in that order."""
    return target.legend(handles=[look.handle() for look in looks], **kwargs)


def _finite(wide: pd.DataFrame, x: str, y: str, *, positive: bool) -> tuple[np.ndarray, np.ndarray]:
    """x and y where both are known and y is positive if it has to be: a logarithm of 0 has no place."""
    at, value = wide[x].to_numpy(), wide[y].to_numpy()
    kept = np.isfinite(at) & np.isfinite(value) & ((value > 0) | (not positive))
    return at[kept], value[kept]


def _early_level(runs: dict[str, list[Run]], y: str) -> float:
    """What the slowest curve has come down to after 2 % of the longest run: the fall before it would fill the axis."""
    curves = [
        _finite(run.wide, "epoch", y, positive=True) for members in runs.values() for run in members if y in run.wide
    ]
    curves = [(epoch, values) for epoch, values in curves if len(epoch)]
    early = 0.02 * max(epoch[-1] for epoch, _ in curves)
    return 1.3 * max(float(np.interp(early, epoch, values)) for epoch, values in curves)


def _draw_diverged(axes: Axes, curve: Curve) -> None:
    """A thin line as far as the run got, ending in a cross, at the upper edge if it left the axes there."""
    shown, top = look(curve.arm), axes.get_ylim()[1]
    axes.plot(curve.x, curve.y, color=shown.color, ls=shown.line, lw=0.8)
    end = min(curve.y[-1], top)
    axes.plot(curve.x[-1], end, color=shown.color, marker="X", ms=7, mec="white", mew=0.5, clip_on=False, zorder=3)
