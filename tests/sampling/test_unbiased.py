"""Every sampler, in every state of its life, is unbiased, weights what it draws by 1/(n p), and draws from p."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from rais.sampling import reference

KINDS = ("uniform", "oracle", "smoothed_0", "smoothed_0.1", "smoothed_1", "rais", "rais_constant")
STEPS = {"fresh": 0, "in the first epoch": 2, "after the first epoch": 3, "learned": 5, "after many visits": 60}


def settle(sampler, kind):
    """The oracle measures when it draws."""
    if kind == "oracle":
        sampler.draw()


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS.keys())
@pytest.mark.parametrize("kind", KINDS)
def test_the_expected_weighted_gradient_is_the_full_gradient(kind, steps, make, play, problem):
    sampler = make(kind)
    play(sampler, steps)
    settle(sampler, kind)
    p = sampler.probabilities()
    weight = sampler.weight(torch.arange(problem.n))
    assert p.dtype == weight.dtype == torch.float64
    assert abs(p.sum().item() - 1) < 1e-14 and (p > 0).all()
    expected = reference.expected_gradient(p.tolist(), weight.tolist(), problem.gradients.numpy())
    np.testing.assert_allclose(expected, reference.full_gradient(problem.gradients.numpy()), rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS.keys())
@pytest.mark.parametrize("kind", KINDS)
def test_a_draw_carries_one_over_n_p_of_its_examples(kind, steps, make, play, problem):
    sampler = make(kind)
    play(sampler, steps)
    settle(sampler, kind)
    expected = reference.importance_weights(sampler.probabilities().tolist())
    for _ in range(5):
        draw = sampler.draw()
        assert draw.index.dtype == torch.int64 and draw.weight.dtype == torch.float32
        np.testing.assert_allclose(draw.weight.numpy(), expected[draw.index.numpy()], rtol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_come_from_the_stated_probabilities(kind, make, play, problem):
    sampler = make(kind)
    play(sampler, 60)
    settle(sampler, kind)
    p = sampler.probabilities().numpy()
    draws = [sampler.draw() for _ in range(2000)]
    index = torch.cat([draw.index for draw in draws]).numpy()
    counts, total = np.bincount(index, minlength=problem.n), len(index)
    assert ((counts - total * p) ** 2 / (total * p)).sum() < chi2.ppf(0.9999, problem.n - 1)
    if kind in ("oracle", "smoothed_0", "smoothed_0.1", "rais"):  # the check has the power to tell p from uniform
        assert ((counts - total / problem.n) ** 2 / (total / problem.n)).sum() > 10 * chi2.ppf(0.9999, problem.n - 1)

    weighted = torch.cat([draw.weight for draw in draws])[:, None].double() * problem.gradients[index]
    error = weighted.mean(0) - problem.gradients.mean(0)
    assert (error.abs() < 4.5 * weighted.std(0) / total**0.5).all()
