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
minimised instead, which is jointly convex and equals 2√(A·B) where d is scaled best.
[derived, docs/derivations.md: A + B]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from rais.sampling.base import NonFiniteNorm

if TYPE_CHECKING:
    from jaxtyping import Float, Float64

SMALLEST = 1e-12
LIFT = 0.02  # Least share of a warm start's mean d: an update by factors takes long to bring a vanished entry back.
# Certified; the radius of the set is then 0.4 % above the smallest, and a warm start needs 2 or 3 sweeps.
TOLERANCE = 0.05


class UncertaintySet(NamedTuple):
    """c, d (q,) float64 with B(c,d) = 1; `gap`: certified bound on (A+B)/min(A+B) − 1; `sweeps`: alternations used."""

    c: Tensor
    d: Tensor
    gap: float
    sweeps: int


def learn(
    features: Float[Tensor, "D q"],
    norms: Float[Tensor, " D"],
    weights: Float[Tensor, " D"],
    mean_features: Float[Tensor, " q"],
    start: Float64[Tensor, " q"] | None = None,
    *,
    constant: int | None = None,
    tolerance: float = TOLERANCE,
    max_sweeps: int = 200,
) -> UncertaintySet:
    """Solve (PT) by alternating over c (non-negative least squares) and d (multiplicative update).

    Neither half of a sweep ever increases A + B [derived, docs/derivations.md: update of d]. It stops when
    the certified relative gap is at most `tolerance`, or after `max_sweeps`. A sweep costs O(|D| q²), in the precision
    of `features`; a warm `start`, d of a set before, makes a handful of them enough. With `constant`, the column of the
    constant feature, one more visit is added than was made: a surprise as large as the largest norm, of which the
    features knew nothing. Then every robust norm is at least max v/√(|D|+1) at the optimum
    [derived, docs/derivations.md: floor]. The result is equivariant under scaling of the norms. If the features predict
    the norms exactly, d is 10⁻¹² in units of the mean and the constraint is not tight.

    Raises:
        ValueError: shapes that do not fit, no visits, negative values, or a visit without a positive feature.
        NonFiniteNorm: values that are NaN or infinite.
    """
    S, v, weight = (x.detach().cpu().numpy() for x in (features, norms, weights))
    mean_s = mean_features.detach().cpu().numpy().astype(np.float64)
    _check(S, v, weight, mean_s)
    unit = _units(mean_s, v)
    a = (mean_s > 0).astype(np.float64)
    S, v, weight = _visits_in_units(S, v, weight, unit, constant)
    seen = S.any(1)  # a feature that was 0 at all visits has no best c: rounding would choose one
    d = a / a.sum() if start is None else _start_in_units(start, unit, a)

    c, gap, sweep = np.zeros_like(a), np.inf, 0
    if not v.any():  # c = 0 predicts every norm exactly
        c, d = _out_of_units(c, SMALLEST * a, unit)
        return UncertaintySet(torch.from_numpy(c).to(features.device), torch.from_numpy(d).to(features.device), 0.0, 0)
    while gap > tolerance and sweep < max_sweeps:
        radius = _dot(d, S)
        c = np.where(seen, _best_c(S, v, weight / radius), 0.0)
        excess = weight * (_dot(c, S) - v) ** 2
        # 1/x is convex, so 1/⟨d',s⟩ ≤ Σ_k d_k² s_k/d'_k / ⟨d,s⟩², with equality at d' = d. Hence B(c,d') ≤ Σ_k d_k²
        # pull_k/d'_k, which with A is least at d'_k = d_k √(pull_k/a_k): there A + B cannot be larger than at d. As
        # pull = −∂B/∂d, it also tells how far from the optimum d is.
        pull = _times(S, excess / radius**2) / len(v)
        gap = _certified_gap(a, d, pull, (excess / radius).mean())
        d = np.maximum(d * np.sqrt(pull), SMALLEST) * a  # a_k = 1 in units of the mean
        sweep += 1

    d = np.maximum(d * (weight * (_dot(c, S) - v) ** 2 / _dot(d, S)).mean(), SMALLEST) * a  # scaled to B = 1
    c, d = _out_of_units(c, d, unit)
    learned = [torch.from_numpy(x).to(features.device) for x in (c, d)]
    return UncertaintySet(learned[0], learned[1], float(gap), sweep)


class Unit(NamedTuple):
    """What counts as 1 in the solver: the mean of each feature (q,) and of the norms."""

    feature: np.ndarray
    norm: float


def _units(mean_s: np.ndarray, v: np.ndarray) -> Unit:
    return Unit(np.where(mean_s > 0, mean_s, 1.0), float(v.mean(dtype=np.float64)) or 1.0)


def _visits_in_units(
    S: np.ndarray, v: np.ndarray, weight: np.ndarray, unit: Unit, constant: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features (q, N), norms and weights (N,); with `constant`, the last visit is the one that was not made."""
    N = len(v) + (constant is not None)
    scaled, norms, weights = np.zeros((len(unit.feature), N), S.dtype), np.empty(N, S.dtype), np.ones(N, S.dtype)
    np.divide(S.T, unit.feature[:, None], out=scaled[:, : len(v)], casting="same_kind")
    norms[: len(v)], weights[: len(v)] = v / unit.norm, weight
    if constant is not None:
        scaled[constant, -1] = 1.0 / unit.feature[constant]
        norms[-1] = norms[:-1].max()
    return scaled, norms, weights


def _start_in_units(start: Tensor, unit: Unit, a: np.ndarray) -> np.ndarray:
    d = start.cpu().numpy() * unit.feature / unit.norm**2 * a
    lifted: np.ndarray = np.maximum(d, LIFT * d.sum() / a.sum()) * a
    return lifted


def _out_of_units(c: np.ndarray, d: np.ndarray, unit: Unit) -> tuple[np.ndarray, np.ndarray]:
    return c / unit.feature * unit.norm, d / unit.feature * unit.norm**2


def _dot(x: np.ndarray, S: np.ndarray) -> np.ndarray:
    """⟨x,s_j⟩ (N,) in the precision of S (q, N)."""
    return _times(S.T, x.astype(S.dtype))


def _times(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a @ b, by torch: the threads of NumPy's own would wait for work, busily, beside those of the model."""
    product: np.ndarray = torch.mv(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    return product


def _best_c(S: np.ndarray, v: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """arg min_{c≥0} Σ_j precision_j (⟨c,s_j⟩ − v_j)², through the q×q normal equations."""
    weighted = S * precision
    gram = torch.mm(torch.from_numpy(weighted), torch.from_numpy(S).T).numpy()
    eigenvalue, Q = np.linalg.eigh(gram.astype(np.float64))
    root = np.sqrt(np.maximum(eigenvalue, 50 * np.finfo(S.dtype).eps * eigenvalue[-1]))
    A, b = root[:, None] * Q.T, (Q.T @ _times(weighted, v)) / root
    try:
        best: np.ndarray = nnls(A, b)[0]
    except RuntimeError:  # it did not converge; any c ≥ 0 is unbiased, and the next sweep tries again
        best = np.maximum(np.linalg.lstsq(A, b, rcond=None)[0], 0.0)
    return best


def _certified_gap(a: np.ndarray, d: np.ndarray, pull: np.ndarray, B: float) -> float:
    """Upper bound on f/f* − 1 for the convex f(d) = A(d) + min_c B(c,d) at d, whose gradient is a − pull.
    [derived, docs/derivations.md: certified gap]

    f(d*) ≥ f(d) + ⟨a − pull, d* − d⟩, and ⟨a,d*⟩ = f*/2 because A = B at the optimum; hence f* (1 + slope/2) ≥ f −
    ⟨a − pull, d⟩ with slope = max_k (pull_k − a_k)/a_k, at least 0.
    """
    f = a @ d + B
    slope = max(0.0, (pull[a > 0] / a[a > 0]).max() - 1.0)
    lower = (f - (a - pull) @ d) / (1.0 + slope / 2.0)
    return np.inf if lower <= 0 else max(0.0, f / lower - 1.0)


def _check(S: np.ndarray, v: np.ndarray, weight: np.ndarray, mean_s: np.ndarray) -> None:
    if S.ndim != 2 or len(S) == 0 or v.shape != (len(S),) or weight.shape != v.shape or mean_s.shape != (S.shape[1],):
        raise ValueError(
            f"(PT) needs visits: features (|D|, q), norms and weights (|D|,), mean_features (q,); got {S.shape}, "
            f"{v.shape}, {weight.shape}, {mean_s.shape}"
        )
    for name, x in (("features", S), ("norms", v), ("weights", weight), ("mean_features", mean_s)):
        low, high = x.min(), x.max()
        if not (low > -np.inf and high < np.inf):
            raise NonFiniteNorm(
                f"(PT) got {name} that are NaN or infinite: training has diverged; lower the learning rate"
            )
        if low < 0:
            raise ValueError(f"(PT) got {name} that are negative")
    if not (_times(S, (mean_s > 0).astype(S.dtype)) > 0).all():
        raise ValueError("(PT) got a visit with no positive feature: include the constant")
