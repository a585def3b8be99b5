"""(PT) solved by our alternation and by a generic convex solver, cvxpy with Clarabel, to the same optimum."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch

from benches.timing import Row, in_turns
from rais.sampling.uncertainty import UncertaintySet, learn

Q = 12
FASTER = 1 / 100


def rows(quick: bool) -> Iterator[Row]:
    """Cold and warm solves by |D| and q, against the generic solver; both optima are compared before timing."""
    for visits in (500,) if quick else (2_000, 20_000):
        for q in (Q,) if quick else (4, Q):
            problem = _problem(visits, q)
            solve = partial(learn, *problem, constant=q - 1)
            ours = {"cold": solve, "warm": partial(solve, solve().d)}
            case = f"|D| = {visits}, q = {q}"
            if quick:
                for name, function in ours.items():
                    yield Row("(PT)", f"{case}, {name}", in_turns({"": function}, rounds=3)[""])
                continue
            generic = _generic(problem)
            value, truth = _value(problem, solve(tolerance=1e-4, max_sweeps=2_000)), generic()
            if abs(value - truth) > 1e-2 * truth:
                raise AssertionError(f"(PT): ours ends at {value}, cvxpy at {truth}")
            rival = in_turns({"": generic}, rounds=2, warm_up=0)[""]
            for name, function in ours.items():
                seconds = in_turns({"": function}, rounds=15)[""]
                is_target = visits == 20_000
                yield Row("(PT)", f"{case}, {name}", seconds, "cvxpy + Clarabel", rival, FASTER if is_target else None)


def _problem(visits: int, q: int) -> tuple[torch.Tensor, ...]:
    """Visits of examples whose norm is predicted by noisy features: features, norms, weights, mean features."""
    g = np.random.default_rng(0)
    level = g.lognormal(-2, 1.5, visits)
    features = np.column_stack([level * g.lognormal(0, 0.4, visits) for _ in range(q - 1)] + [np.ones(visits)])
    norms, weights = level * g.lognormal(0, 0.3, visits), 1 / (0.3 + level / level.mean())
    return tuple(torch.from_numpy(x) for x in (features, norms, weights, features.mean(0)))


def _value(problem: tuple[torch.Tensor, ...], solution: UncertaintySet) -> float:
    """A(d) of a solution scaled to B = 1."""
    return float(problem[3] @ solution.d)


def _generic(problem: tuple[torch.Tensor, ...]) -> Callable[[], float]:
    import cvxpy as cp

    S, v, weight, mean_s = (np.asarray(x) for x in problem)
    # The extra visit of the rule of succession, as `learn` adds it.
    S, v = np.vstack([S, np.eye(S.shape[1])[-1]]), np.append(v, v.max())
    weight = np.append(weight, 1.0)

    def solve() -> float:
        c, d = cp.Variable(S.shape[1], nonneg=True), cp.Variable(S.shape[1], nonneg=True)
        residual = cp.multiply(np.sqrt(weight / len(v)), S @ c - v)
        t = cp.Variable(len(v))
        # t_j ≥ residual_j²/⟨d,s_j⟩ as rotated second-order cones.
        radius = S @ d
        cone = cp.SOC(t + radius, cp.vstack([2 * residual, t - radius]), axis=0)
        problem = cp.Problem(cp.Minimize(mean_s @ d), [cone, cp.sum(t) <= 1])
        problem.solve(solver=cp.CLARABEL)
        return float(problem.value)

    return solve
