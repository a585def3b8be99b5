"""Evenly spaced draws: against a queue that is served one visit at a time, and what is promised of the long run."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from rais.rng import generator
from rais.sampling import RAIS, reference
from rais.sampling.spaced import LARGEST, Spaced


def spaced(v, spread: float = 0.5) -> Spaced:
    v = torch.as_tensor(v, dtype=torch.float32)
    sampler = Spaced(len(v))
    sampler.set_all(v)
    sampler.spread = spread
    return sampler


def counts(sampler: Spaced, rounds: int, m: int, source: torch.Generator) -> np.ndarray:
    """How often each example was drawn, (rounds, n)."""
    return np.stack([np.bincount(sampler.sample(m, source).numpy(), minlength=sampler.n) for _ in range(rounds)])


@pytest.mark.parametrize(("n", "m"), [(7, 3), (7, 20), (200, 16), (5000, 64)])
def test_it_serves_a_queue(n, m):
    """With U = 1 nothing is random but the order within a round; and v changes on the way."""
    source, random = generator(0, "sampling"), np.random.default_rng(n)
    v = random.gamma(0.5, size=n).astype(np.float32) + np.float32(0.01)
    sampler = spaced(v, spread=0.0)
    sampler._give_phases(source)
    due = sampler.due.tolist()
    for step in range(60):
        expected, due = reference.evenly_spaced(due, v.astype(float), m, lambda: 1.0)
        drawn = sampler.sample(m, source)
        assert sorted(drawn.tolist()) == sorted(expected)
        np.testing.assert_allclose(sampler.due.numpy(), due, rtol=1e-9)
        now = sampler.now.item()
        changed = np.unique(random.integers(n, size=m))
        old = v.copy()
        v[changed] *= random.uniform(0.3, 3, size=len(changed)).astype(np.float32)
        if step % 10 == 9:
            v = v * np.float32(1.5)
            changed = np.arange(n)
            sampler.set_from(0, torch.from_numpy(v))
        else:
            sampler.set(torch.from_numpy(changed), torch.from_numpy(v[changed]))
        for i in changed:
            due[i] = reference.rescaled_due(due[i], now, float(old[i]), float(v[i]))
        np.testing.assert_allclose(sampler.due.numpy(), due, rtol=1e-9)


def test_in_the_long_run_each_example_is_drawn_in_proportion_and_far_more_evenly_than_by_chance():
    n, m, rounds = 300, 20, 3000
    v = np.random.default_rng(1).gamma(0.7, size=n).astype(np.float32) + np.float32(0.02)
    sampler, source = spaced(v), generator(0, "sampling")
    p = reference.proportional(v.astype(float))
    drawn = counts(sampler, rounds, m, source)
    frequency = drawn.sum(0) / (rounds * m)
    often = p * rounds * m > 1000
    np.testing.assert_allclose(frequency[often], p[often], rtol=0.03)
    expected = p * rounds * m
    assert (np.abs(drawn.sum(0) - expected) < 1.5 + 4 * np.sqrt(expected / 12)).all()
    weight = sampler.weight(torch.arange(n)).numpy()
    np.testing.assert_allclose((weight * frequency * n)[often], 1, rtol=0.03)

    blocks = drawn[: rounds // 30 * 30].reshape(-1, 30, n).sum(1)
    by_chance = p * 30 * m  # the variance of a count of independent draws is nearly its mean
    several = by_chance > 3
    assert several.sum() > 20
    assert (blocks.var(0) / by_chance)[several].mean() < 0.2


def test_equal_v_and_equal_waits_are_a_cycle():
    sampler, source = spaced(np.ones(24), spread=0.0), generator(0, "sampling")
    rounds = [sampler.sample(6, source) for _ in range(12)]
    for k in range(4):
        assert rounds[k].sort().values.tolist() == rounds[k + 4].sort().values.tolist()
    assert torch.cat(rounds[:4]).sort().values.tolist() == list(range(24))
    assert rounds[0].tolist() != rounds[4].tolist() or rounds[1].tolist() != rounds[5].tolist()


def test_an_example_that_should_come_several_times_a_round_does():
    sampler, source = spaced([8.0, *[1.0] * 8]), generator(0, "sampling")
    drawn = counts(sampler, 400, 16, source)
    assert drawn[:, 0].mean() == pytest.approx(8, rel=0.01) and drawn[:, 0].var() < 1


def play(sampler: RAIS, steps: int, start: int = 0) -> list:
    draws = []
    for step in range(start, start + steps):
        draw = sampler.draw()
        draws.append(draw)
        noise = torch.frac(torch.sin(12.9898 * draw.index + 78.233 * step) * 43758.5453).abs()
        sampler.observe(draw, (0.05 + (draw.index % 9 == 0)) * (0.5 + noise))
    return draws


@pytest.mark.parametrize("pause", [40, 60, 61, 70, 95])
def test_a_run_resumes_to_the_last_bit(pause):
    def make(seed):
        return RAIS(900, 16, seed=seed, visits=600, refresh=3, draws="spaced")

    one, other = make(0), make(1)
    play(other, 77)
    play(one, pause)
    held = one.draw()
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    for sampler in (one, other):
        sampler.observe(held, torch.ones(16))
    for a, b in zip(play(one, 100, pause), play(other, 100, pause), strict=True):
        assert torch.equal(a.index, b.index) and torch.equal(a.weight, b.weight) and a.mean_norm == b.mean_norm


def test_skipped_visits_come_first_in_the_next_round_each_of_them():
    sampler = RAIS(300, 10, seed=0, visits=100, refresh=1, draws="spaced")
    play(sampler, 40)
    skipped = sampler.draw()
    sampler.skip(skipped)
    assert sorted(sampler.draw().index.tolist()) == sorted(skipped.index.tolist())


def test_an_example_that_was_dropped_several_times_comes_as_often():
    sampler, source = spaced([8.0, *[1.0] * 8]), generator(0, "sampling")
    twin = spaced([8.0, *[1.0] * 8])
    drawn = sampler.sample(16, source)
    twin.sample(16, generator(0, "sampling"))
    assert (drawn == 0).sum() > 4
    sampler.dropped(drawn)
    assert sorted(torch.cat([sampler.sample(10, source), sampler.sample(6, source)]).tolist()) == sorted(drawn.tolist())
    assert torch.equal(sampler.due, twin.due)  # nothing else has changed
    assert len(sampler.owed) == 0


def test_drawn_ahead_and_left_over_at_a_solve_is_still_handed_out():
    sampler = RAIS(300, 10, seed=0, visits=100, refresh=4, draws="spaced")
    play(sampler, 40)
    sampler.draw()
    index, weight = (torch.cat([columns[k] for columns in sampler.round.ahead]) for k in range(2))
    mean_norm = sampler.round.mean_norm
    assert len(index)
    sampler.solve()
    ahead = [sampler.draw() for _ in range(len(index) // 10)]
    assert torch.equal(torch.cat([draw.index for draw in ahead]), index)
    assert torch.equal(torch.cat([draw.weight for draw in ahead]), weight)
    assert all(draw.mean_norm == mean_norm for draw in ahead)


def test_with_solves_and_skips_on_the_way_each_example_is_drawn_as_often_as_its_weights_say():
    sampler, total = RAIS(60, 10, seed=0, visits=100, refresh=4, draws="spaced"), torch.zeros(60, dtype=torch.float64)
    norm = torch.linspace(0.01, 1, 60) ** 2
    steps = 0
    for step in range(4500):
        draw = sampler.draw()
        if step % 5 == 3:
            sampler.skip(draw)
            continue
        sampler.observe(draw, norm[draw.index])
        if step > 500:
            total.index_add_(0, draw.index, draw.weight.double())
            steps += 1
    torch.testing.assert_close(total * 60 / (10 * steps), torch.ones(60, dtype=torch.float64), rtol=0.05, atol=0)


def test_rais_draws_as_often_as_its_weights_say():
    """At fixed v (nothing is observed): weights times frequencies are 1."""
    sampler = RAIS(200, 10, seed=0, visits=100, draws="spaced")
    play(sampler, 60)
    total = torch.zeros(200, dtype=torch.float64)
    for _ in range(4000):
        draw = sampler.draw()
        total.index_add_(0, draw.index, draw.weight.double())
        sampler.tickets.redeem(draw)  # it is given back, unobserved
    torch.testing.assert_close(total / 200, torch.ones(200, dtype=torch.float64), rtol=0.1, atol=0)
    assert (total / 200).mean().item() == pytest.approx(1, rel=1e-3)


def test_too_many_examples_are_refused_by_name():
    with pytest.raises(ValueError, match=r"draws='spaced' .* 10,000,000 .* draws='independent'"):
        Spaced(LARGEST + 1)
    with pytest.raises(ValueError, match="draws='even': choose from independent, spaced"):
        RAIS(100, 10, seed=0, draws="even")
