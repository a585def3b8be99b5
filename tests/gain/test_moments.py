"""Running means against the weighted mean written out, and exact moments against every possible minibatch."""

from __future__ import annotations

import copy
import itertools
import pickle

import numpy as np
import pytest
import torch

from rais import gain
from rais.gain.moments import minibatch_moments
from rais.sampling import Draw


def test_running_mean_is_the_weighted_mean_of_its_past() -> None:
    values = np.random.default_rng(1).normal(size=(25, 2))
    both = gain.RunningMean(2, (0.1, 0.7))
    for t, value in enumerate(values):
        both.update(torch.from_numpy(value))
        for row, alpha in zip(both.value, (0.1, 0.7), strict=True):
            shares = (1 - alpha) ** np.arange(t, -1, -1.0)
            np.testing.assert_allclose(row.numpy(), shares @ values[: t + 1] / shares.sum(), rtol=1e-12)


@pytest.mark.parametrize("alpha", [0.01, 1.0])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_counts_for_nothing(bad: float, alpha: float) -> None:
    clean, poisoned = gain.RunningMean(2, alpha), gain.RunningMean(2, alpha)
    poisoned.update(torch.tensor([bad, bad]))
    assert poisoned.value.isnan().all()
    for value in ([1.0, 2.0], [3.0, -1.0]):
        for mean in (clean, poisoned):
            mean.update(torch.tensor(value))
        poisoned.update(torch.tensor([5.0, bad]))
        assert torch.equal(poisoned.sums, clean.sums) and torch.isfinite(clean.value).all()


@pytest.mark.parametrize("alpha", [0.0, -0.1, 1.1, float("nan"), (0.1, 2.0)])
def test_alpha_out_of_range(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"alpha=.* must be in \(0, 1\]"):
        gain.RunningMean(1, alpha)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_goes_its_own_way(copied) -> None:
    mean = gain.RunningMean(1, 0.5)
    mean.update(torch.tensor([1.0]))
    other = copied(mean)
    other.update(torch.tensor([4.0]))
    assert mean.value.item() == 1 and other.value.item() == 3


@pytest.mark.parametrize("m", [1, 3, 32, 129])
def test_weights_of_one_give_two_equal_moments_to_the_last_bit(m: int) -> None:
    norm = torch.rand(m, generator=torch.Generator().manual_seed(m))
    draw = Draw(torch.arange(m), torch.ones(m), mean_norm=0.3)
    uniform_one, sampled_one = minibatch_moments(gain.Minibatch(draw, norm, norm)).tolist()
    assert uniform_one == sampled_one > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_norms_of_any_dtype_are_squared_in_float64(dtype: torch.dtype) -> None:
    draw = Draw(torch.arange(2), torch.tensor([2.0, 0.5]), mean_norm=0.5)
    norm = torch.tensor([512.0, 0.25], dtype=dtype)  # squares that half precision cannot hold
    moments = minibatch_moments(gain.Minibatch(draw, norm, norm))
    assert moments.dtype == torch.float64
    assert moments.tolist() == [(2 * 1024**2 + 0.5 * 0.25) / 2, ((2 * 1024) ** 2 + 0.25**2) / 2]


def test_large_norms_do_not_overflow() -> None:
    norm = torch.tensor([3e38, 1e38])
    draw = Draw(torch.arange(2), torch.tensor([2.0, 0.5]), mean_norm=1e38)
    assert minibatch_moments(gain.Minibatch(draw, norm, norm)).tolist() == pytest.approx([9.25, 18.125], rel=1e-6)


@pytest.mark.parametrize("m", [2, 3])
def test_exact_moments_against_every_possible_minibatch(m: int) -> None:
    rng = np.random.default_rng(5)
    gradients, p = rng.normal(size=(4, 3)), rng.dirichlet(np.ones(4))
    n = len(p)

    def second_moment(q: np.ndarray) -> float:
        total = 0.0
        for batch in itertools.product(range(n), repeat=m):
            g = sum(gradients[i] / (n * q[i]) for i in batch) / m
            total += np.prod([q[i] for i in batch]) * (g @ g)
        return total

    v = torch.from_numpy(np.linalg.norm(gradients, axis=1))
    full = torch.tensor(float(gradients.mean(0) @ gradients.mean(0)))
    moments = gain.exact_moments(v, torch.from_numpy(1 / (n * p)), full, m)
    assert moments["gain_ratio"].item() == pytest.approx(second_moment(np.full(n, 1 / n)) / second_moment(p), rel=1e-6)
    identity = 1 + moments["phi"] * (moments["rho"] - 1)
    assert identity.item() == pytest.approx(moments["gain_ratio"].item(), rel=1e-12)


def test_exact_moments_with_vanished_gradients() -> None:
    zero = torch.zeros(3, dtype=torch.float64)
    moments = gain.exact_moments(zero, torch.full((3,), torch.inf, dtype=torch.float64), torch.tensor(0.0), 2)
    assert {name: value.item() for name, value in moments.items()} == {"gain_ratio": 1, "rho": 1, "phi": 1}
    some = torch.tensor([1.0, 0.0], dtype=torch.float64)
    weight = torch.tensor([0.5, torch.inf], dtype=torch.float64)
    assert torch.isfinite(gain.exact_moments(some, weight, torch.tensor(0.25), 2)["gain_ratio"])
