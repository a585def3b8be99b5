"""How good the approximations are that RAIS lives on, from diagnostic runs.

The loss-layer norm is held against the exact gradient norm of the same examples. The estimators of φ, side by side
on one run, are held against the true φ, and what they make of the gain ratio against the true one.

symbol    code             shape            unit
φ         true_phi, phi_*  (evaluations,)   1, the share of a gradient's second moment that is noise
ρ         rho              (evaluations,)   1
r         1 + φ(ρ − 1)     (evaluations,)   1
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rais.paper.analysis.phi import correlations, measured, phi_table
from rais.paper.figures import style
from rais.paper.figures.needs import Needs
from rais.paper.records.read import Records

NEEDS = Needs(
    experiments=("approximation",), origin="both panels [recalled]", kind="diagnostics", tables={"phi": phi_table}
)
EPOCH_COLORS = (style.SKY, style.GREEN, style.VERMILLION, style.BLACK)
EPOCH_MARKERS = "o^sD"


@style.styled
def make(records: Records, task: str = "mnist_diagnostics") -> Figure:
    """Four panels: norms of one run, their correlation, gain ratio and phi of the arm rais, else the first."""
    records = records.diagnostics.of(task)
    arms = records.arms(task)
    arm = "rais" if "rais" in arms else arms[0]
    figure = Figure(figsize=(8.2, 6.4))
    axes = figure.subplots(2, 2)
    _scatter(axes[0, 0], records, task, arm)
    _correlation(axes[0, 1], records, task)
    _estimates(axes[1, 0], axes[1, 1], records.of(task, arm))
    for panel, letter in zip(axes.flat, "abcd", strict=True):
        panel.set_title(f"({letter})")
    return figure


def _scatter(axes: Axes, records: Records, task: str, arm: str) -> None:
    norms = records.of(task, arm).norms
    axes.set(xlabel="loss-layer norm", ylabel="exact norm of the gradient")
    if norms.empty:
        axes.text(0.5, 0.5, "no norms recorded", transform=axes.transAxes, ha="center", color=style.GREY)
        return
    norms = norms[norms["seed"] == norms["seed"].min()]
    known = correlations(norms)
    chosen = known.index[np.unique(np.linspace(0, len(known) - 1, 4).round().astype(int))]
    for epoch, color, marker in zip(chosen, EPOCH_COLORS, EPOCH_MARKERS, strict=False):
        rows = norms[norms["epoch"] == epoch]
        label = f"epoch {epoch:.3g}: correlation {known[epoch]:.3f}"
        axes.plot(
            rows["loss_layer"],
            rows["exact"],
            ls="",
            marker=marker,
            ms=3,
            mew=0,
            alpha=0.55,
            color=color,
            label=label,
            rasterized=True,
        )
    axes.set(xscale="log", yscale="log")
    axes.legend(loc="upper left", markerscale=2, handlelength=1)


def _correlation(axes: Axes, records: Records, task: str) -> None:
    runs: dict[str, list] = {}
    for (arm, _), norms in records.norms.groupby(["arm", "seed"]):
        known = correlations(norms).dropna()
        if len(known):
            runs.setdefault(arm, []).append((known.index.to_numpy(), known.to_numpy()))
    axes.set(xlabel=style.AXIS_LABELS["epoch"], ylabel="correlation of the two norms")
    for arm in filter(runs.__contains__, records.arms(task)):
        style.draw(axes, runs[arm], style.look(arm))
    axes.set_ylim(top=1.0)
    style.legend(axes, map(style.look, filter(runs.__contains__, records.arms(task))), loc="best")


def _estimates(gain: Axes, phi: Axes, records: Records) -> None:
    """True against estimated gain ratio, r = 1 + φ(ρ − 1) with each estimator's φ, and the φ themselves."""
    wides = [measured(records.wide(run)) for _, run in records.runs.iterrows()]
    shown = [style.TRUTH]
    _draw_metric(gain, [(wide, wide.get("true_gain_ratio")) for wide in wides], style.TRUTH)
    _draw_metric(phi, [(wide, wide.get("true_phi")) for wide in wides], style.TRUTH)
    for name, look in style.ESTIMATORS.items():
        with_it = [wide for wide in wides if f"phi_{name}" in wide]
        if with_it:
            shown.append(look)
            _draw_metric(phi, [(wide, wide[f"phi_{name}"]) for wide in with_it], look)
            ratios = [(wide, 1 + wide[f"phi_{name}"] * (wide["rho"] - 1)) for wide in with_it]
            _draw_metric(gain, ratios, look)
    gain.set(xlabel=style.AXIS_LABELS["epoch"], ylabel=style.AXIS_LABELS["gain_ratio"])
    phi.set(xlabel=style.AXIS_LABELS["epoch"], ylabel=r"noise share $\varphi$")
    style.legend(gain, shown, loc="best")


def _draw_metric(axes: Axes, values: list[tuple[pd.DataFrame, pd.Series | None]], look: style.Look) -> None:
    curves = [(wide["epoch"][y.notna()], y[y.notna()]) for wide, y in values if y is not None and y.notna().any()]
    if curves:
        style.draw(axes, curves, look)
