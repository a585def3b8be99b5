"""A learning rate near its stability limit, with and without protection against outliers.

Training loss of RAIS on a task whose learning rate is constant; the share of the drawn examples that the protection
limited, and the bias that it states: the length that it took off their gradients, relative to the length of all.
"""

from __future__ import annotations

from matplotlib.figure import Figure

from rais.paper.figures import style
from rais.paper.figures.needs import Needs
from rais.paper.records.read import Records

LABELS = ("unprotected", "protected")
NEEDS = Needs(experiments=("outliers",), tasks=("digits_hot",), arms=("rais",), kind="variants", labels=LABELS)


@style.styled
def make(records: Records, task: str = "digits_hot") -> Figure:
    """Three panels by epochs equivalent: training loss, share of examples limited, bias."""
    varied = records.variants.of(task, "rais")
    found = style.runs_by_arm(varied.where(varied.runs["variant"].isin(LABELS)), by="variant")
    runs = {label: found[label] for label in LABELS if label in found}
    figure = Figure(figsize=(10.4, 3.4))
    loss, share, bias = figure.subplots(1, 3)
    style.draw_arms(loss, runs, "epochs_equivalent", "train_loss", log=True)
    style.draw_arms(share, runs, "epochs_equivalent", "outlier_share")
    style.draw_arms(bias, runs, "epochs_equivalent", "outlier_bias")
    loss.set_title("; ".join(_ends(label, members) for label, members in runs.items()), fontsize=8)
    style.legend(figure, map(style.look, runs), loc="outside upper center", ncols=len(runs))
    return figure


def _ends(label: str, members: list[style.Run]) -> str:
    return f"{label}: {sum(run.diverged for run in members)} of {len(members)} diverged"
