"""Drawing by weight: right for any n, exact shares, nothing of weight 0, and no drift."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from rais.rng import generator
from rais.sampling import reference
from rais.sampling.categorical import Categorical


def categorical_of(weight):
    weight = torch.as_tensor(weight)
    categorical = Categorical(weight.numel())
    categorical.set_all(weight)
    return categorical


def chi_square(index, p):
    counts, expected = np.bincount(index.numpy(), minlength=len(p)), len(index) * np.asarray(p)
    assert (counts[expected == 0] == 0).all()
    possible = expected > 0
    statistic = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    return statistic / chi2.ppf(0.9999, possible.sum() - 1)


@pytest.mark.parametrize("n", [3, 10, 63, 64, 65, 500])
def test_frequencies_and_probabilities_follow_the_weights(n):
    weight = np.random.default_rng(n).gamma(0.5, size=n) + 1e-3
    weight[::5] = 0.0
    weight[1] = 3.0
    categorical = categorical_of(weight)
    p = reference.proportional(weight)
    np.testing.assert_allclose(categorical.probabilities(), p, rtol=1e-6)
    some = torch.tensor([n - 1, 0, 1])
    np.testing.assert_allclose(1 / (n * categorical.weight(some)), p[some], rtol=1e-6)
    index = categorical.sample(50_000, generator(n, "sampling"))
    assert index.dtype == torch.int64
    assert chi_square(index, p) < 1


def test_one_category():
    assert categorical_of([5.0]).sample(3, generator(0, "sampling")).tolist() == [0, 0, 0]


def test_categories_of_weight_zero_are_never_drawn():
    weight = torch.zeros(10_000)
    weight[[17, 5_000, 9_998]] = torch.tensor([1e-20, 1.0, 1e20])
    weight[9_998] = 1.0
    index = categorical_of(weight).sample(50_000, generator(0, "sampling"))
    assert set(index.tolist()) == {5_000, 9_998}


@pytest.mark.parametrize("u", [0.0, 2.0**-53, 1 - 2.0**-53])
def test_the_extreme_random_numbers_lead_to_categories_of_positive_weight(u, monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *shape, dtype, **_: torch.full(shape, u, dtype=dtype))
    for seed in range(100):
        source = np.random.default_rng(seed)
        weight = source.gamma(0.3, size=24) * 10.0 ** source.uniform(-9, 9)
        weight[[*range(6), *range(17, 24)]] = 0.0  # whole rows and parts of rows, on both sides
        index = categorical_of(weight).sample(3, generator(0, "sampling"))
        assert (weight[index] > 0).all()
        assert index.unique().numel() == 1 and index[0] == (16 if u > 0.5 else 6)


def test_drawing_after_updates():
    source = np.random.default_rng(0)
    weight = source.random(200)
    categorical = categorical_of(weight)
    for _ in range(20):
        index = source.choice(200, size=30, replace=False)
        weight[index] = source.random(200)[index] * (index % 3 > 0)
        categorical.set(torch.from_numpy(index), torch.from_numpy(weight[index]))
        np.testing.assert_allclose(categorical.probabilities(), reference.proportional(weight), rtol=1e-6)
    assert chi_square(categorical.sample(50_000, generator(1, "sampling")), reference.proportional(weight)) < 1
    categorical.set_all(torch.from_numpy(weight**2))
    np.testing.assert_allclose(categorical.probabilities(), reference.proportional(weight**2), rtol=1e-6)


def test_no_drift_after_many_updates():
    source = np.random.default_rng(0)
    weight = np.ones(1000)
    categorical = categorical_of(weight)
    for _ in range(2000):
        index = source.choice(1000, size=50, replace=False)
        weight[index] = 10.0 ** source.uniform(-12, 12, size=50)
        categorical.set(torch.from_numpy(index), torch.from_numpy(weight[index]))
    # All small now: a running sum would have kept the rounding errors of the large ones.
    weight[:] = 10.0 ** source.uniform(-12, -11, size=1000)
    for index in np.arange(1000).reshape(20, 50):
        categorical.set(torch.from_numpy(index), torch.from_numpy(weight[index]))
    np.testing.assert_allclose(categorical.probabilities(), reference.proportional(weight), rtol=1e-6)


def test_more_than_two_to_the_24_categories():
    n = 2**24 + 5
    weight = torch.zeros(n, dtype=torch.float64)
    weight[-3:] = torch.tensor([1.0, 2.0, 3.0])
    categorical = categorical_of(weight)
    index = categorical.sample(1500, generator(0, "sampling"))
    assert chi_square(index - (n - 3), [1 / 6, 2 / 6, 3 / 6]) < 1
    categorical.set_all(torch.ones(n))
    index = categorical.sample(2000, generator(0, "sampling"))
    assert chi_square(index * 8 // n, np.full(8, 1 / 8)) < 1
    assert {0, 1} == set((index % 2).tolist())  # float32 uniform numbers reach only even ones up there
    assert categorical.weight(index[:2]).tolist() == pytest.approx([1, 1], rel=1e-12)


@pytest.mark.parametrize(
    "weight", [[1.0, -1.0, 3.0], [1.0, math.nan], [math.inf, 1.0], [0.0, 0.0, 0.0], [[1.0, 2.0], [3.0, 4.0]]]
)
def test_bad_weights_are_refused(weight):
    with pytest.raises(ValueError, match="weights"):
        categorical_of(weight)


def test_replacing_all_needs_as_many():
    with pytest.raises(ValueError, match=r"expected \(3,\)"):
        categorical_of(torch.ones(3)).set_all(torch.ones(4))


def test_a_weight_that_is_not_a_number_never_leads_outside():
    """On an accelerator norms are not checked at every step, and an index out of range makes the device unusable."""
    for n in (10, 12, 16):
        for bad in (3, n - 1):
            categorical = categorical_of(torch.ones(n))
            categorical.set(torch.tensor([bad]), torch.tensor([math.nan]))
            index = categorical.sample(1000, generator(0, "sampling"))
            assert 0 <= index.min() and index.max() < n
