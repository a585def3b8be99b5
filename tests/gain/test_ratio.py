"""r and its averages against a slow restatement, degenerate cases, and what must never move them."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from gradients import Falling, linear_problem, losses, minibatches
from rais import gain
from rais.sampling import Draw


def average(values: list[np.ndarray], rate: float) -> np.ndarray:
    """Weights ∝ (1−rate)^age, written out."""
    shares = (1 - rate) ** np.arange(len(values) - 1, -1, -1.0)
    return shares @ np.array(values) / shares.sum()


@pytest.mark.parametrize("alpha, every", [(0.01, 1), (0.03, 4), (0.2, 7)])
def test_it_follows_the_slow_restatement(alpha: float, every: int) -> None:
    """Averages from the first importance draw on, in units of mean_norm², ρ the smaller of two, φ by halves."""
    problem, m = Falling(), 6
    adaptive = gain.Adaptive(gain.HalfBatch([problem.w], m=m, alpha=alpha, every=every), alpha=alpha)
    moments, gradients, seen = [], [], set()
    for t in range(400):
        batch = problem.minibatch(m, is_uniform=t < 30)
        r = adaptive.update(batch).item()
        if t < 30:
            assert r == 1.0
            continue
        unit = batch.draw.mean_norm
        v, weight, g = batch.norm.numpy() / unit, batch.draw.weight.numpy(), problem.gradients.numpy() / unit
        moments.append([np.mean(weight * v**2), np.mean((weight * v) ** 2)])
        if (t - 30) % every == 0:
            gradients.append([g[: m // 2].mean(0) @ g[m // 2 :].mean(0), g.mean(0) @ g.mean(0)])
        slow, fast = (average(moments, rate) for rate in (alpha, min(1, 10 * alpha)))
        rhos = slow[0] / slow[1], fast[0] / fast[1]
        full_sq, whole_sq = average(gradients, 1 - (1 - alpha / 3) ** every)
        phi = np.clip(1 - (1 - 1 / m) * full_sq / whole_sq, 1e-3, 1)
        assert r == pytest.approx(1 + phi * (min(rhos) - 1), rel=1e-12)
        assert adaptive.diagnostics() == pytest.approx(
            {"rho": min(rhos), "rho_slow": rhos[0], "rho_fast": rhos[1], "phi": phi}, rel=1e-12
        )
        seen.add(rhos[0] < rhos[1])
    assert seen == {True, False} and 0.01 < phi < 0.99, "one of the two averages never decided"


def test_a_surprise_shortens_the_step_it_is_part_of_and_the_fast_average_forgets_it() -> None:
    adaptive = gain.Adaptive(gain.FromParts([nn.Parameter(torch.ones(1))], m=2))
    weight = torch.tensor([0.5, 2.0])

    def step(*norm: float) -> float:
        draw = Draw(torch.tensor([0, 1]), weight, mean_norm=1.0)
        return adaptive.update(gain.Minibatch(draw, torch.tensor(norm), weight)).item()

    for _ in range(300):
        before = step(2.0, 0.5)
    assert before == pytest.approx(1.25)
    assert step(2.0, 5.0) < 0.7
    for _ in range(100):
        after = step(2.0, 0.5)
    slow, fast = adaptive.rhos.tolist()
    assert after == slow < 1.2 < 1.24 < fast


def test_weights_of_one_give_a_ratio_of_exactly_one() -> None:
    adaptive = None
    g = torch.Generator().manual_seed(0)
    for model, batch, _ in minibatches(6, 200, False):
        adaptive = adaptive or gain.Adaptive(gain.HalfBatch(model.parameters(), m=6, every=4))
        batch = batch._replace(draw=batch.draw._replace(weight=torch.ones(6)), norm=torch.rand(6, generator=g))
        assert adaptive.update(batch).item() == 1.0


@pytest.mark.parametrize("scale", [4.0, 0.3])
def test_scaling_norms_and_what_they_were_foreseen_to_be_leaves_the_ratio_unchanged(scale: float) -> None:
    plain, scaled = None, None
    for model, batch, _ in minibatches(6, 100, True):
        if plain is None:
            plain, scaled = (
                gain.Adaptive(gain.ExactScale(model.parameters(), m=6, model=model, loss=losses)) for _ in range(2)
            )
        r = plain.update(batch).item()
        draw = batch.draw._replace(mean_norm=scale * batch.draw.mean_norm)
        assert scaled.update(batch._replace(norm=scale * batch.norm, draw=draw)).item() == pytest.approx(r, rel=1e-9)
    assert r > 1.02


def test_ratio_with_long_averages_is_that_of_the_enumerated_moments() -> None:
    model, x, _, gradients = linear_problem()
    n, m = len(x), 6
    v = gradients.norm(dim=1)
    p = (v + 0.3) / (v + 0.3).sum()
    full = gradients.mean(0).square().sum()
    uniform, sampled = v.square().mean(), (v.square() / p).sum() / n**2
    truth = (uniform / m + (1 - 1 / m) * full) / (sampled / m + (1 - 1 / m) * full)
    adaptive = None
    for model, batch, _ in minibatches(m, 2500, True):
        adaptive = adaptive or gain.Adaptive(gain.HalfBatch(model.parameters(), m=m, alpha=1e-4), alpha=1e-5)
        r = adaptive.update(batch._replace(norm=v[batch.draw.index]))
    assert r.item() == pytest.approx(truth.item(), rel=0.015)


@pytest.mark.parametrize("where", ["norm", "weighted"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_poisons_nothing(bad: float, where: str) -> None:
    """The same minibatches with and without a spoilt one between them: the same averages."""
    clean, spoilt = Falling(), Falling()
    ratios = []
    for problem in (clean, spoilt):
        adaptive = gain.Adaptive(gain.HalfBatch([problem.w], m=6, every=1))
        for t in range(40):
            batch = problem.minibatch(6)
            if problem is spoilt and t == 20:
                before = adaptive.state_dict()
                if where == "norm":
                    adaptive.update(batch._replace(norm=batch.norm.clone().index_fill_(0, torch.tensor(3), bad)))
                    assert torch.equal(adaptive.moments.sums, before["moments.sums"])
                else:
                    adaptive.update(batch._replace(weighted=batch.weighted * bad))
                    assert torch.equal(adaptive.phi.averages.sums, before["phi.averages.sums"])
            r = adaptive.update(batch)
            assert torch.isfinite(r)
        ratios.append(r.item())
    assert ratios[0] == pytest.approx(ratios[1], rel=1e-1 if where == "weighted" else 1e-2)


def test_nothing_but_spoilt_steps_leaves_a_ratio_of_one() -> None:
    adaptive = gain.Adaptive(gain.FromParts([nn.Parameter(torch.ones(1))], m=2))
    draw = Draw(torch.tensor([0, 1]), torch.tensor([0.5, 2.0]), mean_norm=1.0)
    for norm in ([float("nan"), 1.0], [float("inf"), 1.0], [0.0, 0.0]):
        assert adaptive.update(gain.Minibatch(draw, torch.tensor(norm), torch.ones(2))).item() == 1
    at_rest = gain.Minibatch(draw._replace(mean_norm=0.0), torch.zeros(2), torch.ones(2))
    assert adaptive.update(at_rest).item() == 1


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copied_estimator_follows_its_moments(copied) -> None:
    """One that held views of its averages would say ρ = 1 for ever."""
    adaptive = copied(gain.Adaptive(gain.FromParts([nn.Parameter(torch.zeros(3))], m=32)))
    adaptive.moments.update(torch.tensor([3.0, 2.0]))
    assert adaptive.rho.item() == 1.5


def test_norms_of_another_shape_than_the_weights_are_refused() -> None:
    adaptive = gain.Adaptive(gain.FromParts([nn.Parameter(torch.zeros(3))], m=2))
    draw = Draw(torch.tensor([0, 1]), torch.ones(2), mean_norm=1.0)
    with pytest.raises(ValueError, match=r"norm has shape \(2, 1\).*\(2,\)"):
        adaptive.update(gain.Minibatch(draw, torch.ones(2, 1), torch.ones(2)))
