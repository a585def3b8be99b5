"""The formulas of the samplers once more, slowly: float64, loops, one line of code for a line of mathematics.

Nothing here calls the other files of this folder, and nothing of the package calls this file: the tests run both side
by side and compare. Expectations go through every example or every possible minibatch, for tiny problems only.

| paper    | code      | shape    | unit                                                       |
|----------|-----------|----------|------------------------------------------------------------|
| p_i      | p         | (n,)     | probability                                                |
| ∇f_i     | gradients | (n, dim) | gradient of the loss of example i                          |
| ∇F       |           | (dim,)   | mean of the gradients                                      |
| s_i      | S         | (n, q)   | features                                                   |
| c, d     | c, d      | (q,)     | norm, squared norm, per unit of each feature               |
| U        |           |          | { v ≥ 0 : (1/n) Σ_i (⟨c,s_i⟩ − v_i)²/⟨d,s_i⟩ ≤ 1 }         |
| weight_j | weights   | (|D|,)   | 1/(n p_j) of the visits D; S and v then hold a row a visit |
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

MEAN_WINDOWS = (1, 2, 4, 8, 16)
SPREAD_WINDOWS = (4, 8, 16)


def proportional(norms: Sequence[float]) -> np.ndarray:
    """p_i = v_i / Σ_j v_j (n,): the oracle for exact norms, the robust distribution for robust norms.  [seen]"""
    total = math.fsum(norms)
    return np.array([v / total for v in norms])


def smoothed(estimates: Sequence[float], delta: float) -> np.ndarray:
    """p_i = (1−δ) v̂_i/Σ_j v̂_j + δ/n (n,).  [seen]"""
    n, total = len(estimates), math.fsum(estimates)
    return np.array([(1 - delta) * v / total + delta / n for v in estimates])


def importance_weights(p: Sequence[float]) -> np.ndarray:
    """1/(n p_i) (n,).  [seen]"""
    return np.array([1 / (len(p) * p_i) for p_i in p])


def full_gradient(gradients: np.ndarray) -> np.ndarray:
    """∇F = (1/n) Σ_i ∇f_i (dim,)."""
    return np.array([math.fsum(column) / len(gradients) for column in gradients.T])


def expected_gradient(p: Sequence[float], weight: Sequence[float], gradients: np.ndarray) -> np.ndarray:
    """E[weight_i ∇f_i] = Σ_i p_i weight_i ∇f_i (dim,), to be equal to ∇F.  [seen]"""
    return np.array([math.fsum(p[i] * weight[i] * g[i] for i in range(len(p))) for g in gradients.T])


def second_moment(p: Sequence[float], gradients: np.ndarray, m: int) -> float:
    """E‖g‖² of g = (1/m) Σ_{i∈M} ∇f_i/(n p_i), over all n^m minibatches drawn from p with replacement."""
    n = len(p)
    terms = []
    for minibatch in itertools.product(range(n), repeat=m):
        g = sum(gradients[i] / (n * p[i]) for i in minibatch) / m
        terms.append(math.prod(p[i] for i in minibatch) * float(g @ g))
    return math.fsum(terms)


def gain_ratio(p: Sequence[float], gradients: np.ndarray, m: int) -> float:
    """r = E‖g_U‖²/E‖g‖², both over all n^m minibatches.  [seen]"""
    n = len(p)
    return second_moment([1 / n] * n, gradients, m) / second_moment(p, gradients, m)


def features(past: Sequence[float]) -> dict[str, float]:
    """s_i by name, from the norms of all visits of example i, oldest first.  [recalled]

    A window longer than the past uses what there is; before the first visit every feature but the constant is 0 [ours].
    """
    s: dict[str, float] = {}
    for window in MEAN_WINDOWS:
        last = past[-window:]
        s[f"mean_{window}"] = math.fsum(last) / len(last) if last else 0.0
    for window in SPREAD_WINDOWS:
        last = past[-window:]
        mean = s[f"mean_{window}"]
        s[f"var_{window}"] = math.fsum((v - mean) ** 2 for v in last) / len(last) if last else 0.0
        s[f"std_{window}"] = math.sqrt(s[f"var_{window}"])
    s["constant"] = 1.0
    return s


def center(S: np.ndarray, c: np.ndarray) -> list[float]:
    """⟨c,s_i⟩ (n,)."""
    return [math.fsum(c[k] * s[k] for k in range(len(c))) for s in S]


def squared_axes(S: np.ndarray, d: np.ndarray) -> list[float]:
    """⟨d,s_i⟩ (n,)."""
    return center(S, d)


def robust_norms(S: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    """v_i = ⟨c,s_i⟩ + k⟨d,s_i⟩ (n,) with k = (mean_j⟨d,s_j⟩)^(−1/2).  [v_i seen; k derived, docs/derivations.md: k]"""
    a, b = center(S, c), squared_axes(S, d)
    k = (math.fsum(b) / len(b)) ** -0.5
    return np.array([a_i + k * b_i for a_i, b_i in zip(a, b, strict=True)])


def distance(S: np.ndarray, c: np.ndarray, d: np.ndarray, v: Sequence[float]) -> float:
    """(1/n) Σ_i (⟨c,s_i⟩ − v_i)²/⟨d,s_i⟩: at most 1 inside U.  [seen; form recalled]"""
    a, b = center(S, c), squared_axes(S, d)
    return math.fsum((a[i] - v[i]) ** 2 / b[i] for i in range(len(v))) / len(v)


def cost(p: Sequence[float], v: Sequence[float] | np.ndarray) -> float:
    """(1/n²) Σ_i v_i²/p_i = E‖g_1‖² where v are the gradient norms.  [derived, docs/derivations.md: moments]"""
    return math.fsum(v[i] ** 2 / p[i] for i in range(len(p))) / len(p) ** 2


def worst_norms(S: np.ndarray, c: np.ndarray, d: np.ndarray, p: Sequence[float]) -> np.ndarray:
    """arg max_{v∈U} (1/n²) Σ_i v_i²/p_i (n,), for any p; ⟨d,s_i⟩ must be positive.
    [derived, docs/derivations.md: worst case]

    With v_i = a_i + h_i x_i, a_i = ⟨c,s_i⟩ and h_i² = n⟨d,s_i⟩, the set is ‖x‖ ≤ 1 and the stationary points are
    x_i = a_i h_i/(λ p_i − h_i²). The largest value has the λ above every h_i²/p_i at which ‖x‖ = 1; bisection finds it.
    Where none is, because a_i = 0 at the largest h_i²/p_i, that is λ, and its x_i is what ‖x‖ lacks of 1. Every
    x_i ≥ 0, hence v_i ≥ a_i ≥ 0 and v ≥ 0 needs no care.
    """
    n = len(p)
    a = center(S, c)
    h = [math.sqrt(n * b_i) for b_i in squared_axes(S, d)]
    pole = max(h[i] ** 2 / p[i] for i in range(n))

    def x(gap: float) -> list[float]:
        return [a[i] * h[i] / (p[i] * (pole - h[i] ** 2 / p[i] + gap)) for i in range(n)]

    low, high = 0.0, 1.0
    while math.fsum(x_i**2 for x_i in x(high)) > 1:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        if math.fsum(x_i**2 for x_i in x(middle)) > 1:
            low = middle
        else:
            high = middle
    x_worst = x(high)
    steepest = max(range(n), key=lambda i: h[i] ** 2 / p[i])
    if a[steepest] == 0:
        x_worst[steepest] = math.sqrt(max(0.0, 1 - math.fsum(x_i**2 for x_i in x_worst)))
    return np.array([a[i] + h[i] * x_worst[i] for i in range(n)])


def worst_case(S: np.ndarray, c: np.ndarray, d: np.ndarray, p: Sequence[float]) -> float:
    """max_{v∈U} (1/n²) Σ_i v_i²/p_i, for any p.  [seen]"""
    return cost(p, worst_norms(S, c, d, p))


def pt_objective(S_all: np.ndarray, d: np.ndarray) -> float:
    """A(d) = mean_i⟨d,s_i⟩ over all n examples: the objective of (PT) divided by n.  [seen]"""
    b = squared_axes(S_all, d)
    return math.fsum(b) / len(b)


def pt_constraint(S: np.ndarray, v: Sequence[float], weights: Sequence[float], c: np.ndarray, d: np.ndarray) -> float:
    """B(c,d) = (1/|D|) Σ_j weight_j (⟨c,s_j⟩ − v_j)²/⟨d,s_j⟩: at most 1.  [seen; weight_j recalled]"""
    a, b = center(S, c), squared_axes(S, d)
    return math.fsum(weights[j] * (a[j] - v[j]) ** 2 / b[j] for j in range(len(v))) / len(v)


def with_one_more_visit(
    S: np.ndarray, v: Sequence[float], weights: Sequence[float], constant: int
) -> tuple[np.ndarray, list[float], list[float]]:
    """D and one visit more than was made: weight 1, no feature but the constant (in column `constant`), and the largest
    norm in D.  [ours]

    The rule of succession: N − 1 visits without a surprise say that a surprise is rarer than about 1/N, not that there
    are none.
    """
    surprise = [1.0 if k == constant else 0.0 for k in range(S.shape[1])]
    return np.vstack([S, surprise]), [*v, max(v)], [*weights, 1.0]


def smallest_robust_norm(v: Sequence[float]) -> float:
    """κ/√N: at the optimum of (PT) with one more visit no robust norm is smaller; N = |D| + 1, κ = max v.
    [derived, docs/derivations.md: floor]

    Stationarity in d₀, the constant's coefficient, gives d₀ ≥ |κ − c₀|/√N; A = B at the optimum of A + B, so that the
    scaling to B = 1 multiplies d by A and leaves k d₀ = d₀; and c₀ + |κ − c₀|/√N ≥ κ/√N for c₀ ≥ 0.
    """
    return max(v) / math.sqrt(len(v) + 1)


def evenly_spaced(
    due: Sequence[float], v: Sequence[float], count: int, wait: Callable[[], float]
) -> tuple[list[int], list[float]]:
    """The next `count` visits, in their order, and the due times (n,) after them: one visit after another, each of the
    example that is due first, which is due again `wait()`/v_i later; wait() has mean 1.  [ours]"""
    due, drawn = list(due), []
    for _ in range(count):
        i = min(range(len(due)), key=lambda j: due[j])
        drawn.append(i)
        due[i] += wait() / v[i]
    return drawn, due


def rescaled_due(due: float, now: float, old: float, new: float) -> float:
    """The due time of an example whose v changes from `old` to `new`: what is left of its wait is scaled.  [ours]"""
    return now + (due - now) * old / new
