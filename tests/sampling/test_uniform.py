"""Uniform epochs: every example once, in a new random order each time, with weight exactly 1."""

from __future__ import annotations

import pytest
import torch


@pytest.mark.parametrize(("n", "m"), [(12, 4), (13, 4), (7, 7), (7, 1), (10, 9)])
def test_each_epoch_is_a_permutation(n, m, make):
    sampler = make("uniform", n=n, m=m)
    draws = [sampler.draw() for _ in range(5 * n)]
    assert all(draw.index.shape == (m,) and draw.weight.tolist() == [1.0] * m for draw in draws)
    stream = torch.cat([draw.index for draw in draws])
    epochs = stream[: len(stream) // n * n].view(-1, n)
    for epoch in epochs:
        assert torch.equal(epoch.sort().values, torch.arange(n))
    assert len({tuple(epoch.tolist()) for epoch in epochs}) > 1


def test_the_seed_decides_the_order(make):
    one, same, other = (make("uniform", n=50, m=50, seed=seed).draw().index for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_the_global_generator_is_left_alone(make, play):
    before = torch.get_rng_state()
    for kind in ("uniform", "smoothed_0.1", "rais", "oracle"):
        play(make(kind), 10)
    assert torch.equal(torch.get_rng_state(), before)
