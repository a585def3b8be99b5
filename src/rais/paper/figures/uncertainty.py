"""The uncertainty set adapts to what makes the norms harder to know.

The size of the learned set relative to its centre, set_radius / set_center, along training: RAIS as it is, and with
augmentation, batch normalisation, dropout or momentum; beside it the gain ratio that is left.
"""

from __future__ import annotations

from matplotlib.figure import Figure

from rais.paper.figures import style
from rais.paper.figures.needs import Needs
from rais.paper.records.read import Records

LABEL = "with_"
NEEDS = Needs(
    experiments=("uncertainty",),
    origin="the set grows with noise [seen]",
    tasks=("digits",),
    arms=("rais",),
    kind="variants",
    labels=(LABEL,),
)


@style.styled
def make(records: Records, task: str = "digits") -> Figure:
    """Two panels against epochs equivalent: the relative radius, and the gain ratio."""
    varied = records.variants.of(task, "rais")
    varied = varied.where(varied.runs["variant"].str.startswith(LABEL))
    found = style.runs_by_arm(varied, by="variant")
    known = [label for label in style.VARIANTS if label in found]
    runs = style.runs_by_arm(records.comparable.of(task, "rais"))
    runs |= {label: found[label] for label in [*known, *sorted(set(found) - set(known))]}
    for run in (run for members in runs.values() for run in members):
        if {"set_radius", "set_center"} <= set(run.wide):
            run.wide["relative_radius"] = run.wide["set_radius"] / run.wide["set_center"]
    figure = Figure(figsize=(8.6, 3.6))
    for axes, metric in zip(figure.subplots(1, 2), ("relative_radius", "gain_ratio"), strict=True):
        style.draw_arms(axes, runs, "epochs_equivalent", metric)
    style.legend(figure, map(style.look, runs), loc="outside upper center", ncols=3)
    return figure
