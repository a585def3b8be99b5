"""RAIS with several minibatches drawn from one p: what is fixed meanwhile, and what happens at the end of a round."""

from __future__ import annotations

import math

import pytest
import torch

from rais.sampling.features import NAMES


def learned(make, play, refresh: int, n: int = 50, m: int = 4, visits: int = 840):
    sampler = make("rais", n, m, visits=visits, features=NAMES, refresh=refresh)
    steps = math.ceil(n / m) + math.ceil(math.ceil(visits / 10) / m)
    play(sampler, steps)
    assert sampler.has_learned
    return sampler, steps


@pytest.mark.parametrize("refresh", [1, 3, 8])
def test_first_solve_and_the_next_ones_are_on_schedule(refresh: int, make, play) -> None:
    n, m, visits = 50, 4, 831
    sampler = make("rais", n, m, visits=visits, features=NAMES, refresh=refresh)
    solved, c = [], sampler.c.clone()
    for step in range(90):
        play(sampler, 1, start=step)
        if not torch.equal(sampler.c, c):
            solved.append(step + 1)
            c = sampler.c.clone()
    assert solved == [13 + 21, 13 + 2 * 21, 13 + 3 * 21]


def test_p_stays_for_a_round_and_weights_belong_to_it(make, play) -> None:
    sampler, steps = learned(make, play, refresh=3)
    for turn in range(5):
        p = sampler.probabilities().clone()
        for k in range(3):
            assert torch.equal(sampler.probabilities(), p)
            (draw,) = play(sampler, 1, start=steps + 3 * turn + k)
            torch.testing.assert_close(draw.weight.double(), 1 / (sampler.n * p[draw.index]), rtol=1e-6, atol=0)
        assert not torch.equal(sampler.probabilities(), p)


def test_a_round_changes_the_weights_of_the_examples_it_saw_alone(make, play) -> None:
    sampler, steps = learned(make, play, refresh=4)
    before = sampler.robust.table[: sampler.n].clone()
    draws = play(sampler, 4, start=steps)
    different = sampler.robust.table[: sampler.n] != before
    seen = torch.zeros(sampler.n, dtype=torch.bool)
    seen[torch.cat([draw.index for draw in draws])] = True
    assert different.any() and not (different & ~seen).any()


def test_an_example_seen_twice_in_a_round_counts_once_with_its_mean_norm(make) -> None:
    from rais.sampling import Draw

    sampler = make("rais", 8, 2, visits=16, features=("mean_1", "mean_2", "constant"), refresh=2)
    for index, norm in (([0, 1], [1.0, 5.0]), ([1, 2], [7.0, 2.0])):
        sampler.observe(Draw(torch.tensor(index), torch.ones(2)), torch.tensor(norm))
    assert sampler.features.of(torch.arange(3)).tolist() == [[1, 1, 1], [6, 6, 1], [2, 2, 1]]
    assert sampler.features.count.tolist() == [1, 1, 1, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("pause", [0, 1, 5])
def test_state_in_the_middle_of_a_round_continues_to_the_last_bit(pause: int, make, play, tmp_path) -> None:
    sampler, steps = learned(make, play, refresh=6)
    play(sampler, pause, start=steps)
    torch.save(sampler.state_dict(), tmp_path / "state.pt")
    again = make("rais", sampler.n, sampler.m, visits=840, features=NAMES, refresh=6, seed=9)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for a, b in zip(play(sampler, 40, start=steps + pause), play(again, 40, start=steps + pause), strict=True):
        assert torch.equal(a.index, b.index) and torch.equal(a.weight, b.weight)


def test_refresh_out_of_range(make) -> None:
    with pytest.raises(ValueError, match="refresh=0 must be at least 1"):
        make("rais", 8, 2, refresh=0)


def test_a_round_may_hold_more_visits_than_the_set_is_learned_from(make, play) -> None:
    sampler = make("rais", 60, 4, visits=10, features=NAMES, refresh=8)
    play(sampler, 120)
    assert sampler.has_learned and sampler.recent.added > 300
