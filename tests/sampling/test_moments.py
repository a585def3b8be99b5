"""Second moments and the gain identity: closed forms against the definition, by going through all n^m minibatches."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from rais.gain import Minibatch
from rais.gain.moments import minibatch_moments
from rais.sampling import Draw, reference

N, M = 4, 3


@pytest.fixture
def gradients():
    return np.random.default_rng(3).normal(size=(N, 5)) * np.array([0.1, 1.0, 2.0, 7.0])[:, None]


def distributions(gradients):
    norms = np.linalg.norm(gradients, axis=1)
    random = np.random.default_rng(4).dirichlet(np.ones(N), size=3)
    return [np.full(N, 1 / N), norms / norms.sum(), reference.smoothed(norms, 0.2), *random]


@pytest.mark.parametrize("m", [1, 2, M])
def test_second_moment_is_noise_over_m_plus_the_mean(gradients, m):
    v = np.linalg.norm(gradients, axis=1)
    full_sq = np.sum(gradients.mean(0) ** 2)
    for p in distributions(gradients):
        single = np.sum(v**2 / p) / N**2
        enumerated = reference.second_moment(p, gradients, m)
        assert enumerated == pytest.approx(single / m + (1 - 1 / m) * full_sq, rel=1e-12)
        assert reference.cost(p, v) == pytest.approx(reference.second_moment(p, gradients, 1), rel=1e-12)


def test_closed_forms_for_uniform_and_oracle(gradients):
    v = np.linalg.norm(gradients, axis=1)
    assert reference.second_moment(np.full(N, 1 / N), gradients, 1) == pytest.approx(np.mean(v**2), rel=1e-12)
    assert reference.second_moment(v / v.sum(), gradients, 1) == pytest.approx(np.mean(v) ** 2, rel=1e-12)


@pytest.mark.parametrize("m", [1, 2, M])
def test_gain_identity(gradients, m):
    for p in distributions(gradients):
        uniform, single = (reference.second_moment(q, gradients, 1) for q in (np.full(N, 1 / N), p))
        minibatch = reference.second_moment(p, gradients, m)
        r = reference.gain_ratio(p, gradients, m)
        assert r == pytest.approx(1 + (uniform - single) / m / minibatch, rel=1e-12)
        rho, phi = uniform / single, single / m / minibatch
        assert r == pytest.approx(1 + phi * (rho - 1), rel=1e-12)
        assert 0 < phi <= 1 + 1e-12


def test_the_oracle_has_the_largest_gain_of_all_distributions(gradients):
    oracle = reference.proportional(np.linalg.norm(gradients, axis=1))
    best = reference.gain_ratio(oracle, gradients, 2)
    assert best > 1.5
    for p in np.random.default_rng(5).dirichlet(np.ones(N), size=50):
        assert reference.gain_ratio(p, gradients, 2) < best


def test_moments_of_a_minibatch_are_those_of_the_distribution_in_units_of_its_mean_norm(gradients):
    """What one minibatch says of E‖g_U1‖² and E‖g_1‖², enumerated over all N^M: over mean_norm², whatever p is.

    Told norms are wrong for one example; where they are right, as the oracle's, the second moment is 1 every time.
    """
    v = np.linalg.norm(gradients, axis=1)
    for told in (v, v * np.array([1.0, 3.0, 0.2, 1.0])):
        p, unit = told / told.sum(), told.mean()
        total, seen = np.zeros(2), []
        for drawn in itertools.product(range(N), repeat=M):
            index = torch.tensor(drawn)
            draw = Draw(index, torch.from_numpy(1 / (N * p))[index], mean_norm=float(unit))
            norm = torch.from_numpy(v)[index]
            moments = minibatch_moments(Minibatch(draw, norm, norm)).numpy()
            total += np.prod(p[list(drawn)]) * moments
            seen.append(moments[1])
        expected = np.array([np.mean(v**2), np.sum(v**2 / p) / N**2]) / unit**2
        np.testing.assert_allclose(total, expected, rtol=1e-12)
        assert (np.ptp(seen) < 1e-12) == (told is v)
