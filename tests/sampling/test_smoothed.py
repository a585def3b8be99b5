"""Smoothed sampling against its formula, through a whole run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rais.sampling import Draw, Smoothed, reference

N, M = 11, 3


@pytest.mark.parametrize("delta", [0, 0.001, 0.1, 0.3, 1])
def test_probabilities_follow_the_formula(delta, make, play):
    sampler = make(f"smoothed_{delta}", N, M)
    last = np.full(N, np.nan)
    for step in range(40):
        p = sampler.probabilities().numpy()
        if M * step < N:
            np.testing.assert_array_equal(p, np.full(N, 1 / N))
        else:
            np.testing.assert_allclose(p, reference.smoothed(last, delta), rtol=1e-6)
        (draw,) = play(sampler, 1, start=step)
        seen = draw.index.numpy()
        norm = play.norms_at(draw.index, step).double().numpy()
        for i in set(seen.tolist()):
            last[i] = norm[seen == i].mean()


def test_the_first_epoch_is_that_of_uniform_sgd(make, play):
    smoothed, uniform = (play(make(kind, N, M), 4) for kind in ("smoothed_0.1", "uniform"))
    for a, b in zip(smoothed, uniform, strict=True):
        assert torch.equal(a.index, b.index) and a.weight.tolist() == [1.0] * M
    assert torch.cat([draw.index for draw in smoothed]).unique().numel() == N


def test_after_the_first_epoch_draws_are_with_replacement(make, play):
    sampler = make("smoothed_0.1", 4, 4)
    assert any(draw.index.unique().numel() < 4 for draw in play(sampler, 10)[1:])


def test_different_norms_of_one_example_in_a_minibatch_are_averaged(make, play):
    sampler = make("smoothed_0", N, M)
    play(sampler, 5)
    before = sampler.probabilities()
    total = before[0].reciprocal() * sampler.estimates.table[0]
    sampler.observe(Draw(torch.tensor([4, 4, 9]), torch.ones(3)), torch.tensor([1.0, 3.0, 5.0]))
    expected = before * total
    expected[4], expected[9] = 2.0, 5.0
    torch.testing.assert_close(sampler.probabilities(), expected / expected.sum(), rtol=1e-6, atol=0)


def test_an_example_whose_norm_was_zero_stays_possible_without_smoothing(make):
    sampler = make("smoothed_0", 4, 4)
    sampler.observe(Draw(torch.arange(4), torch.ones(4)), torch.tensor([0.0, 1.0, 2.0, 3.0]))
    assert 0 < sampler.probabilities()[0] < 1e-30
    sampler.observe(Draw(torch.arange(4), torch.ones(4)), torch.zeros(4))
    assert sampler.probabilities().tolist() == [0.25] * 4


@pytest.mark.parametrize(("scale", "tolerance"), [(2.0**20, 0), (2.0**-20, 0), (1000.0, 1e-6)])
def test_scaling_all_norms_leaves_draws_and_weights_unchanged(scale, tolerance, make, play):
    one, scaled = make("smoothed_0.1", N, M), make("smoothed_0.1", N, M)
    for a, b in zip(play(one, 60), play(scaled, 60, scale=scale), strict=True):
        assert torch.equal(a.index, b.index)
        torch.testing.assert_close(a.weight, b.weight, rtol=tolerance, atol=0)
    torch.testing.assert_close(one.probabilities(), scaled.probabilities(), rtol=tolerance, atol=0)


def test_delta_one_has_weights_of_one(make, play):
    assert all(draw.weight.tolist() == [1.0] * M for draw in play(make("smoothed_1", N, M), 30))


@pytest.mark.parametrize("delta", [-0.01, 1.01, float("nan")])
def test_delta_must_be_a_share(delta, make):
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
        make(f"smoothed_{delta}")


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_an_example_that_was_never_observed_counts_as_the_mean_of_the_others(unit: float) -> None:
    sampler = Smoothed(12, 3, delta=0.0, seed=0)
    lost = sampler.draw().index  # neither observed nor skipped
    while not sampler.knows_every_example:
        index = torch.tensor([i for i in range(12) if i not in lost.tolist()][:6])
        sampler.observe(Draw(index, torch.ones(6)), unit * (1.0 + index))
    p = sampler.probabilities()
    seen = sampler.estimates.table[:12][p > 0]
    assert p[lost].tolist() == pytest.approx([p[index].mean().item()] * 3, rel=1e-6) and len(seen) == 12


@pytest.mark.parametrize("steps", [2, 8])
def test_a_grown_data_set_continues(steps: int) -> None:
    sampler = Smoothed(12, 3, delta=0.1, seed=0)
    for _ in range(steps):
        draw = sampler.draw()
        sampler.observe(draw, 1.0 + draw.index)
    larger = Smoothed(15, 3, delta=0.1, seed=5)
    larger.load_state_dict(sampler.state_dict(), resize=True)
    for _ in range(10):
        draw = larger.draw()
        larger.observe(draw, 1.0 + draw.index)
        assert draw.index.max() < 15
    assert larger.knows_every_example
    expected = 0.9 * (1.0 + torch.arange(15.0)) / (1.0 + torch.arange(15.0)).sum() + 0.1 / 15
    if steps == 2:  # the new ones came within the first pass
        torch.testing.assert_close(larger.probabilities(), expected.double(), rtol=1e-6, atol=0)
