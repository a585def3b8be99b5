"""The robust distribution: against other distributions in the worst case over the set, and against a convex solver."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch

from rais.sampling import reference
from rais.sampling.robust import inverse_radius, robust_norms

SEEDS = range(5)


def random_set(seed, n=8, q=3):
    """Features (n, q) of very different sizes and the c, d (q,) of an uncertainty set."""
    source = np.random.default_rng(seed)
    S = source.gamma(0.5, size=(n, q)) + 1e-3
    return S, source.gamma(0.5, size=q) + 1e-3, 10.0 ** source.uniform(-2, 1) * (source.gamma(0.5, size=q) + 1e-3)


def fast(S, c, d):
    """The norms and worst case that the package computes, in float64."""
    S, c, d = (torch.from_numpy(x) for x in (S, c, d))
    mean = S.mean(0)
    return robust_norms(S, c, d, inverse_radius(mean, d)).numpy(), ((mean @ c + (mean @ d).sqrt()) ** 2).item()


@pytest.mark.parametrize("seed", SEEDS)
def test_norms_follow_the_formula(seed):
    S, c, d = random_set(seed)
    np.testing.assert_allclose(fast(S, c, d)[0], reference.robust_norms(S, c, d), rtol=1e-13)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_worst_case_is_the_squared_mean_norm_and_its_norms_are_the_robust_ones(seed):
    S, c, d = random_set(seed)
    v, value = fast(S, c, d)
    p = reference.proportional(v)
    assert reference.worst_case(S, c, d, p) == pytest.approx(v.mean() ** 2, rel=1e-9)
    assert value == pytest.approx(v.mean() ** 2, rel=1e-12)
    assert value == pytest.approx((np.mean(S @ c) + np.mean(S @ d) ** 0.5) ** 2, rel=1e-12)
    np.testing.assert_allclose(reference.worst_norms(S, c, d, p), v, rtol=1e-8)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_other_distribution_is_better_in_the_worst_case(seed):
    S, c, d = random_set(seed)
    v, value = fast(S, c, d)
    best, source = reference.proportional(v), np.random.default_rng(100 + seed)
    perturbed = [best * np.exp(size * source.normal(size=len(best))) for size in (0.01, 0.1, 1, 3) for _ in range(50)]
    rivals = [np.full(len(best), 1 / len(best)), reference.proportional(S @ c), *source.dirichlet(best * 50, 20)]
    for p in [*perturbed, *rivals]:
        p = np.maximum(p / p.sum(), 1e-9)
        assert reference.worst_case(S, c, d, p / p.sum()) > value * (1 + 1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_reference_finds_the_worst_norms_of_any_distribution(seed):
    """Its closed form against random members of the set, and against a convex solver in the variable u = v²."""
    S, c, d = random_set(seed)
    source = np.random.default_rng(seed)
    n, a, b = len(S), S @ c, S @ d
    p = source.dirichlet(np.ones(n) * 3)
    worst = reference.worst_norms(S, c, d, p)
    assert reference.distance(S, c, d, worst) == pytest.approx(1, abs=1e-9)
    x = source.normal(size=(20_000, n))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    v = a + x * np.sqrt(n * b)
    members = v[(v >= 0).all(1)]
    assert len(members) > 0 and reference.distance(S, c, d, members[0]) == pytest.approx(1)
    value = reference.cost(p, worst)
    assert (members**2 / p).sum(1).max() / n**2 <= value

    u = cp.Variable(n)
    inside = cp.sum(cp.multiply(1 / b, a**2 + u) - cp.multiply(2 * a / b, cp.sqrt(u))) / n <= 1
    problem = cp.Problem(cp.Maximize(cp.sum(cp.multiply(u, value / p)) / n**2), [inside])
    assert problem.solve(solver=cp.CLARABEL) / value == pytest.approx(value, rel=1e-5)


def test_the_reference_where_the_steepest_example_has_no_centre():
    """There is no multiplier above all h_i²/p_i at which the norms lie on the edge of the set."""
    S, c, d, p = np.array([[1.0, 0], [1, 1]]), np.array([0, 0.1]), np.array([1.0, 0]), [0.2, 0.8]
    angle = np.linspace(0, np.pi / 2, 100_001)
    edge = S @ c + np.sqrt(2 * (S @ d)) * np.stack([np.cos(angle), np.sin(angle)], 1)
    assert reference.worst_case(S, c, d, p) == pytest.approx((edge**2 / p).sum(1).max() / 4, rel=1e-8)


def test_constant_norms_give_the_uniform_distribution():
    v, _ = fast(np.full((6, 2), 0.7), np.array([0.3, 1.1]), np.array([0.2, 0.0]))
    assert np.unique(v).size == 1


def test_a_vanishing_set_gives_the_predicted_norms_and_a_huge_one_the_uncertainty():
    S, c, d = random_set(0)
    np.testing.assert_allclose(
        reference.proportional(fast(S, c, 1e-20 * d)[0]), reference.proportional(S @ c), rtol=1e-8
    )
    np.testing.assert_allclose(
        reference.proportional(fast(S, c, 1e20 * d)[0]), reference.proportional(S @ d), rtol=1e-8
    )


@pytest.mark.parametrize("scale", [2.0**30, 2.0**-30])
def test_scaling_the_set_scales_the_norms_exactly(scale):
    S, c, d = random_set(1)
    np.testing.assert_array_equal(fast(S, scale * c, scale**2 * d)[0], scale * fast(S, c, d)[0])
