"""Learning the uncertainty set from recent visits: the convex problem (PT).

The smallest ellipsoid is sought that would have contained the norms measured lately. Its size is what the robust
distribution pays, so minimising it makes the sampling as bold as the evidence allows; where predictions fail, d
grows and the sampling falls back to uniform.

| paper    | code          | shape    | unit                                                    |
|----------|---------------|----------|---------------------------------------------------------|
| s_j      | features      | (|D|, q) | of the drawn example, before the visit                  |
| v_j      | norms         | (|D|,)   | norm then measured                                      |
| weight_j | weights       | (|D|,)   | 1/(n p_j), so that sums over D estimate means over n    |
|          | mean_features | (q,)     | mean_i s_i over the whole training set                  |
| c        | c             | (q,)     | norm per unit of each feature, ≥ 0                      |
| d        | d             | (q,)     | squared norm per unit of each feature, ≥ 0              |

    (PT)  minimise A(d) = ⟨d, mean_i s_i⟩ over c, d ≥ 0
          subject to B(c,d) = (1/|D|) Σ_j weight_j (⟨c,s_j⟩ − v_j)²/⟨d,s_j⟩ ≤ 1      [seen; weight_j recalled]

A is of degree 1 in d and B of degree −1, so min A·B is the value of (PT) and d·B(c,d) its solution. A + B is
minimised instead, which is jointly convex and equals 2√(A·B) where d is scaled best.  [derived]
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from rais.sampling.base import NonFiniteNorm

SMALLEST = 1e-12
LIFT = 0.5  # Least share of a warm start's mean d: an update by factors takes long to bring a vanished entry back.


class UncertaintySet(NamedTuple):
    """c, d (q,) float64 with B(c,d) = 1; `gap`: certified bound on (A+B)/min(A+B) − 1; `sweeps`: alternations used."""

    c: Tensor
    d: Tensor
    gap: float
    sweeps: int


def learn(
    features: Tensor,
    norms: Tensor,
    weights: Tensor,
    mean_features: Tensor,
    start: tuple[Tensor, Tensor] | None = None,
    *,
    constant: int | None = None,
    tolerance: float = 1e-2,
    max_sweeps: int = 200,
) -> UncertaintySet:
    """Solve (PT) by alternating over c (non-negative least squares) and d (multiplicative update).

    Neither half of a sweep ever increases A + B [derived]. It stops when the certified relative gap is at most
    `tolerance`, or after `max_sweeps`. A sweep costs O(|D| q²); a warm `start` (c, d) makes a handful of them
    enough. With `constant`, the column of the constant feature, one more visit is added than was made: a surprise as
    large as the largest norm, of which the features knew nothing. Then every robust norm is at least max v/√(|D|+1) at
    the optimum (reference.smallest_robust_norm). The result is equivariant under scaling of the norms. Where the
    features predict the norms exactly, d is 10⁻¹² in units of the mean and the constraint is not tight.

    Raises:
        ValueError: shapes that do not fit, no visits, negative values, or a visit without a positive feature.
        NonFiniteNorm: values that are NaN or infinite.
    """
    S, v, weight, mean_s = (
        np.asarray(x.detach().cpu(), dtype=np.float64) for x in (features, norms, weights, mean_features)
    )
    _check(S, v, weight, mean_s)
    if constant is not None:
        S, v, weight = _with_one_more_visit(S, v, weight, constant)
    feature_unit, norm_unit = np.where(mean_s > 0, mean_s, 1.0), v.mean() or 1.0
    used = mean_s > 0
    S, v = np.where(used, S / feature_unit, 0.0), v / norm_unit
    a = used.astype(np.float64)
    seen = S.any(0)  # a feature that was 0 at all visits has no best c: rounding would choose one

    if start is None:
        c, d = a / a.sum(), a / a.sum()
    else:
        c = start[0].cpu().numpy() * feature_unit / norm_unit * a
        d = start[1].cpu().numpy() * feature_unit / norm_unit**2 * a
        d = np.maximum(d, LIFT * d.sum() / a.sum()) * a

    gap, sweep = np.inf, 0
    while gap > tolerance and sweep < max_sweeps:
        c = np.where(seen, _best_c(S, v, weight / (S @ d)), 0.0)
        excess, radius = weight * (S @ c - v) ** 2, S @ d
        gain = S.T @ (excess / radius**2) / len(v)
        gap = _certified_gap(a, d, gain, (excess / radius).mean())
        d = np.maximum(d * np.sqrt(gain), SMALLEST) * a
        sweep += 1

    d = np.maximum(d * (weight * (S @ c - v) ** 2 / (S @ d)).mean(), SMALLEST) * a
    unscaled = [torch.from_numpy(c / feature_unit * norm_unit), torch.from_numpy(d / feature_unit * norm_unit**2)]
    return UncertaintySet(*(x.to(features.device) for x in unscaled), gap=float(gap), sweeps=sweep)


def _with_one_more_visit(
    S: np.ndarray, v: np.ndarray, weight: np.ndarray, constant: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """D and the surprise that it has not seen: weight 1, no feature but the constant, the largest norm.  [ours]"""
    surprise = np.zeros((1, S.shape[1]))
    surprise[0, constant] = 1.0
    return np.vstack([S, surprise]), np.append(v, v.max()), np.append(weight, 1.0)


def _best_c(S: np.ndarray, v: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """arg min_{c≥0} Σ_j precision_j (⟨c,s_j⟩ − v_j)², through the q×q normal equations."""
    weighted = S * precision[:, None]
    eigenvalue, Q = np.linalg.eigh(weighted.T @ S)
    root = np.sqrt(np.maximum(eigenvalue, 1e-14 * eigenvalue[-1]))
    return nnls(root[:, None] * Q.T, (Q.T @ (weighted.T @ v)) / root)[0]


def _certified_gap(a: np.ndarray, d: np.ndarray, gain: np.ndarray, B: float) -> float:
    """Upper bound on f/f* − 1 for the convex f(d) = A(d) + min_c B(c,d) at d, whose gradient is a − gain.  [derived]

    f(d*) ≥ f(d) + ⟨a − gain, d* − d⟩, and ⟨a,d*⟩ = f*/2 because A = B at the optimum; hence f* (1 + slope/2) ≥ f −
    ⟨a − gain, d⟩ with slope = max_k (gain_k − a_k)/a_k, at least 0.
    """
    f = a @ d + B
    slope = max(0.0, (gain[a > 0] / a[a > 0]).max() - 1.0)
    lower = (f - (a - gain) @ d) / (1.0 + slope / 2.0)
    return np.inf if lower <= 0 else max(0.0, f / lower - 1.0)


def _check(S: np.ndarray, v: np.ndarray, weight: np.ndarray, mean_s: np.ndarray) -> None:
    if S.ndim != 2 or len(S) == 0 or v.shape != (len(S),) or weight.shape != v.shape or mean_s.shape != (S.shape[1],):
        raise ValueError(
            f"(PT) needs visits: features (|D|, q), norms and weights (|D|,), mean_features (q,); got {S.shape}, "
            f"{v.shape}, {weight.shape}, {mean_s.shape}"
        )
    for name, x in (("features", S), ("norms", v), ("weights", weight), ("mean_features", mean_s)):
        if not np.isfinite(x).all():
            raise NonFiniteNorm(
                f"(PT) got {name} that are NaN or infinite: training has diverged; lower the learning rate"
            )
        if not (x >= 0).all():
            raise ValueError(f"(PT) got {name} that are negative")
    if not (S @ mean_s > 0).all():
        raise ValueError("(PT) got a visit with no positive feature: include the constant")
