"""Draws that are split, short, lost, skipped, late, written into or observed twice: none trains wrongly in silence.

Each test is an instance of a fault that was met in foreign loops.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
import torch

from rais.sampling import RAIS, Draw, NonFiniteNorm, Oracle, Smoothed, Uniform
from rais.sampling.side import Side


def norm_of(index: torch.Tensor) -> torch.Tensor:
    x = (index.float() / 1000).square()
    return x * x + 0.001  # no pow(): it rounds otherwise for a part than for the whole


def run(sampler, steps: int, observe=None) -> list[Draw]:
    draws = []
    for _ in range(steps):
        draw = sampler.draw()
        draws.append(draw)
        (observe or (lambda s, d: s.observe(d, norm_of(d.index))))(sampler, draw)
    return draws


@pytest.mark.filterwarnings("ignore:.*draws were handed out")
@pytest.mark.parametrize("size", [1, 8, 15, 31, 32])
def test_draws_made_by_hand_of_any_size_are_learned_from(size):
    """Micro-batches of 8 out of 32: before, the visits were counted in steps of 32, and RAIS never learned."""
    sampler = RAIS(n=400, m=32, visits=200, seed=0)

    def by_hand(sampler, draw):
        for part, weight in zip(draw.index.split(size), draw.weight.split(size), strict=True):
            sampler.observe(Draw(part, weight), norm_of(part))

    run(sampler, 40, by_hand)
    assert sampler.has_learned and sampler.visited == 40 * 32


@pytest.mark.parametrize("k", [2, 3, 5])
def test_parts_of_a_draw_are_worth_the_whole(k):
    def norms(draw):  # of the time too, else a second visit would tell nothing new
        return norm_of(draw.index) * (1 + draw.ticket % 3)

    def in_parts(sampler, draw):
        for i in range(k):
            part = draw.part(i, k)
            sampler.observe(part, norms(part))

    whole, parts = (RAIS(n=500, m=16, visits=400, refresh=2, seed=0) for _ in range(2))
    as_one = run(whole, 90, lambda sampler, draw: sampler.observe(draw, norms(draw)))
    for a, b in zip(as_one, run(parts, 90, in_parts), strict=True):
        assert torch.equal(a.index, b.index) and torch.equal(a.weight, b.weight)
    assert whole.has_learned and parts.visited == whole.visited
    assert not parts.tickets.held


def test_parts_are_those_of_tensor_split():
    draw = Draw(torch.arange(11), torch.rand(11), torch.arange(11) % 3, ticket=5, mean_norm=2.0)
    for k in (1, 2, 3, 4, 11):
        parts = [draw.part(i, k) for i in range(k)]
        for part, index, side in zip(parts, draw.index.tensor_split(k), draw.side.tensor_split(k), strict=True):
            assert torch.equal(part.index, index) and torch.equal(part.side, side)
            assert part.ticket == 5 and part.mean_norm == 2.0 and part.of == 11
            assert part.first == index[0]
    again = draw.part(1, 2).part(1, 2)
    assert again.index.tolist() == [9, 10] and (again.first, again.of) == (9, 11)
    for i, k in ((0, 0), (2, 2), (-1, 2), (0, 12)):
        with pytest.raises(ValueError, match=rf"part\({i}, {k}\) of a draw of 11 examples"):
            draw.part(i, k)


@pytest.mark.parametrize("lost", ["never observed", "skipped"])
def test_a_minibatch_lost_in_the_first_pass_harms_nobody(lost):
    """Its examples had probability 0 for ever, or the next solve failed with 'include the constant'."""
    sampler = RAIS(n=2000, m=50, visits=1000, seed=0)
    missing = None
    for step in range(80):
        draw = sampler.draw()
        if step == 7:
            missing = draw.index.clone()
            if lost == "skipped":
                sampler.skip(draw)
            continue
        sampler.observe(draw, draw.index % 97 + 1.0)
    assert sampler.has_learned
    p = sampler.probabilities()
    assert (p > 0).all()
    assert (p[missing] > 0.01 / 2000).all()
    if lost == "skipped":
        assert (sampler.features.count[missing] > 0).all()


@pytest.mark.parametrize("kind", ["rais", "smoothed"])
def test_skipped_examples_come_again_within_the_first_pass(kind):
    sampler = RAIS(n=100, m=10, seed=0) if kind == "rais" else Smoothed(n=100, m=10, delta=0.1, seed=0)
    seen = []
    for step in range(11):
        draw = sampler.draw()
        if step == 3:
            sampler.skip(draw.part(1, 2))
            draw = draw.part(0, 2)
        if step == 10:
            break
        sampler.observe(draw, torch.ones(len(draw.index)))
        seen += draw.index.tolist()
    seen += draw.index[:5].tolist()
    assert sorted(seen) == list(range(100))


def test_a_step_that_is_never_observed_does_not_stop_the_learning():
    sampler = RAIS(n=1000, m=32, visits=1000, seed=0)
    for step in range(200):
        draw = sampler.draw()
        if step != 5:
            sampler.observe(draw, torch.ones(32))
    assert sampler.has_learned and (sampler.probabilities() > 0).all()


def test_draws_may_be_observed_in_any_order():
    sampler = RAIS(n=300, m=10, visits=100, seed=0)
    order = np.random.default_rng(0)
    for _ in range(20):
        draws = [sampler.draw() for _ in range(5)]
        for k in order.permutation(5):
            sampler.observe(draws[k], norm_of(draws[k].index))
    assert sampler.has_learned and sampler.visited == 1000


@pytest.mark.parametrize("make", [lambda: RAIS(60, 6, seed=0), lambda: Smoothed(60, 6, delta=0.1, seed=0)])
def test_a_draw_is_observed_once(make):
    sampler, norm = make(), torch.ones(6)
    draw, other, foreign = sampler.draw(), sampler.draw(), make().draw()._replace(ticket=99)
    sampler.observe(draw, norm)
    before = sampler.visited
    for again in (draw, draw.part(0, 2)):
        with pytest.raises(ValueError, match="draw 0 was observed or skipped already"):
            sampler.observe(again, torch.ones(len(again.index)))
    sampler.observe(other.part(1, 3), torch.ones(2))
    for overlapping in (other, other.part(1, 2), other.part(1, 3)):
        with pytest.raises(ValueError, match="of draw 1 were observed or skipped already"):
            sampler.observe(overlapping, torch.ones(len(overlapping.index)))
    with pytest.raises(ValueError, match="draw 99 was never handed out by this sampler, which handed out 2"):
        sampler.observe(foreign, norm)
    with pytest.raises(ValueError, match=r"make parts with draw.part\(i, k\)"):
        sampler.observe(other._replace(index=other.index[:4], weight=other.weight[:4]), torch.ones(4))
    assert sampler.visited == before + 2


def test_many_draws_in_flight_warn_once_and_do_not_pile_up():
    sampler = RAIS(n=100, m=4, visits=40, seed=0)
    with pytest.warns(UserWarning, match="65 draws were handed out and neither observed nor skipped") as caught:
        first = sampler.draw()
        for _ in range(2000):
            sampler.draw()
    assert len(caught) == 1
    assert len(sampler.tickets.held) == 1024
    with pytest.raises(ValueError, match="observed or skipped already"):
        sampler.observe(first, torch.ones(4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(sampler, 60)


@pytest.mark.parametrize("kind", ["uniform", "rais", "rais_spaced", "rais_side", "smoothed", "oracle"])
def test_writing_into_a_draw_changes_nothing_else(kind):
    """`draw.weight[3] = 0` left a bad example out of this step, and out of all later ones."""

    def make():
        return {
            "uniform": lambda: Uniform(100, 10, seed=0),
            "rais": lambda: RAIS(100, 10, visits=50, seed=0),
            "rais_spaced": lambda: RAIS(100, 10, visits=50, draws="spaced", seed=0),
            "rais_side": lambda: RAIS(
                100, 10, visits=50, side=Side(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.5])), seed=0
            ),
            "smoothed": lambda: Smoothed(100, 10, delta=0.1, seed=0),
            "oracle": lambda: Oracle(100, 10, seed=0, measure=lambda: (norm_of(torch.arange(100)), torch.tensor(1.0))),
        }[kind]()

    def careless(sampler, draw):
        norm = norm_of(draw.index)
        draw.weight.zero_()
        draw.index.fill_(3)
        if draw.side is not None:
            draw.side.zero_()
        sampler.observe(draw, norm)
        norm.zero_()

    clean, other = make(), make()
    expected = run(clean, 60)
    found = []
    for _ in range(60):
        draw = other.draw()
        found.append(Draw(draw.index.clone(), draw.weight.clone(), None if draw.side is None else draw.side.clone()))
        careless(other, draw)
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a.index, b.index) and torch.equal(a.weight, b.weight)
        assert a.side is b.side is None or torch.equal(a.side, b.side)
    if kind.startswith("rais"):
        assert clean.has_learned
        for a, b in zip(clean.recent.contents(), other.recent.contents(), strict=True):
            assert torch.equal(a, b)


def test_a_draw_s_tensors_are_of_its_size_alone():
    """A view would drag a whole round through a pipe or into a file."""
    sampler = RAIS(n=100, m=10, visits=50, seed=0)
    for draw in run(sampler, 40):
        assert draw.index.untyped_storage().nbytes() == 80 and draw.weight.untyped_storage().nbytes() == 40


@pytest.mark.parametrize("draws", ["independent", "spaced"])
@pytest.mark.parametrize("steps", [5, 12, 21, 40])
def test_draws_in_flight_survive_a_resume(draws, steps):
    def make(seed):
        return RAIS(n=150, m=8, visits=60, refresh=3, seed=seed, draws=draws)

    one, other = make(0), make(1)
    run(one, steps)
    run(other, 33)
    flying = [one.draw() for _ in range(5)]
    one.observe(flying[2].part(1, 2), norm_of(flying[2].part(1, 2).index))
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    later = []
    for sampler in (one, other):
        for draw in (flying[4], flying[2].part(0, 2), flying[0], flying[3]):
            sampler.observe(draw, norm_of(draw.index))
        sampler.skip(flying[1])
        later.append(run(sampler, 40))
    for a, b in zip(*later, strict=True):
        assert torch.equal(a.index, b.index) and torch.equal(a.weight, b.weight)
        assert a.ticket == b.ticket and a.mean_norm == b.mean_norm


def test_a_state_without_a_copy_is_the_sampler_s_own():
    sampler = RAIS(n=150, m=8, visits=60, seed=0)
    run(sampler, 30)
    own, copied = sampler.state_dict(copy=False), sampler.state_dict()
    for name in ("past", "count", "table", "recent"):
        assert own[name].data_ptr() != copied[name].data_ptr()
    assert own["past"].data_ptr() == sampler.features.past.data_ptr()
    assert set(own) == set(copied)
    assert {"version", "n", "m", "visits", "refresh", "features", "draws"} <= set(own)
    assert all(isinstance(x, torch.Tensor | int | float | str | bool | list | None) for x in own.values())


@pytest.mark.parametrize("draws", ["independent", "spaced"])
@pytest.mark.parametrize("steps", [3, 15, 40])
def test_a_grown_data_set_continues_with_resize(steps, draws):
    def make(n):
        return RAIS(n=n, m=8, visits=40, seed=0, draws=draws)

    sampler = make(100)
    run(sampler, steps)
    state = sampler.state_dict()
    with pytest.raises(ValueError, match="n=100, this sampler has n=130: .*if examples were added, .* resize=True"):
        make(130).load_state_dict(state)
    with pytest.raises(ValueError, match="n=100, this sampler has n=90"):
        make(90).load_state_dict(state, resize=True)
    larger = make(130)
    larger.load_state_dict(state, resize=True)
    assert torch.equal(larger.features.past[:100], sampler.features.past)
    assert (larger.features.count[100:] == 0).all()
    assert larger.features.mean[-1] == 1
    assert larger.has_learned == sampler.has_learned and larger.visited == sampler.visited
    if sampler.has_learned:
        assert torch.equal(larger.robust.table[:100], sampler.robust.table[:100])
        assert larger.probabilities()[100:].unique().numel() == 1
    drawn = torch.cat([draw.index for draw in run(larger, 150)])
    assert set(range(100, 130)) <= set(drawn.tolist())
    assert larger.has_learned
    exact = larger.features.of(torch.arange(130)).double().mean(0)
    torch.testing.assert_close(larger.features.mean, exact, rtol=1e-5, atol=0)


def test_uniform_grows_too():
    sampler = Uniform(20, 5, seed=0)
    seen = run(sampler, 2)
    larger = Uniform(24, 5, seed=1)
    larger.load_state_dict(sampler.state_dict(), resize=True)
    drawn = [d.index for d in seen] + [larger.draw().index for _ in range(3)]
    assert set(torch.cat(drawn).tolist()) >= {20, 21, 22, 23}


def test_seed_or_generator_but_not_both():
    source = torch.Generator().manual_seed(0)
    for make in (Uniform, RAIS):
        with pytest.raises(ValueError, match="give exactly one of them"):
            make(10, 2)
        with pytest.raises(ValueError, match="give exactly one of them"):
            make(10, 2, seed=0, generator=source)
    assert torch.equal(Uniform(50, 50, seed=3).draw().index, Uniform(50, 50, seed=3).draw().index)


def test_norms_whose_squares_overflow_are_refused():
    """The variance of norms above 1.8e19 was infinite in float32."""
    sampler = RAIS(n=40, m=4, visits=8, seed=0)
    with pytest.raises(NonFiniteNorm, match=r"a gradient norm is 3e\+18, .* larger unit"):
        sampler.observe(sampler.draw(), torch.tensor([1.0, 3e18, 1.0, 1.0]))
    for _ in range(60):
        draw = sampler.draw()
        sampler.observe(draw, 1e18 * torch.rand(4))
    assert sampler.has_learned and torch.isfinite(sampler.probabilities()).all()
    assert torch.isfinite(sampler.features.of(torch.arange(40))).all()


def test_the_default_window_is_half_the_training_set_at_most():
    for n, m, visits in ((60_000, 32, 20_000), (10_000, 32, 5_000), (50, 32, 32), (100_000, 32, 20_000)):
        assert RAIS(n, m, seed=0).recent.size == visits


def test_mean_norm_is_the_mean_of_what_is_sampled_in_proportion_to():
    rais, smoothed = RAIS(60, 6, visits=30, seed=0), Smoothed(60, 6, delta=0.1, seed=0)
    for sampler in (rais, smoothed):
        draws = run(sampler, 40)
        assert draws[0].mean_norm is None and isinstance(draws[-1].mean_norm, float)
    draw = rais.draw()
    while rais.round.ahead:
        draw = rais.draw()
    v = rais.robust.table[:60].double()
    assert draw.mean_norm == pytest.approx(v.mean().item(), rel=1e-12)
    torch.testing.assert_close(draw.weight.double(), v.mean() / v[draw.index], rtol=1e-6, atol=0)
    assert smoothed.draw().mean_norm == pytest.approx(norm_of(torch.arange(60)).mean().item(), rel=1e-5)
    assert Uniform(60, 6, seed=0).draw().mean_norm == 1.0
    oracle = Oracle(60, 6, seed=0, measure=lambda: (norm_of(torch.arange(60)), torch.tensor(1.0)))
    assert oracle.draw().mean_norm == pytest.approx(norm_of(torch.arange(60)).mean().item(), rel=1e-6)


def test_uniform_with_replacement():
    sampler = Uniform(50, 10, seed=0, replacement=True)
    draws = [sampler.draw() for _ in range(500)]
    counts = torch.cat([d.index for d in draws]).bincount(minlength=50)
    assert all((d.weight == 1).all() and d.mean_norm == 1.0 for d in draws)
    assert 60 < counts.float().var() < 160  # of independent draws: 98; of permutations: below 1
    with pytest.raises(ValueError, match="replacement=True, this sampler has replacement=False"):
        Uniform(50, 10, seed=0).load_state_dict(sampler.state_dict())


@pytest.mark.parametrize("m", [1024, 4096, 20_000])
def test_large_minibatches_take_no_more_than_their_share_of_memory(m):
    """Repeats were found pairwise: 8 GB at m = 20 000 and eight minibatches a round."""
    sampler = RAIS(n=40_000, m=m, visits=20_000, seed=0)
    for _ in range(9):
        sampler.observe(sampler.draw(), torch.rand(m))
    assert sampler.visited == 9 * m


def test_the_effective_sample_size_is_one_over_the_mean_squared_weight():
    """p = (1/2, 1/4, 1/4): weights 2/3, 4/3, 4/3, E_p[weight²] = mean weight = 10/9; mean weight² would be 4/3."""
    sampler = Oracle(3, 1, seed=0, measure=lambda: (torch.tensor([2.0, 1.0, 1.0]), torch.tensor(1.0)))
    sampler.draw()
    assert sampler.effective_sample_size() == pytest.approx(0.9, rel=1e-6)
