"""How good the estimators of φ are, and how good loss-layer norms are in place of exact ones, from diagnostic runs."""

from __future__ import annotations

import pandas as pd

from rais.paper.records.read import Records

ESTIMATORS = ("exact", "half_batch", "consecutive")
PHI_COLUMNS = ["task", "arm", "estimator", "mean_absolute_error", "bias", "n_seeds"]


def phi_table(records: Records) -> pd.DataFrame:
    """How far each estimator of phi is from the true phi, with the columns PHI_COLUMNS.

    mean_absolute_error and bias (estimate − truth) are means over the evaluations of a run after its first
    step, then over seeds. One row a task, arm and estimator of the diagnostic runs.
    """
    rows = []
    for _, run in records.diagnostics.runs.iterrows():
        wide = measured(records.diagnostics.wide(run))
        for name in ESTIMATORS:
            if f"phi_{name}" in wide and "true_phi" in wide:
                error = (wide[f"phi_{name}"] - wide["true_phi"]).dropna()
                rows.append([run["task"], run["arm"], name, error.abs().mean(), error.mean(), run["seed"]])
    errors = pd.DataFrame(rows, columns=PHI_COLUMNS)
    means = errors.groupby(PHI_COLUMNS[:3], sort=False).agg(
        {"mean_absolute_error": "mean", "bias": "mean", "n_seeds": "count"}
    )
    return means.reset_index()


def correlations(norms: pd.DataFrame) -> pd.Series:
    """Pearson's correlation of loss_layer and exact at each epoch of one run's norms, indexed by epoch."""
    epochs = {epoch: rows["loss_layer"].corr(rows["exact"]) for epoch, rows in norms.groupby("epoch")}
    return pd.Series(epochs, dtype=float)


def measured(wide: pd.DataFrame) -> pd.DataFrame:
    """The evaluations after the first step: before it no estimator has seen a gradient."""
    return wide[wide["iteration"] > 0]
