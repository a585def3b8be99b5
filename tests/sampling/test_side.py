"""Examples and crop sizes drawn together: exact by enumeration, and RAIS takes the size for a feature of the visit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from rais.rng import generator
from rais.sampling import RAIS, reference
from rais.sampling.side import Side

SIZES, SHARES = (torch.tensor(x, dtype=torch.float64) for x in ([0.0, 0.5, 1.0, 1.4], [0.1, 0.4, 0.3, 0.2]))
N, M = 7, 3


def make(seed: int = 0, **settings) -> RAIS:
    settings = {"visits": 6, "refresh": 1, "features": ("mean_1", "std_4", "constant"), **settings}
    return RAIS(N, M, generator=generator(seed, "sampling"), side=Side(SIZES, SHARES), **settings)


def play(sampler: RAIS, steps: int) -> list:
    """The norm grows with the example and with the size of its offset."""
    draws = [sampler.draw()]
    for _ in range(steps):
        draw = draws[-1]
        sampler.observe(draw, 0.2 * draw.index + (1 + draw.index % 3) * SIZES[draw.side] + 0.1)
        draws.append(sampler.draw())
    return draws[:-1]


def joint(sampler: RAIS) -> np.ndarray:
    """p_ia (n, K) by the reference's formula on all n·K pairs, every pair as often as π says."""
    features = sampler.features.of(torch.arange(N)).double().numpy()
    pairs = np.stack([np.r_[s[:-1], size] for s in features for size in SIZES.double().numpy()])
    shares = np.tile(SHARES.double().numpy(), N)
    center, axes = pairs @ sampler.c.numpy(), pairs @ sampler.d.numpy()
    k = (shares @ axes / N) ** -0.5
    return reference.proportional(shares * (center + k * axes)).reshape(N, -1)


def test_pairs_are_drawn_from_the_robust_distribution_over_pairs() -> None:
    sampler = make(visits=60)
    play(sampler, 40)
    sampler.solve()
    p = joint(sampler)
    np.testing.assert_allclose(sampler.probabilities().numpy(), p.sum(1), rtol=1e-6)
    assert (sampler.c[-1] + sampler.k * sampler.d[-1]) > 0.1, "the sizes do not matter here: the test has no power"
    draws = [sampler.draw() for _ in range(6000)]
    index, side = torch.cat([d.index for d in draws]).numpy(), torch.cat([d.side for d in draws]).numpy()
    counts, expected = np.zeros_like(p), len(index) * p
    np.add.at(counts, (index, side), 1)
    limit = chi2.ppf(0.9999, p.size - 1)
    assert ((counts - expected) ** 2 / expected).sum() < limit
    independent = len(index) * p.sum(1)[:, None] * SHARES.numpy()
    assert ((counts - independent) ** 2 / independent).sum() > 2 * limit

    weight = torch.cat([d.weight for d in draws]).numpy()
    np.testing.assert_allclose(weight, (SHARES.double().numpy() / (N * p))[index, side], rtol=1e-5)


@pytest.mark.parametrize("slope", [0.0, 0.3, 2.0])
def test_the_expected_weighted_gradient_over_pairs_is_the_mean_over_examples_and_offsets(slope: float) -> None:
    side = Side(SIZES, SHARES)
    v = slope * side.mean + torch.linspace(0.1, 3, N, dtype=torch.float64)
    gradients = torch.randn(N, len(SIZES), 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    full = (side.shares[None, :, None] * gradients).sum(1).mean(0)
    p = v / v.sum()
    expected = torch.zeros(4, dtype=torch.float64)
    for i in range(N):
        ratio = 1 + slope * (side.sizes - side.mean) / v[i]
        share = side.shares * ratio
        for a in range(len(SIZES)):
            weight = 1 / (N * p[i]) * share.sum() / ratio[a]
            expected += p[i] * share[a] / share.sum() * weight * gradients[i, a]
    torch.testing.assert_close(expected, full, rtol=0, atol=1e-12)
    rows = torch.arange(N).repeat(4000)
    drawn, factor = side.draw(v[rows], torch.tensor(slope, dtype=torch.float64), generator(0, "sampling"))
    ratio = 1 + slope * (side.sizes[drawn] - side.mean) / v[rows]
    share = (side.shares * (1 + slope * (side.sizes - side.mean) / v[:, None])).sum(1)
    torch.testing.assert_close(factor, share[rows] / ratio, rtol=1e-12, atol=0)
    weighted = (factor[:, None] * gradients[rows, drawn]).view(4000, N, 4)
    error = weighted.mean(0) - (side.shares[None, :, None] * gradients).sum(1)
    assert (error.abs() < 5 * weighted.std(0) / 4000**0.5 + 1e-12).all()


def test_the_uniform_phase_draws_sizes_by_their_shares_with_weight_one() -> None:
    sampler = RAIS(60_000, 500, generator=generator(0, "sampling"), side=Side(SIZES, SHARES))
    draws = [sampler.draw() for _ in range(100)]
    counts = torch.cat([d.side for d in draws]).bincount(minlength=4)
    expected = 50_000 * SHARES
    assert ((counts - expected) ** 2 / expected).sum() < chi2.ppf(0.9999, 3)
    assert all((d.weight == 1).all() for d in draws)


def test_the_set_is_learned_from_the_sizes_that_were_drawn() -> None:
    sampler = make(visits=6)
    draws = play(sampler, 5)
    rows, _, _ = sampler.recent.contents()
    sizes = torch.cat([SIZES[d.side] for d in draws[-2:]]).float()
    assert sorted(rows[:, -1].tolist()) == sorted(sizes.tolist())
    torch.testing.assert_close(sampler.features.of(torch.arange(N))[:, -1], torch.full((N,), sampler.side.mean))


def test_a_run_resumes_in_the_middle_of_a_round() -> None:
    one, other = make(refresh=4), make(seed=1, refresh=4)
    play(one, 30)
    one.observe(draw := one.draw(), torch.ones(M))
    other.load_state_dict(one.state_dict())
    for a, b in zip(play(one, 20), play(other, 20), strict=True):
        assert torch.equal(a.index, b.index) and torch.equal(a.side, b.side) and torch.equal(a.weight, b.weight)
    assert draw.side is not None


@pytest.mark.parametrize(
    "sizes, shares, names",
    [
        ([0.0, 1.0], [1.0], "both must be"),
        ([], [], "both must be"),
        ([0.0, -1.0], [0.5, 0.5], "not negative"),
        ([0.0, float("inf")], [0.5, 0.5], "finite"),
        ([0.0, 1.0], [0.5, 0.6], "sum to 1"),
        ([0.0, 1.0], [1.5, -0.5], "probabilities"),
    ],
)
def test_bad_sizes_and_shares_are_refused(sizes: list[float], shares: list[float], names: str) -> None:
    with pytest.raises(ValueError, match=names):
        Side(torch.tensor(sizes), torch.tensor(shares))
