"""A minibatch's part in the moving averages of ρ as one compiled loop, for the CPU; see compiled.py."""

from __future__ import annotations

import math

import numpy as np

from rais.compiled import Array, loop


@loop
def average(norm: Array, weight: Array, mean_norm: float, rates: Array, sums: Array) -> float:
    """What `minibatch_moments`, `RunningMean.update` and `Adaptive.rho` do; returns the smallest ρ.

    norm, weight (m,); rates (k, 1), sums (k, 3).
    [derived, docs/derivations.md: moments; gain ratio]"""
    first = second = 0.0
    for j in range(len(norm)):
        v = norm[j] / mean_norm
        first += weight[j] * v * v
        second += (weight[j] * v) * (weight[j] * v)
    first, second = first / len(norm), second / len(norm)
    if math.isfinite(first) and math.isfinite(second):
        for k in range(len(sums)):
            sums[k, 0] += rates[k, 0] * (first - sums[k, 0])
            sums[k, 1] += rates[k, 0] * (second - sums[k, 1])
            sums[k, 2] += rates[k, 0] * (1.0 - sums[k, 2])
    rho = np.inf
    for k in range(len(sums)):
        rho = min(rho, sums[k, 0] / sums[k, 1] if sums[k, 1] > 0 else 1.0)
    return rho
