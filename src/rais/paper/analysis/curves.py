"""Several seeds as one line: their median and their range, where each seed was measured at places of its choice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def median_curve(
    curves: Sequence[tuple[ArrayLike, ArrayLike]], *, log: bool
) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Median, lowest and highest of curves measured at different x: (grid, median, low, high), each (k,).

    curves: a pair (x, y) a seed, each of shape (evaluations,), x increasing. The grid is every x at which
    some seed was measured, as far as all seeds reach. With `log` the interpolation between two x is log-linear.
    """
    start, end = max(np.min(x) for x, _ in curves), min(np.max(x) for x, _ in curves)
    grid = np.unique(np.concatenate([np.asarray(x, float) for x, _ in curves]))
    grid = grid[(grid >= start) & (grid <= end)]
    values = np.stack([interpolated(grid, x, y, log=log) for x, y in curves])
    return grid, np.median(values, axis=0), values.min(axis=0), values.max(axis=0)


def interpolated(at: ArrayLike, x: ArrayLike, y: ArrayLike, *, log: bool) -> NDArray:
    """y at the places `at`, between two x linearly, or with `log` linearly in log y; the first or last y outside."""
    if not log:
        return np.interp(at, x, y)
    return np.exp(np.interp(at, x, np.log(np.maximum(np.asarray(y, float), np.finfo(float).tiny))))
