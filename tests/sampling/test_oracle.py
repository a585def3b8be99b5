"""The oracle: exact norms, measured before every draw."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rais.rng import generator
from rais.sampling import NonFiniteNorm, Oracle, reference


def oracle(norms, n=5, m=2):
    return Oracle(n, m, generator=generator(0, "sampling"), measure=lambda: (norms(), torch.tensor(0.25)))


def test_it_follows_the_norms_of_the_moment():
    measured = iter([torch.tensor([1.0, 2.0, 3.0, 4.0, 0.0]), torch.tensor([0.0, 0.0, 5.0, 5.0, 0.0])])
    sampler = oracle(lambda: next(measured))
    sampler.draw()
    np.testing.assert_allclose(sampler.probabilities(), reference.proportional([1, 2, 3, 4, 0]), atol=1e-15)
    assert sampler.norms.tolist() == [1.0, 2.0, 3.0, 4.0, 0.0] and sampler.full_gradient_sq.item() == 0.25
    draw = sampler.draw()
    assert set(draw.index.tolist()) <= {2, 3}
    assert draw.weight.tolist() == pytest.approx([0.4, 0.4])


def test_without_any_gradient_it_is_uniform():
    sampler = oracle(lambda: torch.zeros(5))
    assert sampler.draw().weight.tolist() == [1.0, 1.0]
    assert sampler.probabilities().tolist() == [0.2] * 5


def test_bad_measurements_are_refused():
    with pytest.raises(NonFiniteNorm):
        oracle(lambda: torch.tensor([1.0, float("nan"), 1.0, 1.0, 1.0])).draw()
    with pytest.raises(ValueError, match="never negative"):
        oracle(lambda: torch.tensor([1.0, -1.0, 1.0, 1.0, 1.0])).draw()
    with pytest.raises(ValueError, match="shape"):
        oracle(lambda: torch.ones(4)).draw()


def test_scaling_the_norms_changes_nothing():
    norms = torch.rand(5, generator=generator(0, "norms")) + 0.1
    one, scaled = oracle(lambda: norms), oracle(lambda: 1024 * norms)
    for _ in range(10):
        a, b = one.draw(), scaled.draw()
        assert torch.equal(a.index, b.index) and torch.equal(a.weight, b.weight)
