"""What all samplers share: refusing bad observations, repeated examples, saving and continuing."""

from __future__ import annotations

import io
import math

import pytest
import torch

from rais.sampling import Draw, NonFiniteNorm, Sampler
from rais.sampling.base import is_first, mean_of_repeats

KINDS = ("uniform", "oracle", "smoothed_0", "smoothed_0.1", "rais", "rais_constant")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("m", [0, -1, 8])
def test_a_minibatch_must_fit_the_training_set(kind, m, make):
    with pytest.raises(ValueError, match=f"m={m} must be between 1 and the n=7"):
        make(kind, n=7, m=m)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sampler_that_needs_norms_says_what_it_learns_from_them(kind, make):
    sampler = make(kind)
    assert sampler.needs_norms == (type(sampler)._learn is not Sampler._learn)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_norms_are_refused(kind, bad, make):
    sampler = make(kind)
    with pytest.raises(NonFiniteNorm, match="diverged"):
        sampler.observe(sampler.draw(), torch.tensor([1.0, bad, 1.0]))
    assert issubclass(NonFiniteNorm, ValueError)


@pytest.mark.parametrize("kind", KINDS)
def test_other_bad_observations_are_refused_and_leave_no_trace(kind, make, play):
    sampler = make(kind)
    play(sampler, 6)
    before = sampler.probabilities()
    draw, norm = sampler.draw(), torch.ones(3)
    if kind == "oracle":
        before = sampler.probabilities()
    with pytest.raises(ValueError, match="never negative") as caught:
        sampler.observe(draw, torch.tensor([1.0, -0.5, 1.0]))
    assert not isinstance(caught.value, NonFiniteNorm)
    for index in ([0, 1, 7], [0, -1, 2]):
        with pytest.raises(ValueError, match=r"outside 0 … 6"):
            sampler.observe(Draw(torch.tensor(index), draw.weight), norm)
    for shape in ((2,), (4,), (3, 1), ()):
        with pytest.raises(ValueError, match="norm has shape"):
            sampler.observe(draw, torch.ones(shape))
    assert torch.equal(sampler.probabilities(), before)


def test_mean_of_repeats():
    index = torch.tensor([4, 2, 4, 9, 2, 4])
    value = torch.tensor([1.0, 10.0, 2.0, 7.0, 20.0, 6.0])
    ascending, where, mean = mean_of_repeats(index, value)
    assert torch.equal(ascending[where], index)
    once = is_first(ascending)  # tensor operations keep the repeats
    assert ascending[once].tolist() == [2, 4, 9] and mean[once].tolist() == [15.0, 3.0, 7.0]
    assert mean[where].tolist() == [3.0, 15.0, 3.0, 7.0, 15.0, 3.0] and mean.dtype == torch.float64


@pytest.mark.parametrize("m", [33, 128, 100_000])
def test_means_of_repeats_do_not_depend_on_the_order(m):
    source = torch.Generator().manual_seed(m)
    index, value = torch.randint(m // 4, (m,), generator=source), torch.rand(m, generator=source)
    expected = mean_of_repeats(index, value)
    for _ in range(5):
        order = torch.randperm(m, generator=source)
        distinct, _, mean = mean_of_repeats(index[order], value[order])
        assert torch.equal(distinct, expected[0]) and torch.equal(mean, expected[2])


def saved(sampler):
    """The state after a trip through a file, read without unpickling objects."""
    file = io.BytesIO()
    torch.save(sampler.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_same_draws(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.index, b.index) and torch.equal(a.weight, b.weight)


@pytest.mark.parametrize("steps", [0, 1, 5, 6, 7, 10, 23])
@pytest.mark.parametrize("kind", KINDS)
def test_a_new_sampler_continues_a_saved_one_to_the_bit(kind, steps, make, play):
    sampler, other = make(kind, n=13), make(kind, n=13, seed=99)
    play(other, 31)
    fresh = make(kind, n=13, seed=98)
    play(sampler, steps)
    state = saved(sampler)
    expected = play(sampler, 25, start=steps)
    for continued in (fresh, other, sampler):
        continued.load_state_dict(state)
        assert_same_draws(play(continued, 25, start=steps), expected)
        assert torch.equal(continued.probabilities(), sampler.probabilities())


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_is_a_copy(kind, make, play):
    sampler = make(kind, n=13)
    play(sampler, 10)
    state = sampler.state_dict()
    expected = play(sampler, 25, start=10)
    for _ in range(2):
        sampler.load_state_dict(state)
        assert_same_draws(play(sampler, 25, start=10), expected)


@pytest.mark.parametrize(
    ("saved_kind", "kind"), [("uniform", "rais"), ("rais", "smoothed_0.1"), ("smoothed_0.1", "uniform")]
)
def test_the_state_of_another_kind_is_refused(saved_kind, kind, make):
    with pytest.raises(ValueError, match="has kind=.*build the sampler with kind="):
        make(kind).load_state_dict(make(saved_kind).state_dict())


@pytest.mark.parametrize("kind", ["uniform", "smoothed_0.1", "rais"])
def test_the_state_of_another_training_set_is_refused(kind, make):
    for n in (12, 14, 26):
        with pytest.raises(ValueError, match="saved"):
            make(kind, n=13).load_state_dict(make(kind, n=n).state_dict())


def test_the_state_of_other_settings_is_refused_with_both_values_named(make):
    sampler = make("rais", features=("mean_1", "constant"))
    others = {"features": ("mean_2", "constant"), "visits": 7, "refresh": 3, "draws": "spaced", "m": 2}
    for name, value in others.items():
        settings = {"features": ("mean_1", "constant")} | {name: value}
        other = make("rais", **settings)
        with pytest.raises(ValueError, match=f"the saved state has {name}=.*, this sampler has {name}=.*: build the"):
            sampler.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match="delta=0.1, this sampler has delta=0.2"):
        make("smoothed_0.2").load_state_dict(make("smoothed_0.1").state_dict())
    old = {**sampler.state_dict(), "version": 1}
    with pytest.raises(ValueError, match=r"version=1, this sampler has version=\d+: start anew"):
        sampler.load_state_dict(old)


def damaged(state, name):
    """`state` with its entry `name` cut short, out of range, of another dtype, or missing."""
    value = state[name]
    yield {key: x for key, x in state.items() if key != name}
    if isinstance(value, torch.Tensor) and value.numel() > 1:
        yield {**state, name: value[..., :-1]}
        yield {**state, name: value.to(torch.float16)}
        if value.dtype == torch.int64:
            yield {**state, name: value.clamp_min(state["n"])}
            yield {**state, name: value - state["n"]}


@pytest.mark.parametrize("draws", ["independent", "spaced"])
def test_a_damaged_state_is_refused_before_anything_is_overwritten(draws, make, play):
    saver, sampler = make("rais", n=13, draws=draws), make("rais", n=13, draws=draws, seed=3)
    play(saver, 20)
    play(sampler, 33)
    for one in (saver, sampler):
        one.draw()  # in flight
    state, before = saver.state_dict(), sampler.state_dict()
    assert {"past", "held_index", "table"} <= set(state)
    for name in state:
        for bad in damaged(state, name):
            with pytest.raises(ValueError, match=r"saved|state"):
                sampler.load_state_dict(bad)
        assert_equal_states(sampler.state_dict(), before)


def assert_equal_states(one, other):
    assert set(one) == set(other)
    for name, value in one.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, other[name], rtol=0, atol=0, equal_nan=True)
        else:
            assert value == other[name], name
