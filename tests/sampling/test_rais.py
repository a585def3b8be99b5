"""RAIS as a whole: when it learns, what a step may touch, and its probabilities against the reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rais.sampling import Draw, rais, reference, uncertainty
from rais.sampling.features import NAMES


def table_of(sampler):
    return torch.ones(sampler.n) if sampler.robust is None else sampler.robust.table[: sampler.n].clone()


def features_of(sampler):
    return sampler.features.of(torch.arange(sampler.n))


TIMES = [(12, 4, 200), (12, 4, 205), (13, 4, 210), (10, 10, 10), (9, 2, 30)]


@pytest.mark.parametrize(("n", "m", "visits"), TIMES)
def test_it_learns_after_one_pass_and_the_visits_and_then_every_period(n, m, visits, make, play):
    sampler = make("rais", n, m, visits=visits)
    first_pass, period = math.ceil(n / m), math.ceil(math.ceil(visits / 10) / m)
    learned_at = []
    for step in range(first_pass + 4 * period):
        before = sampler.c.clone()
        (draw,) = play(sampler, 1, start=step)
        if step < first_pass + period:
            assert draw.weight.tolist() == [1.0] * m
        if not torch.equal(sampler.c, before):
            learned_at.append(step + 1)
    assert learned_at == [first_pass + k * period for k in (1, 2, 3, 4)]


@pytest.mark.parametrize(("n", "m", "visits"), TIMES)
def test_until_then_it_is_uniform_sgd(n, m, visits, make, play):
    steps = math.ceil(n / m) + math.ceil(math.ceil(visits / 10) / m)
    rais, uniform = play(make("rais", n, m, visits=visits), steps), play(make("uniform", n, m), steps)
    for a, b in zip(rais, uniform, strict=True):
        assert torch.equal(a.index, b.index) and torch.equal(a.weight, b.weight)
    stream = torch.cat([draw.index for draw in rais])
    assert torch.equal(stream[:n].sort().values, torch.arange(n))


def test_it_learns_from_the_features_before_each_visit_and_follows_the_reference(make, play):
    n, m = 13, 4
    sampler = make("rais", n, m, visits=40, features=NAMES)
    history, visits = [[] for _ in range(n)], []
    v = np.ones(n)
    for step in range(60):
        np.testing.assert_allclose(sampler.probabilities(), reference.proportional(v), rtol=1e-4)
        before = [[reference.features(past)[name] for name in NAMES] for past in history]
        c_before = sampler.c.clone()
        (draw,) = play(sampler, 1, start=step)
        seen, norm = draw.index.tolist(), play.norms_at(draw.index, step).double().tolist()
        if step >= math.ceil(n / m):
            visits += [(before[i], norm[j], draw.weight[j].item()) for j, i in enumerate(seen)]
        for i in set(seen):
            of_i = [norm[j] for j in range(m) if seen[j] == i]
            history[i].append(sum(of_i) / len(of_i))
        if not sampler.has_learned:
            continue
        S = np.array([[reference.features(past)[name] for name in NAMES] for past in history])
        c, d = sampler.c.numpy(), sampler.d.numpy()
        if not torch.equal(sampler.c, c_before):
            k = 1 / math.sqrt(reference.pt_objective(S, d))
            s, norms, weights = (np.array(x) for x in zip(*visits[-40:], strict=True))
            s, norms, weights = reference.with_one_more_visit(s, norms, weights, NAMES.index("constant"))
            assert reference.pt_constraint(s, norms, weights, c, d) == pytest.approx(1, rel=1e-3)
            np.testing.assert_allclose(reference.robust_norms(S, c, d), S @ c + k * (S @ d), rtol=1e-12)
        v = S @ c + k * (S @ d)
    assert len(visits) > 3 * 40 and v.max() > 3 * v.min()


def test_a_visit_changes_the_weights_of_the_examples_just_seen_alone(make, play):
    n, m = 50, 4
    sampler = make("rais", n, m, visits=80)
    changed_elsewhere, changed = 0, 0
    for step in range(120):
        table, c = table_of(sampler), sampler.c.clone()
        (draw,) = play(sampler, 1, start=step)
        different = table_of(sampler) != table
        if not torch.equal(sampler.c, c):
            continue
        changed += int(different.sum())
        different[draw.index] = False
        changed_elsewhere += int(different.sum())
    assert changed > 100 and changed_elsewhere == 0


class LargestOperation(TorchDispatchMode):
    """The largest tensor that an operation reads or makes whole; views and access by index cost what they touch."""

    BY_INDEX = ("aten::index_select", "aten::index_copy_")

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        if not is_view and func._schema.name not in self.BY_INDEX:
            tensors = [x for x in (*args, result) if isinstance(x, torch.Tensor)]
            self.numel = max([self.numel, *(x.numel() for x in tensors)])
        return result


@pytest.mark.parametrize("kind", ["uniform", "smoothed_0.1", "rais"])
def test_no_step_touches_all_examples(kind, make, play):
    n, m = 4096, 8
    settings = {"visits": 2048, "features": NAMES} if kind == "rais" else {}
    sampler = make(kind, n, m, **settings)
    play(sampler, 512 + 256)
    if kind == "rais":
        sampler.solve_at += 100 * m
    with LargestOperation() as largest:
        play(sampler, 100, start=768)
    assert m <= largest.numel <= 2 * 16 * 12 * m  # a minibatch's features; 64 weights or sums of each example's
    if kind == "rais":
        with LargestOperation() as largest:
            play(sampler, 200, start=868)
        assert largest.numel >= n  # a solve does, of 16 384 examples at most: the counter can see it


def test_constant_features_give_weights_of_exactly_one(make, play):
    sampler = make("rais_constant", 13, 4, visits=12)
    draws = play(sampler, 60)
    assert sampler.has_learned
    assert all(draw.weight.tolist() == [1.0] * 4 for draw in draws)
    assert sampler.probabilities().unique().numel() == 1


@pytest.mark.parametrize(("scale", "tolerance"), [(2.0**20, 0), (2.0**-20, 0), (1000.0, 1e-2)])
def test_scaling_all_norms_leaves_draws_and_weights_unchanged(scale, tolerance, make, play):
    """To the bit by a power of two; else float32 rounds otherwise, and (PT) may stop a sweep earlier or later."""
    one, scaled = (make("rais", 13, 4, visits=40, features=NAMES) for _ in range(2))
    for a, b in zip(play(one, 60), play(scaled, 60, scale=scale), strict=True):
        assert torch.equal(a.index, b.index)
        torch.testing.assert_close(a.weight, b.weight, rtol=tolerance, atol=0)
    torch.testing.assert_close(one.probabilities(), scaled.probabilities(), rtol=tolerance, atol=0)


def test_hard_examples_are_drawn_more_often_and_an_unpredictable_one_is_not_forgotten(make):
    """Norms are 0.01, but 1 for example 0, and 0 or 1 by chance for example 1."""
    sampler, source = make("rais", 40, 8, visits=400, features=NAMES), torch.Generator().manual_seed(5)
    for _ in range(400):
        draw = sampler.draw()
        norm = torch.full((8,), 0.01)
        norm[draw.index == 0] = 1.0
        norm[draw.index == 1] = torch.randint(2, (1,), generator=source).float()
        sampler.observe(draw, norm)
    p = sampler.probabilities()
    assert p[0] > 10 * p[2:].max() and p[1] > 3 * p[2:].max()
    assert (p > 1e-4).all()


def test_different_norms_of_one_example_in_a_minibatch_are_one_visit_with_their_mean(make):
    sampler = make("rais", 8, 4, visits=16, features=("mean_1", "mean_2", "constant"))
    for norm in ([1.0, 3.0, 5.0, 2.0], [6.0, 8.0, 1.0, 1.0]):
        sampler.observe(Draw(torch.tensor([4, 4, 6, 0]), torch.ones(4)), torch.tensor(norm))
    assert features_of(sampler)[4].tolist() == [7.0, 4.5, 1.0]
    assert sampler.features.count.tolist() == [2, 0, 0, 0, 2, 0, 2, 0]


def test_each_solve_starts_from_the_last(make, play, monkeypatch):
    starts, sampler = [], make("rais", 13, 4, visits=40)

    def spy(*args, **settings):
        starts.append((args[-1], sampler.d))
        return uncertainty.learn(*args, **settings)

    monkeypatch.setattr(rais, "learn", spy)
    play(sampler, 13)
    assert starts[0][0] is None and len(starts) == 9
    assert all(start is last for start, last in starts[1:])


def test_norms_that_require_gradients_leave_no_graph(make):
    sampler = make("rais")
    for _ in range(12):
        draw = sampler.draw()
        sampler.observe(draw, torch.rand(3, requires_grad=True) * 2)
    assert not features_of(sampler).requires_grad and not sampler.probabilities().requires_grad


def test_diagnostics_are_the_set_s_center_and_radius(make, play):
    sampler = make("rais", 13, 4, visits=40)
    assert sampler.diagnostics() == {}
    play(sampler, 30)
    S = features_of(sampler).double().numpy()
    found, (c, d) = sampler.diagnostics(), (sampler.c.numpy(), sampler.d.numpy())
    assert found["set_center"] == pytest.approx(np.mean(reference.center(S, c)))
    assert found["set_radius"] == pytest.approx(reference.pt_objective(S, d) ** 0.5)


def test_bad_settings_are_refused(make):
    with pytest.raises(ValueError, match="visits=3 must be at least the minibatch size m=4"):
        make("rais", 13, 4, visits=3)
    with pytest.raises(ValueError, match="expected distinct names"):
        make("rais", features=("constant", "mean_3"))
    with pytest.raises(ValueError, match="'constant' must be among them"):
        make("rais", features=("mean_1", "std_4"))


def test_examples_whose_norms_were_zero_stay_possible(make):
    sampler = make("rais", 8, 4, visits=16, features=NAMES)
    for _ in range(40):
        draw = sampler.draw()
        sampler.observe(Draw(draw.index, draw.weight), (draw.index > 3).float())
    assert (sampler.probabilities() > 0).all()
    for _ in range(40):
        sampler.observe(sampler.draw(), torch.zeros(4))
    assert (sampler.probabilities() > 0).all()
    assert sampler.probabilities().sum().item() == pytest.approx(1)
