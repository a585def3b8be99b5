"""(PT) against a generic convex solver, and the properties that the solver's derivation promises."""

from __future__ import annotations

import math
from types import SimpleNamespace

import cvxpy as cp
import numpy as np
import pytest
import torch

from rais.sampling import NonFiniteNorm, reference, uncertainty
from rais.sampling.uncertainty import learn

TIGHT = {"tolerance": 1e-9, "max_sweeps": 20_000}


def histories(source, visits, zeros):
    """Features (visits, 12) before a visit and the norm then measured, from examples whose norms drift."""
    S, v = [], []
    for _ in range(visits):
        level = 10 ** source.uniform(-2, 0.3)
        past = level * source.gamma(2.0, 0.5, size=source.integers(1, 25))
        if zeros and source.random() < 0.3:
            past[:] = 0
        S.append(list(reference.features(past.tolist()).values()))
        v.append(0.0 if zeros and source.random() < 0.3 else level * source.gamma(2.0, 0.5))
    return np.array(S), np.array(v)


def make_problem(seed, visits=120):
    """Random visits; by seed: all twelve features, few, equal columns, columns of very different size, zero norms."""
    source = np.random.default_rng(seed)
    S, v = histories(source, visits, zeros=seed % 3 == 1)
    if seed % 4 == 1:
        S = S[:, [0, 2, 5, 11]]
    if seed % 4 == 2:
        S = np.column_stack([S[:, 0], S[:, 0], 2 * S[:, 0] + S[:, 11], S[:, 11]])
    if seed % 4 == 3:
        S = S * 10 ** source.uniform(-4, 4, size=S.shape[1])
    weights = 1 / source.gamma(2.0, 0.5, size=visits).clip(0.05)
    mean = S.mean(0) * source.uniform(0.5, 2, size=S.shape[1])
    return SimpleNamespace(S=S, v=v, weights=weights, mean=mean)


def solve(problem, start=None, **settings):
    tensors = (torch.from_numpy(x) for x in (problem.S, problem.v, problem.weights, problem.mean))
    return learn(*tensors, start, **settings)


def objective(problem, result):
    return float(problem.mean @ result.d.numpy())


def constraint(problem, result):
    return reference.pt_constraint(problem.S, problem.v, problem.weights, result.c.numpy(), result.d.numpy())


def generic(problem):
    """The value of (PT) by an interior-point method, Σ_j t_j ≤ |D| with second-order cones for r_j² ≤ t_j⟨d,s_j⟩."""
    S = problem.S / problem.S.mean(0)
    q = S.shape[1]
    c, d, t = cp.Variable(q, nonneg=True), cp.Variable(q, nonneg=True), cp.Variable(len(S))
    residual, radius = cp.multiply(np.sqrt(problem.weights), S @ c - problem.v), S @ d
    cones = cp.SOC(t + radius, cp.vstack([2 * residual, t - radius]), axis=0)
    program = cp.Problem(cp.Minimize((problem.mean / problem.S.mean(0)) @ d), [cones, cp.sum(t) <= len(S)])
    return program.solve(solver=cp.CLARABEL, tol_gap_rel=1e-9, tol_gap_abs=1e-11, tol_feas=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_agrees_with_a_generic_convex_solver(seed):
    problem = make_problem(seed)
    result, value = solve(problem, **TIGHT), generic(problem)
    assert (result.c >= 0).all() and (result.d >= 0).all() and result.c.dtype == torch.float64
    assert result.gap <= 1e-9
    assert constraint(problem, result) == pytest.approx(1, abs=1e-6)
    assert objective(problem, result) == pytest.approx(value, rel=1e-6)
    assert objective(problem, result) == pytest.approx(reference.pt_objective(problem.mean[None], result.d.numpy()))


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 7, 15])
@pytest.mark.parametrize("max_sweeps", [1, 2, 5, 20, 60])
def test_the_gap_bounds_the_distance_to_the_optimum(seed, max_sweeps):
    """A + B is 2√A at the best scaling of d, where A is the returned objective and B = 1."""
    problem = make_problem(seed)
    result = solve(problem, tolerance=0.0, max_sweeps=max_sweeps)
    excess = math.sqrt(objective(problem, result) / objective(problem, solve(problem, **TIGHT))) - 1
    assert result.sweeps == max_sweeps
    assert excess <= result.gap + 1e-9
    if max_sweeps == 60:
        assert result.gap < 0.1


def test_it_stops_at_the_tolerance():
    problem = make_problem(0)
    results = [solve(problem, tolerance=tolerance, max_sweeps=20_000) for tolerance in (1e-1, 1e-2, 1e-3, 1e-6)]
    assert all(r.gap <= t for r, t in zip(results, (1e-1, 1e-2, 1e-3, 1e-6), strict=True))
    assert [r.sweeps for r in results] == sorted({r.sweeps for r in results})


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4, 15])
def test_no_sweep_increases_the_sum(seed, monkeypatch):
    """Started where A = B, a sweep may not raise A + B; hence not A at the best scaling of d, which is returned."""
    problem = make_problem(seed)
    problem.v = problem.v / problem.v.mean()
    monkeypatch.setattr(uncertainty, "LIFT", 0.0)  # the start is to be taken as it is
    result, values = solve(problem, max_sweeps=1), []
    for _ in range(60):
        values.append(objective(problem, result))
        result = solve(problem, result.d / math.sqrt(values[-1]), max_sweeps=1)
    assert all(after <= before * (1 + 1e-12) for before, after in zip(values, values[1:], strict=False))
    assert values[-1] < values[0] * 0.999


def test_a_warm_start_needs_fewer_sweeps():
    problem, later = make_problem(0, visits=2000), make_problem(0, visits=2000)
    later.v = later.v * np.random.default_rng(9).uniform(0.97, 1.03, size=len(later.v))
    first = solve(problem)
    warm, cold = (solve(later, start, tolerance=1e-2) for start in (first.d, None))
    assert warm.gap <= 1e-2 and cold.gap <= 1e-2
    assert warm.sweeps <= cold.sweeps / 2
    assert objective(later, warm) == pytest.approx(objective(later, cold), rel=1e-2)


def test_an_entry_that_vanished_comes_back_within_a_few_sweeps():
    problem = make_problem(0)
    start = solve(problem, tolerance=1e-4, max_sweeps=5000).d
    start[(start * torch.from_numpy(problem.mean)).argmax()] = 0
    again = solve(problem, start)
    assert again.gap <= uncertainty.TOLERANCE and again.sweeps <= 2 * solve(problem).sweeps


def test_a_start_without_any_use_for_the_data_is_no_trap():
    """Features that the last solve did not need may be the ones that this one needs."""
    problem = make_problem(0)
    q = problem.S.shape[1]
    only_constant = torch.zeros(q, dtype=torch.float64)
    only_constant[-1] = 1.0
    result = solve(problem, only_constant, **TIGHT)
    assert objective(problem, result) == pytest.approx(objective(problem, solve(problem, **TIGHT)), rel=1e-6)


def predicted(problem, result, scaled_features):
    S = torch.from_numpy(scaled_features)
    return S @ result.c, S @ result.d


@pytest.mark.parametrize(("scale", "tolerance"), [(2.0**20, 0), (2.0**-20, 0), (1000.0, 1e-7)])
def test_scaling_the_norms_scales_the_set(scale, tolerance):
    problem, scaled = make_problem(0), make_problem(0)
    units = np.array([1] * 5 + [2, 1] * 3 + [0])  # of means, variances and deviations, constant: powers of the norm
    scaled.S, scaled.v, scaled.mean = problem.S * scale**units, problem.v * scale, problem.mean * scale**units
    center, axes = predicted(problem, solve(problem), problem.S)
    center_scaled, axes_scaled = predicted(scaled, solve(scaled), scaled.S)
    torch.testing.assert_close(center_scaled, scale * center, rtol=tolerance, atol=tolerance * scale)
    torch.testing.assert_close(axes_scaled, scale**2 * axes, rtol=tolerance, atol=tolerance * scale**2)


def test_norms_that_the_features_predict_exactly_leave_almost_no_uncertainty():
    problem = make_problem(0)
    problem.v = problem.S @ np.array([0.5, 0, 0.3, 0, 0, 0, 0, 0, 0, 0, 0, 0.2])
    result = solve(problem)
    np.testing.assert_allclose(problem.S @ result.c.numpy(), problem.v, rtol=1e-5)
    axes = problem.S @ result.d.numpy()
    assert (axes > 0).all() and axes.max() < 1e-6 * problem.v.mean() ** 2


def test_norms_of_zero_are_no_special_case():
    problem = make_problem(0)
    problem.v = np.zeros_like(problem.v)
    result = solve(problem)
    assert result.c.tolist() == [0.0] * 12
    assert torch.isfinite(result.d).all() and (problem.S @ result.d.numpy() > 0).all()


def test_a_feature_that_is_zero_everywhere_is_not_used():
    problem = make_problem(0)
    problem.S[:, 3], problem.mean[3] = 0.0, 0.0
    result = solve(problem, **TIGHT)
    unseen = make_problem(0)  # no visit had it, some examples have it by now
    unseen.S[:, 3] = 0.0
    assert solve(unseen).c[3] == 0
    without = make_problem(0)
    without.S, without.mean = np.delete(without.S, 3, axis=1), np.delete(without.mean, 3)
    assert result.c[3] == 0 and result.d[3] == 0
    assert objective(problem, result) == pytest.approx(objective(without, solve(without, **TIGHT)), rel=1e-8)


@pytest.mark.parametrize(
    ("field", "value", "error", "message"),
    [
        ("v", math.nan, NonFiniteNorm, "norms that are NaN or infinite"),
        ("v", -1.0, ValueError, "norms that are negative"),
        ("S", math.inf, NonFiniteNorm, "features that are NaN or infinite"),
        ("S", -1.0, ValueError, "features that are negative"),
        ("weights", -1.0, ValueError, "weights that are negative"),
        ("mean", math.nan, NonFiniteNorm, "mean_features that are NaN or infinite"),
    ],
)
def test_bad_values_are_refused(field, value, error, message):
    problem = make_problem(0)
    getattr(problem, field)[3] = value
    with pytest.raises(error, match=message):
        solve(problem)


def test_bad_shapes_are_refused():
    for field, change in (
        ("v", lambda x: x[1:]),
        ("weights", lambda x: x[:, None]),
        ("mean", lambda x: x[1:]),
        ("S", lambda x: x[:0]),
    ):
        problem = make_problem(0)
        setattr(problem, field, change(getattr(problem, field)))
        with pytest.raises(ValueError, match=r"\(PT\) needs visits"):
            solve(problem)


def test_a_visit_without_any_positive_feature_is_refused():
    problem = make_problem(0)
    problem.S[5] = 0.0
    with pytest.raises(ValueError, match="include the constant"):
        solve(problem)


def more_careful(problem):
    """`problem` solved with one more visit than was made; its constant is the last column."""
    constant = problem.S.shape[1] - 1
    return solve(problem, constant=constant, **TIGHT), reference.with_one_more_visit(
        problem.S, problem.v, problem.weights, constant
    )


@pytest.mark.parametrize("seed", [0, 1, 4, 5, 8, 9, 12])
def test_one_more_visit_than_was_made(seed):
    problem = make_problem(seed)
    result, (S, v, weights) = more_careful(problem)
    by_hand = SimpleNamespace(S=S, v=np.array(v), weights=np.array(weights), mean=problem.mean)
    assert objective(problem, result) == pytest.approx(objective(problem, solve(by_hand, **TIGHT)), rel=1e-7)
    assert objective(problem, result) == pytest.approx(generic(by_hand), rel=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 4, 5, 8, 9, 12])
def test_with_one_more_visit_no_robust_norm_is_below_the_floor(seed):
    """κ/√N for any features, those of an example never seen and of one whose norms were all 0 included."""
    problem = make_problem(seed)
    result, _ = more_careful(problem)
    k = 1 / math.sqrt(objective(problem, result))
    q = problem.S.shape[1]
    examples = np.vstack([problem.S, np.eye(q)[-1]])
    smallest = (examples @ (result.c.numpy() + k * result.d.numpy())).min()
    floor = reference.smallest_robust_norm(problem.v)
    assert smallest >= floor * (1 - 1e-6)
    assert smallest < 100 * floor  # the bound says something


def test_the_floor_is_reached_where_nothing_else_is_uncertain():
    """Norms that the features predict exactly: only the visit that was not made keeps d above 0."""
    problem = make_problem(0)
    problem.v = problem.S[:, 2].copy()
    result, _ = more_careful(problem)
    k = 1 / math.sqrt(objective(problem, result))
    assert (result.c + k * result.d)[-1].item() == pytest.approx(reference.smallest_robust_norm(problem.v), rel=0.05)


@pytest.mark.parametrize(("scale", "tolerance"), [(2.0**20, 0), (2.0**-20, 0), (1000.0, 1e-7)])
def test_one_more_visit_scales_with_the_norms(scale, tolerance):
    problem, scaled = make_problem(0), make_problem(0)
    units = np.array([1] * 5 + [2, 1] * 3 + [0])
    scaled.S, scaled.v, scaled.mean = problem.S * scale**units, problem.v * scale, problem.mean * scale**units
    one, other = (solve(p, constant=11) for p in (problem, scaled))
    torch.testing.assert_close(other.c[-1], scale * one.c[-1], rtol=tolerance, atol=0)
    torch.testing.assert_close(other.d[-1], scale**2 * one.d[-1], rtol=tolerance, atol=0)


def test_least_squares_that_do_not_converge_cost_variance_and_no_run(monkeypatch):
    def fails(*_):
        raise RuntimeError("Maximum number of iterations reached.")

    monkeypatch.setattr(uncertainty, "nnls", fails)
    result = solve(make_problem(0))
    assert (result.c >= 0).all() and (result.d >= 0).all() and torch.isfinite(result.c).all()
    assert (result.d > 0).any()
